"""Training on a base in 8 bits: the same numbers as on its unpacked twin, and about half the memory."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from graft.training.files.fingerprint import fingerprint
from graft.training.files.held import Held, HeldWeights, held_on_request, stored_of
from graft.training.live_tensors import LiveTensors
from graft.training.models.flux import Flux
from graft.training.models.flux_controlnet import build_controlnet
from graft.training.models.held_linear import HeldLinear, weights_of
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.lora import LoraRecipe
from torch import Tensor

AXES = (8, 12, 12)
QKV = "double_blocks.0.img_attn.qkv.weight"


def bases(tiny_base: LoadedBase, form: str) -> tuple[LoadedBase, LoadedBase]:
    """The tiny base in 8 bits, and the same numbers in BF16."""
    held = held_on_request(tiny_base.model.state_dict(), form)
    plain = {name: held[name] for name in held}
    return LoadedBase(Flux.from_weights(held, AXES), "held"), LoadedBase(Flux.from_weights(plain, AXES), "plain")


def test_a_transformer_takes_its_weights_as_they_are_held(tiny_base):
    held, plain = (base.model for base in bases(tiny_base, "int8"))
    layers = [module for module in held.modules() if isinstance(module, HeldLinear)]
    assert len(layers) == 13 and not any(isinstance(module, HeldLinear) for module in plain.modules())
    assert {name for name, _ in plain.named_parameters()} - {name for name, _ in held.named_parameters()} == {
        name for name, value in stored_of(weights_of(held)).items() if isinstance(value, Held)
    }
    assert fingerprint(weights_of(held)) == fingerprint(plain.state_dict()) and isinstance(weights_of(held), HeldWeights)
    assert list(weights_of(held)) == list(weights_of(plain)) == list(plain.state_dict())


def test_missing_unexpected_and_misshapen_weights_are_named_for_held_bases_too(tiny_base):
    from graft.training.errors import InputError

    stored = dict(stored_of(held_on_request(tiny_base.model.state_dict(), "int8")))
    stored[QKV] = Held(torch.zeros(3, 32, dtype=torch.int8))
    wrong = {name: value for name, value in stored.items() if name != "img_in.bias"} | {"double_blocks.0.stranger.weight": stored[QKV]}
    with pytest.raises(InputError) as caught:
        Flux.from_weights(HeldWeights(wrong, {name: tuple(value.shape) for name, value in wrong.items()}), AXES)
    said = str(caught.value)
    assert "missing img_in.bias" in said and "unexpected double_blocks.0.stranger.weight" in said and f"{QKV} is (3, 32)" in said


RECIPES = {
    "lora": LoraRecipe(rank=4, layers="all_linears", dropout=0.2, seed=1),
    "dora": LoraRecipe(rank=4, layers="attention", dora=True, seed=1),
}


@pytest.mark.parametrize("kind", ["controlnet", *RECIPES])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_training_on_8_bits_gives_the_numbers_of_the_unpacked_base(kind, compute, tiny_base, tiny_train, tiny_settings, tiny_data_in, tmp_path):
    changes = {} if kind == "controlnet" else {"recipe": RECIPES[kind], "data": tiny_data_in(tmp_path / "pictures", "none")}
    form = "int8" if compute == "fp32" else "fp8 e4m3fn"
    settings = tiny_settings(compute=compute, checkpointing=compute == "bf16")
    held, plain = (tiny_train(3, settings, **{**changes, "base": base}) for base in bases(tiny_base, form))
    ours, theirs = held.weights(), plain.weights()
    assert list(ours) == list(theirs) and fingerprint(ours) == fingerprint(theirs) and held.initial_fingerprint == plain.initial_fingerprint
    assert [record.loss for record in held.history().steps] == [record.loss for record in plain.history().steps]
    assert held.folder != plain.folder and fingerprint(held.weights()) != held.initial_fingerprint


def test_a_controlnet_begins_with_unpacked_copies_of_the_blocks(tiny_base):
    held, plain = (base.model for base in bases(tiny_base, "fp8 e4m3fn"))
    ours, theirs = (build_controlnet(base, "xlabs", 1, 1, seed=4).state_dict() for base in (held, plain))
    assert fingerprint(ours) == fingerprint(theirs) and ours[QKV].dtype == torch.float32 and QKV in ours


def test_the_given_base_is_left_as_it_is(tiny_base, tiny_train, tiny_settings):
    base, _ = bases(tiny_base, "int8")
    before = fingerprint(weights_of(base.model))
    tiny_train(2, tiny_settings(compute="bf16"), base=base)
    assert fingerprint(weights_of(base.model)) == before and not any(parameter.requires_grad for parameter in base.model.parameters())


# ---------------------------------------------------------------- memory


def test_live_tensors_are_counted_while_they_live_and_views_once():
    with LiveTensors() as memory:
        first = torch.zeros(1000)
        second = first.view(10, 100)[2:]
        assert memory.now_bytes == 4000
        third = (first + 1) * 2
        assert (memory.now_bytes, memory.peak_bytes) == (8000, 12000)
        del first
        assert memory.now_bytes == 8000, "a view keeps it"
        del second, third
    assert (memory.now_bytes, memory.peak_bytes) == (0, 12000)


@pytest.mark.slow
def test_a_step_takes_about_half_the_memory():
    from graft.training.bench_base8 import SMALL, peak_bytes

    plain, held = (peak_bytes(SMALL, form, torch.device("cpu")) for form in (None, "int8"))
    assert held / plain <= 0.55
    weights: Mapping[str, Tensor] = dict(SMALL.random_weights(torch.device("cpu")))
    assert plain > sum(tensor.nbytes for tensor in weights.values()), "the measure sees the base itself"

"""LoRAs through the same engine as ControlNets: resumed bit for bit, measured, guarded, exported, used on another base."""

from __future__ import annotations

import json

import pytest
import torch
from graft.training import __version__
from graft.training.errors import InputError
from graft.training.export_lora import UsedOn, exported_lora, tensors_for_use, write_lora
from graft.training.files.fingerprint import fingerprint
from graft.training.files.header import read_header
from graft.training.files.identify import identify
from graft.training.files.lora_apply import with_lora
from graft.training.files.lora_read import read_lora
from graft.training.guard import NonFiniteError
from graft.training.report import training_report
from graft.training.store import RunStore
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.lora import LoraRecipe

RECIPE = LoraRecipe(rank=4, alpha=3.0, layers="all_linears", dropout=0.2, seed=1)


@pytest.fixture
def lora_train(tiny_train, tiny_data_in, tmp_path):
    """`tiny_train` with a LoRA on pictures and captions alone."""
    data = tiny_data_in(tmp_path / "pictures", "none")
    return lambda steps, settings=None, **changes: tiny_train(steps, settings, **{"recipe": RECIPE, "data": data, **changes})


def shapes_of(base: LoadedBase) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in base.model.state_dict().items()}


def used_on(base: LoadedBase) -> UsedOn:
    return UsedOn(base.model.state_dict(), base.fingerprint, base.name)


@pytest.mark.parametrize("dora", [False, True])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(dora, lora_train, tiny_settings, stop_at, tmp_path):
    settings, recipe = tiny_settings(ema_decay=0.9, accumulation=2), LoraRecipe(rank=2, dropout=0.3, dora=dora)
    straight = lora_train(4, settings, recipe=recipe, store=RunStore(tmp_path / "straight"))
    stop = stop_at(2)
    with pytest.raises(stop.Stop):
        lora_train(4, settings, recipe=recipe, progress=stop)
    resumed = lora_train(1, settings, recipe=recipe, previous=lora_train(3, settings, recipe=recipe))
    for part in ("weights", "optimiser", "ema"):
        assert fingerprint(resumed.checkpoint.read(part)) == fingerprint(straight.checkpoint.read(part)), part
    assert [record.loss for record in resumed.history().steps] == [record.loss for record in straight.history().steps]
    assert fingerprint(resumed.weights()) != resumed.initial_fingerprint


def test_dropout_changes_the_training_and_not_what_is_measured(lora_train, tiny_settings):
    plain, dropped = (lora_train(2, recipe=LoraRecipe(rank=4, dropout=share)) for share in (0.0, 0.5))
    assert fingerprint(plain.weights()) != fingerprint(dropped.weights())
    before = [state.history().held_out[0].held_out for state in (plain, dropped)]
    assert before[0] == before[1], "at the start both are the base"


def test_it_trains_in_bf16_and_leaves_the_base_alone(lora_train, tiny_settings, tiny_base):
    state = lora_train(2, tiny_settings(compute="bf16", checkpointing=True), recipe=LoraRecipe(rank=4))
    assert fingerprint(tiny_base.model.state_dict()) == tiny_base.fingerprint
    assert {tensor.dtype for tensor in state.weights().values()} == {torch.float32}
    assert torch.isfinite(torch.tensor([record.loss for record in state.history().steps])).all()


def test_it_learns(lora_train, tiny_settings):
    state = lora_train(40, tiny_settings(learning_rate=1e-2, shape="constant", batch_size=8), recipe=LoraRecipe(rank=8, layers="all_linears"))
    report = training_report(state)
    assert report["held_out_loss_after"] < 0.9 * report["held_out_loss_before"] and report["weights_changed"]


def test_a_broken_adapter_is_not_taken_for_a_broken_base(lora_train, monkeypatch):
    from graft.training.trainable import lora

    fresh = lora.LoraRecipe._fresh

    def broken(self, weights, shapes):
        adapters = fresh(self, weights, shapes)
        next(iter(adapters.values())).up[0, 0] = float("inf")
        return adapters

    monkeypatch.setattr(lora.LoraRecipe, "_fresh", broken)
    with pytest.raises(NonFiniteError) as caught:
        lora_train(1)
    assert caught.value.tensor == "the trained img_in.lora_B.weight"


# ---------------------------------------------------------------- files


def test_the_file_gives_what_the_graph_gives(lora_train, tiny_base, tmp_path):
    state = lora_train(3)
    in_graph = with_lora(tiny_base.model.state_dict(), tensors_for_use(state, "trained", used_on(tiny_base)), 0.7)
    for format in ("kohya", "comfyui"):
        write_lora(exported_lora(state, format=format), tmp_path / f"{format}.safetensors")
        adapters = read_lora(tmp_path / f"{format}.safetensors", shapes_of(tiny_base)).adapters
        assert len(adapters) == sum(name.endswith(".alpha") for name in state.weights())
        for layer, adapter in adapters.items():
            weight = tiny_base.model.state_dict()[f"{layer}.weight"]
            expected = (weight.float() + 0.7 * (3 / 4) * (adapter.up.float() @ adapter.down.float())).to(weight.dtype)
            assert torch.equal(in_graph[f"{layer}.weight"], expected), layer
    changed = {name for name, tensor in in_graph.items() if not torch.equal(tensor, tiny_base.model.state_dict()[name])}
    assert changed <= {f"{layer}.weight" for layer in adapters} and len(changed) > 10


def test_the_header_says_what_lora_users_expect(lora_train, tiny_settings, tiny_base, tmp_path):
    named = LoadedBase(tiny_base.model, tiny_base.fingerprint, "flux-dev2pro.safetensors")
    state = lora_train(2, tiny_settings(logit_mean=0.5), base=named)
    other = LoadedBase(tiny_base.model, "f" * 64, "flux1-dev.safetensors")
    write_lora(exported_lora(state, title="shapes", used_on=used_on(other)), tmp_path / "lora.safetensors")
    header = read_header(tmp_path / "lora.safetensors")
    said = header.metadata
    expected = {
        "ss_network_module": "networks.lora_flux", "ss_network_dim": "4", "ss_network_alpha": "3.0", "ss_base_model_version": "flux1",
        "ss_guidance_scale": "1.0", "ss_timestep_sampling": "shift", "ss_steps": "2", "ss_seed": "7", "ss_resolution": "(32, 32)",
        "ss_network_dropout": "0.2", "ss_model_prediction_type": "raw", "modelspec.architecture": "flux-1-dev/lora", "modelspec.title": "shapes",
        "graft.base_fingerprint": tiny_base.fingerprint, "graft.used_on_fingerprint": "f" * 64, "graft.steps": "2", "graft.version": __version__,
        "ss_sd_model_name": "flux-dev2pro.safetensors", "graft.base_name": "flux-dev2pro.safetensors", "graft.used_on_name": "flux1-dev.safetensors",
        "modelspec.description": "Trained on flux-dev2pro.safetensors. To be used on flux1-dev.safetensors.",
    }  # fmt: skip
    assert {name: said[name] for name in expected} == expected
    assert float(said["ss_discrete_flow_shift"]) == pytest.approx(1.6487, rel=1e-4)
    assert json.loads(said["graft.recipe"])["guidance"] == 1.0
    found = identify(header)
    assert (found.kind, found.architecture, found.layout) == ("lora", "flux", "Kohya")
    alphas = [info for name, info in header.tensors.items() if name.endswith(".alpha")]
    assert alphas and all((info.dtype, info.shape) == ("F32", ()) for info in alphas)


def test_a_base_s_name_is_noted_and_changes_nothing(lora_train, tiny_base):
    state = lora_train(1)
    renamed = lora_train(1, base=LoadedBase(tiny_base.model, tiny_base.fingerprint, "renamed.safetensors"))
    assert renamed == state and training_report(state)["base_name"] == ""
    assert not {"ss_sd_model_name", "graft.base_name", "graft.used_on_name", "modelspec.description"} & set(exported_lora(state).metadata)
    same = exported_lora(state, used_on=UsedOn(tiny_base.model.state_dict(), tiny_base.fingerprint, "flux1-dev.safetensors")).metadata
    assert same["modelspec.description"] == "To be used on flux1-dev.safetensors."


def test_training_goes_on_from_a_file(lora_train, tiny_base, tmp_path):
    first = lora_train(2)
    write_lora(exported_lora(first), tmp_path / "first.safetensors")
    recipe = LoraRecipe(from_file=tmp_path / "first.safetensors")
    second = lora_train(1, recipe=recipe)
    exported, held_out = exported_lora(second), second.history().held_out
    assert exported.metadata["ss_network_dim"] == "4" and exported.metadata["ss_network_alpha"] == "3.0"
    assert held_out[0].held_out == pytest.approx(first.history().held_out[-1].held_out, rel=1e-3), "where the other one ended, but for BF16"
    assert recipe.described(shapes_of(tiny_base))[0].parameters == sum(t.numel() for n, t in first.weights().items() if not n.endswith(".alpha"))


def test_rslora_s_scale_is_in_the_file(lora_train):
    state = lora_train(1, recipe=LoraRecipe(rank=4, alpha=3.0, rslora=True))
    alphas = {float(tensor) for name, tensor in exported_lora(state).weights.items() if name.endswith(".alpha")}
    assert alphas == {6.0}  # 6 / 4 = 3 / sqrt(4)


# ---------------------------------------------------------------- DoRA, other bases, refusals


def test_dora_in_the_graph_is_peft_s_rule_on_that_base(lora_train, tiny_base):
    state = lora_train(3, recipe=LoraRecipe(rank=4, dora=True))
    tensors = tensors_for_use(state, "trained", used_on(tiny_base))
    patched, weights = with_lora(tiny_base.model.state_dict(), tensors, 1.0), state.weights()
    layer = "double_blocks.0.img_attn.qkv"
    old = tiny_base.model.state_dict()[f"{layer}.weight"].float()
    direction = old + 4.0 * weights[f"{layer}.lora_B.weight"] @ weights[f"{layer}.lora_A.weight"]  # alpha 16, rank 4
    expected = weights[f"{layer}.lora_magnitude_vector.weight"][:, None] * torch.nn.functional.normalize(direction, dim=1)
    assert torch.allclose(patched[f"{layer}.weight"].float(), expected, rtol=0.01) and not torch.equal(old.bfloat16(), patched[f"{layer}.weight"])
    for format in ("kohya", "comfyui"):
        with pytest.raises(InputError, match="divide by the length of the base's weights alone"):
            exported_lora(state, format=format)
    assert len(exported_lora(state, format="difference", used_on=used_on(tiny_base)).weights) == len(tensors)
    with pytest.raises(InputError, match="Connect the transformer"):
        exported_lora(state, format="difference")


def test_a_plain_lora_is_extracted_from_a_dora_and_its_error_is_told(lora_train, tiny_base, tmp_path):
    state = lora_train(3, recipe=LoraRecipe(rank=4, dora=True))
    layer, low = "double_blocks.0.img_attn.qkv", []
    change = exported_lora(state, format="difference", dtype=torch.float32, used_on=used_on(tiny_base)).weights[f"diffusion_model.{layer}.diff"]
    for rank in (0, 32):
        exported = exported_lora(state, format="extracted", dtype=torch.float32, used_on=used_on(tiny_base), extracted_rank=rank)
        write_lora(exported, tmp_path / f"{rank}.safetensors")
        adapter = read_lora(tmp_path / f"{rank}.safetensors", shapes_of(tiny_base)).adapters[layer]
        low.append(float((change - adapter.scale * adapter.product()).norm() / change.norm()))
        said = read_header(tmp_path / f"{rank}.safetensors").metadata
        assert adapter.rank == (rank or 8) and said["ss_network_dim"] == str(adapter.rank) and "of the change" in said["graft.extracted"]
        assert any("Extracted" in note for note in exported.notes) and identify(read_header(tmp_path / f"{rank}.safetensors")).layout == "Kohya"
    assert low[1] < 1e-3 < low[0] < 0.9 and float(said["graft.extraction_error"]) < 1e-3, "32 is the whole rank of these layers"
    with pytest.raises(InputError, match="Connect the transformer"):
        exported_lora(state, format="extracted")
    with pytest.raises(InputError, match=r"diffusers, difference or extracted for a DoRA"):
        exported_lora(state)


def test_the_workflow_goes_into_the_header_if_it_is_given(lora_train, tmp_path):
    state, workflow = lora_train(1), {"nodes": [{"id": 1, "type": "GraftTrainSteps"}], "version": 0.4}
    write_lora(exported_lora(state, workflow=workflow), tmp_path / "lora.safetensors")
    assert json.loads(read_header(tmp_path / "lora.safetensors").metadata["workflow"]) == workflow
    assert "workflow" not in exported_lora(state).metadata


def test_what_does_not_fit_is_refused(lora_train, tiny_train, tiny_base):
    state, control_net = lora_train(1), tiny_train(1)
    with pytest.raises(InputError, match="a trained LoRA; found a trained controlnet"):
        exported_lora(control_net)
    with pytest.raises(InputError, match="LoRA format"):
        exported_lora(state, format="gguf")
    with pytest.raises(InputError, match="running average"):
        exported_lora(state, "average")
    weights = {name: tensor for name, tensor in tiny_base.model.state_dict().items() if name != "single_blocks.0.linear1.weight"}
    with pytest.raises(InputError, match=r"single_blocks\.0\.linear1 .* no such layer"):
        tensors_for_use(state, "trained", UsedOn(weights, "0" * 64))

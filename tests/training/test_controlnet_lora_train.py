"""A LoRA on a ControlNet file through the whole engine: trained, found again, merged, exported, trained further."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from graft.training.catalogue import kind_of
from graft.training.errors import InputError
from graft.training.export import exported_control_net, write_control_net
from graft.training.export_controlnet_lora import exported_controlnet_lora
from graft.training.export_lora import exported_lora, write_lora
from graft.training.files.fingerprint import fingerprint
from graft.training.files.header import read_header
from graft.training.files.identify import identify
from graft.training.files.lora_read import read_lora
from graft.training.files.tensors import read_tensors
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.controlnet_export import exported_tensors
from graft.training.trainable.controlnet_import import load_controlnet_file
from graft.training.trainable.controlnet_lora import ControlNetLoraRecipe
from graft.training.trainable.lora import LoraRecipe
from graft.training.weights import own_module


@pytest.fixture
def base() -> LoadedBase:
    """Heads of 128, which ControlNet files are read with."""
    torch.manual_seed(0)
    config = FluxConfig(
        hidden_size=128, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=8, vector_width=8, mlp_width=512, guidance=True
    )
    model = Flux(config).requires_grad_(False)
    return LoadedBase(model, fingerprint(model.state_dict()))


@pytest.fixture
def recipe(base: LoadedBase, tmp_path: Path) -> ControlNetLoraRecipe:
    module = ControlNetRecipe(layout="xlabs", double_depth=1).build(base.model).module
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        module.controlnet_blocks[0].weight.copy_(0.1 * torch.randn(128, 128, generator=generator))
    write_safetensors(tmp_path / "net.safetensors", exported_tensors(module, "xlabs")[0])
    return ControlNetLoraRecipe(controlnet=tmp_path / "net.safetensors", adapters=LoraRecipe(rank=4, dropout=0.1))


def test_it_is_trained_merged_and_exported(base, recipe, tiny_train, tmp_path):
    state = tiny_train(2, base=base, recipe=recipe)
    assert tiny_train(2, base=base, recipe=recipe).key == state.key
    further = tiny_train(1, base=base, recipe=recipe, previous=state)
    assert further.step == 3 and further.run_key == state.run_key and fingerprint(base.model.state_dict()) == base.fingerprint
    assert all(".lora_" in name or name.endswith(".alpha") for name in state.weights()), "the ControlNet itself is not stored again"
    exported = exported_control_net(state, title="mine")
    write_control_net(exported, tmp_path / "merged.safetensors")
    before, after = (load_controlnet_file(tmp_path / f"{name}.safetensors").weights for name in ("net", "merged"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {name.replace(".lora_B.weight", ".weight") for name in state.weights() if name.endswith(".lora_B.weight")}
    assert before.keys() == after.keys() and changed and changed <= adapted
    said = read_header(tmp_path / "merged.safetensors").metadata
    assert json.loads(said["graft.merged_lora"])["rank"] == 4 and said["graft.controlnet_fingerprint"] == fingerprint(before)
    assert said["modelspec.architecture"] == "flux-1-dev/controlnet" and said["graft.base_fingerprint"] == base.fingerprint
    assert kind_of(state.inputs()["recipe"]) == "controlnet_lora xlabs 1+0 rank 4"


def test_its_adapters_are_written_alone_and_trained_further(base, recipe, tiny_train, tmp_path):
    first = tiny_train(2, base=LoadedBase(base.model, base.fingerprint, "flux1-dev.safetensors"), recipe=recipe)
    write_lora(exported_controlnet_lora(first, title="mine_lora"), tmp_path / "lora.safetensors")
    again = ControlNetLoraRecipe(controlnet=recipe.controlnet, adapters=LoraRecipe(from_file=tmp_path / "lora.safetensors"))
    second = tiny_train(1, base=base, recipe=again)
    before, after = first.history().held_out[-1].held_out, second.history().held_out[0].held_out
    assert after == pytest.approx(before, rel=1e-3), "where the other one ended, but for BF16"
    assert again.extent == recipe.extent and again.notes == () and second.inputs()["recipe"]["weights"]
    header = read_header(tmp_path / "lora.safetensors")
    said, found = header.metadata, identify(header)
    assert (found.kind, found.architecture, found.layout, found.sizes["rank"]) == ("lora", "flux", "Graft's ControlNet LoRA", 4)
    assert said["modelspec.architecture"] == "flux-1-dev/controlnet-lora" and said["ss_network_dim"] == "4" and said["graft.steps"] == "2"
    assert said["graft.controlnet_name"] == "net.safetensors" and said["graft.base_name"] == "flux1-dev.safetensors"


def test_a_round_trip_in_fp32_is_exact_and_another_controlnet_is_told(base, recipe, tiny_train, tmp_path):
    state = tiny_train(1, base=base, recipe=recipe)
    write_lora(exported_controlnet_lora(state, dtype=torch.float32), tmp_path / "lora.safetensors")
    loaded = load_controlnet_file(recipe.controlnet).weights
    write_safetensors(tmp_path / "other.safetensors", {name: tensor * 1.5 for name, tensor in loaded.items()})
    other = ControlNetLoraRecipe(controlnet=tmp_path / "other.safetensors", adapters=LoraRecipe(from_file=tmp_path / "lora.safetensors"))
    trainable = other.build(own_module(base.model))
    weights = state.weights()
    assert {name: torch.equal(tensor, weights[name]) for name, tensor in trainable.module.state_dict().items()} == dict.fromkeys(weights, True)
    (note,) = other.notes
    assert "another ControlNet of the same sizes (net.safetensors, " in note and note in trainable.module.notes


def test_a_file_that_is_none_for_this_controlnet_is_refused(base, recipe, tiny_train, tmp_path):
    path, wrong = tmp_path / "lora.safetensors", tmp_path / "wrong.safetensors"
    write_lora(exported_controlnet_lora(tiny_train(1, base=base, recipe=recipe)), path)
    tensors, shapes = read_tensors(path), {name: tuple(tensor.shape) for name, tensor in base.model.state_dict().items()}
    layer = "controlnet.double_blocks.0.img_attn.qkv"
    cases = {
        "a LoRA on a ControlNet, as Export ControlNet writes it": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(1, 128)},
        "two matrices and an alpha": {name: tensor for name, tensor in tensors.items() if name != f"{layer}.alpha"},
        "finite values": {**tensors, f"{layer}.lora_up.weight": tensors[f"{layer}.lora_up.weight"] / 0},
        "one number as alpha": {**tensors, f"{layer}.alpha": torch.ones(2)},
        "two matrices of one rank": {**tensors, f"{layer}.lora_down.weight": torch.ones(3, 128)},
        r"double_blocks\.7\.img_attn\.qkv .* no such layer": {name.replace("blocks.0.", "blocks.7."): tensor for name, tensor in tensors.items()},
    }
    for said, given in cases.items():
        write_safetensors(wrong, given)
        with pytest.raises(InputError, match=said):
            ControlNetLoraRecipe(controlnet=recipe.controlnet, adapters=LoraRecipe(from_file=wrong))
    with pytest.raises(InputError, match="found a LoRA on a ControlNet"):
        read_lora(path, shapes)


def test_other_kinds_of_states_are_told_apart(base, recipe, tiny_train):
    state = tiny_train(1, base=base, recipe=recipe)
    with pytest.raises(InputError, match="a trained LoRA; found a trained controlnet_lora"):
        exported_lora(state)
    plain = tiny_train(1, recipe=ControlNetRecipe(layout="xlabs", double_depth=1))
    assert "graft.merged_lora" not in exported_control_net(plain).metadata
    with pytest.raises(InputError, match="a trained LoRA on a ControlNet; found a trained controlnet"):
        exported_controlnet_lora(plain)
    Path(recipe.controlnet).unlink()
    with pytest.raises(InputError, match="Put it back there"):
        exported_control_net(state)

"""A LoRA on a ControlNet file through the whole engine: trained, found again, merged, exported, trained further."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from graft.training.catalogue import kind_of
from graft.training.errors import InputError
from graft.training.export import exported_control_net, write_control_net
from graft.training.export_lora import exported_lora
from graft.training.files.fingerprint import fingerprint
from graft.training.files.header import read_header
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.controlnet_export import exported_tensors
from graft.training.trainable.controlnet_import import load_controlnet_file
from graft.training.trainable.controlnet_lora import ControlNetLoraRecipe
from graft.training.trainable.lora import LoraRecipe


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


def test_other_kinds_of_states_are_told_apart(base, recipe, tiny_train):
    state = tiny_train(1, base=base, recipe=recipe)
    with pytest.raises(InputError, match="a trained LoRA; found a trained controlnet_lora"):
        exported_lora(state)
    assert "graft.merged_lora" not in exported_control_net(tiny_train(1, recipe=ControlNetRecipe(layout="xlabs", double_depth=1))).metadata
    Path(recipe.controlnet).unlink()
    with pytest.raises(InputError, match="Put it back there"):
        exported_control_net(state)

"""A LoRA on a ControlNet file: it begins as that ControlNet, only the adapters learn, and the merged network is what was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.files.write import write_safetensors
from graft.training.models.flux_controlnet import controlnet_from_weights
from graft.training.trainable.controlnet import ControlNetRecipe, ControlNetTrainable
from graft.training.trainable.controlnet_export import exported_tensors
from graft.training.trainable.controlnet_import import load_controlnet_file
from graft.training.trainable.controlnet_lora import ControlNetLoraRecipe, merged
from graft.training.trainable.lora import LoraRecipe
from graft.training.weights import own_module

SHAPES = [("xlabs", 2, 0), ("instantx", 1, 2)]


@pytest.fixture
def controlnet_file(base, randomise, tmp_path) -> Callable[..., Path]:
    def make(layout: str, double: int, single: int, name: str = "net") -> Path:
        module = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single).build(base).module
        randomise(module)
        write_safetensors(tmp_path / f"{name}.safetensors", exported_tensors(module, layout, torch.float32)[0])
        return tmp_path / f"{name}.safetensors"

    return make


def run_json(recipe: ControlNetLoraRecipe, module) -> dict:
    return {"recipe": recipe.key_fields(), **module.described}


@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_it_begins_as_the_file_and_only_adapters_learn(layout, double, single, controlnet_file, base, batch):
    path = controlnet_file(layout, double, single)
    before = fingerprint(base.state_dict())
    recipe = ControlNetLoraRecipe(controlnet=path, adapters=LoraRecipe(rank=3, layers="all_linears", dropout=0.2))
    own = own_module(base)
    trainable = recipe.build(own)
    given = batch(layout)
    file = ControlNetTrainable(controlnet_from_weights(load_controlnet_file(path).weights, base.config.axes))
    made = trainable.predict(own, **given)
    assert torch.equal(made, file.predict(base, **given)), "nothing is changed before it is trained"
    made.square().sum().backward()
    learning = dict(trainable.module.named_parameters())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in learning.values())
    assert all("lora_" in name for name in learning) and not any(p.requires_grad for n, p in own.named_parameters() if "lora_" not in n)
    assert fingerprint(base.state_dict()) == before and not hasattr(base, "graft_controlnet")
    assert sum(parameter.numel() for parameter in learning.values()) == recipe.extent.parameters


@pytest.mark.parametrize(("layout", "double", "single"), SHAPES)
def test_the_merged_network_is_the_trained_one(layout, double, single, controlnet_file, base, batch, randomise):
    recipe = ControlNetLoraRecipe(controlnet=controlnet_file(layout, double, single), adapters=LoraRecipe(rank=3, alpha=1.5))
    own = own_module(base)
    trainable = recipe.build(own)
    randomise(trainable.module)
    weights = {name: tensor.detach().clone() for name, tensor in trainable.module.state_dict().items()}
    whole = merged(weights, run_json(recipe, trainable.module))
    network = ControlNetTrainable(controlnet_from_weights(whole, base.config.axes))
    given = batch(layout)
    with torch.no_grad():
        assert torch.allclose(network.predict(base, **given), trainable.predict(own, **given), atol=2e-4)
    file = load_controlnet_file(recipe.controlnet).weights
    unchanged = {name for name, tensor in exported_tensors(whole, layout, torch.float32)[0].items() if torch.equal(tensor, file[name])}
    assert unchanged and unchanged != set(file)


def test_the_key_follows_from_the_file_and_not_from_its_name(controlnet_file):
    path = controlnet_file("xlabs", 1, 0)
    recipe = ControlNetLoraRecipe(controlnet=path, adapters=LoraRecipe(rank=2))
    moved = path.with_name("moved.safetensors")
    fields = recipe.key_fields()
    path.replace(moved)
    assert replace(recipe, controlnet=moved).key_fields() == fields and fields["rank"] == 2 and recipe.hint_form == "pixels"
    assert fields["kind"] == "controlnet_lora" and (fields["layout"], fields["double_depth"], fields["single_depth"]) == ("xlabs", 1, 0)
    assert "guidance" not in fields, "the settings draw it"


def test_a_controlnet_that_is_gone_or_another_is_named(controlnet_file, base, randomise):
    path = controlnet_file("xlabs", 1, 0)
    recipe = ControlNetLoraRecipe(controlnet=path, adapters=LoraRecipe(rank=2))
    trainable = recipe.build(own_module(base))
    weights, inputs = trainable.module.state_dict(), run_json(recipe, trainable.module)
    loaded = load_controlnet_file(path).weights
    write_safetensors(path, {name: tensor * 1.01 for name, tensor in loaded.items()})
    with pytest.raises(InputError, match="another ControlNet under its name"):
        merged(weights, inputs)
    path.unlink()
    with pytest.raises(InputError, match="Put it back there"):
        merged(weights, inputs)


def test_what_does_not_fit_is_refused(controlnet_file, make_base):
    path = controlnet_file("xlabs", 1, 0)
    with pytest.raises(InputError, match="hidden_size"):
        ControlNetLoraRecipe(controlnet=path).build(make_base(hidden_size=256))
    with pytest.raises(InputError, match="without DoRA"):
        ControlNetLoraRecipe(controlnet=path, adapters=LoraRecipe(dora=True))
    with pytest.raises(InputError, match="LoRA blocks"):
        ControlNetLoraRecipe(controlnet=path, adapters=LoraRecipe(blocks="double_blocks.1"))
    with pytest.raises(InputError, match="FLUX transformer"):
        ControlNetLoraRecipe(controlnet=path).build(torch.nn.Linear(1, 1))

"""Build ControlNet LoRA as the graph calls it: new adapters, or those of a file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graft.nodes.controlnet_lora import NEW, BuildControlNetLora
from graft.nodes.export import ExportControlNet
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.training.errors import InputError
from graft.training.files.controlnet_lora_file import CONTROLNET_FINGERPRINT, controlnet_lora_tensors
from graft.training.files.lora_adapters import Adapter
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.controlnet_export import exported_tensors

WIDGETS = {"rank": 4, "alpha": 2.0, "layers": "attention", "blocks": "", "dropout": 0.1, "rslora": False, "seed": 0}
LAYER = "double_blocks.0.img_attn.proj"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The user's folder of models with a ControlNet and a LoRA on it."""
    config = FluxConfig(
        hidden_size=128, head_dim=128, double_depth=1, single_depth=0, in_channels=64, context_width=8, vector_width=8, mlp_width=64, guidance=True
    )  # fmt: skip
    network = ControlNetRecipe(layout="xlabs", double_depth=1).build(Flux(config)).module
    for folder in ("controlnet", "loras"):
        (tmp_path / folder).mkdir()
    write_safetensors(tmp_path / "controlnet" / "net.safetensors", exported_tensors(network, "xlabs")[0])
    write_lora(tmp_path / "loras" / "mine.safetensors")
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path))
    with use_host(HeadlessHost(tmp_path / "out")):
        yield tmp_path


def write_lora(path: Path, rank: int = 2, **said: str) -> None:
    adapters = {LAYER: Adapter(torch.ones(rank, 128), torch.ones(128, rank), 1.0)}
    write_safetensors(path, controlnet_lora_tensors(adapters, torch.float32), said)


def test_new_adapters_are_as_the_widgets_say(models: Path):
    recipe, notes = BuildControlNetLora().execute("net.safetensors", **WIDGETS)
    assert recipe.adapters.rank == 4 and recipe.adapters.from_file is None and notes == recipe.extent.in_words()
    assert BuildControlNetLora.INPUT_TYPES()["optional"]["lora"][0] == [NEW, "mine.safetensors"]


def test_adapters_of_a_file_are_as_the_file_says(models: Path, caplog: pytest.LogCaptureFixture):
    recipe, notes = BuildControlNetLora().execute("net.safetensors", **WIDGETS, lora="mine.safetensors")
    assert notes.startswith("1 layers, 512 parameters") and "\n" not in notes and recipe.adapters.dropout == 0.1
    first = recipe.key_fields()
    assert "rank" not in first and first["dropout"] == 0.1
    before = BuildControlNetLora.IS_CHANGED("net.safetensors", lora="mine.safetensors")
    write_lora(models / "loras" / "mine.safetensors", 3, **{CONTROLNET_FINGERPRINT: "f" * 64})
    assert BuildControlNetLora.IS_CHANGED("net.safetensors", lora="mine.safetensors") != before != BuildControlNetLora.IS_CHANGED("net.safetensors")
    other, notes = BuildControlNetLora().execute("net.safetensors", **WIDGETS, lora="mine.safetensors")
    assert other.key_fields()["weights"] != first["weights"]
    assert "another ControlNet of the same sizes" in notes and "another ControlNet" in caplog.text


def test_a_trained_controlnet_has_no_lora_to_write(models: Path):
    state: Any = SimpleNamespace(inputs=lambda: {"recipe": {"kind": "controlnet"}})
    with pytest.raises(InputError, match="a trained LoRA on a ControlNet; found a trained controlnet"):
        ExportControlNet().execute(state, "mine", "trained", False, "", lora_file=True)
    assert not list((models / "out").glob("*.safetensors"))

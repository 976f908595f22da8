"""Loading files as the graph calls it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from graft.nodes.host import current_host
from graft.nodes.load import LoadControlNet, LoadTransformer
from graft.training.errors import InputError
from graft.training.files.precision import loaded_fingerprint
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig
from graft.training.models.flux_controlnet import build_controlnet
from graft.training.trainable.controlnet_export import exported_tensors

CONFIG = FluxConfig(
    hidden_size=32, head_dim=32, double_depth=1, single_depth=1, in_channels=64, context_width=8, vector_width=8, mlp_width=64,
    guidance=True, axes=(8, 12, 12),
)  # fmt: skip


def test_a_loaded_model_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its weights, 24 GB of them in a real one, are not hashed again each time."""
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("graft.nodes.headless.host._fingerprint", lambda _: pytest.fail("hashed in memory"))
    path = tmp_path / "models" / "diffusion_models" / "tiny.safetensors"
    write_safetensors(path, Flux(CONFIG).bfloat16().state_dict())
    model, report = LoadTransformer().execute("tiny.safetensors")
    weights, fingerprint = current_host().model_weights(model)
    assert fingerprint == loaded_fingerprint(path, tmp_path / "elsewhere") and weights.keys() == Flux(CONFIG).state_dict().keys()
    assert "tiny.safetensors" in report and list((tmp_path / "runs" / "cache" / "fingerprints").iterdir())


@pytest.fixture
def control_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path / "models"))
    config = FluxConfig(**{**vars(CONFIG), "hidden_size": 128, "head_dim": 128, "mlp_width": 512, "axes": (16, 56, 56)})
    weights, _, _ = exported_tensors(build_controlnet(Flux(config), "instantx", 1, 1, seed=0), "instantx")
    path = tmp_path / "models" / "controlnet" / "mine" / "tiny.safetensors"
    write_safetensors(path, weights)
    return path, weights


def test_a_controlnet_file_gives_its_tensors_and_says_what_it_is(control_file: tuple[Path, dict[str, torch.Tensor]]):
    weights = control_file[1]
    assert LoadControlNet.INPUT_TYPES()["required"]["controlnet"][0] == ["mine/tiny.safetensors"]
    control_net, report = LoadControlNet().execute("mine/tiny.safetensors")
    assert control_net.layout == "instantx" and control_net.weights.keys() == weights.keys()
    assert all(torch.equal(control_net.weights[name], tensor) for name, tensor in weights.items())
    assert "flux controlnet, InstantX names" in report and "single blocks 1" in report
    with pytest.raises(InputError, match=r"controlnet file: expected a safetensors file in .*; found other\.safetensors"):
        LoadControlNet().execute("other.safetensors")


def test_a_replaced_controlnet_file_is_another_one(control_file: tuple[Path, dict[str, torch.Tensor]]):
    before = LoadControlNet.IS_CHANGED("mine/tiny.safetensors")
    assert before == LoadControlNet.IS_CHANGED("mine/tiny.safetensors")
    os.utime(control_file[0], (1e9, 2e9))
    assert LoadControlNet.IS_CHANGED("mine/tiny.safetensors") != before

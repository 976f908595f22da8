"""Loading a transformer as the graph calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from graft.nodes.host import current_host
from graft.nodes.load import LoadTransformer
from graft.training.files.precision import loaded_fingerprint
from graft.training.files.write import write_safetensors
from graft.training.models.flux import Flux, FluxConfig

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

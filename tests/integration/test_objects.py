"""ComfyUI's own objects made from the engine's weights, and back: they compute the same, and stock nodes take them."""

from __future__ import annotations

from typing import Any

import pytest

FP32 = 1e-5
"""Largest difference that fp32 leaves between two ways to add up the same numbers."""


@pytest.fixture
def figures(measured: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    """What the measurement that has the test's name gave."""
    found = measured[request.node.name.removeprefix("test_").split("[")[0]]
    assert not isinstance(found, str), found
    return found


def test_forward(figures: Any):
    assert figures["class"] == "comfy.ldm.flux.model" and figures["spread"] > 0.1
    assert max(figures["differences"]) < FP32 < figures["guidance_matters"]


def test_control_nets(figures: Any):
    assert len(figures) == 5
    for layout, found in figures.items():
        assert found["difference"] < 2 * FP32 < 1e-2 < found["effect"], layout


def test_weights_read_back(figures: Any):
    assert figures["same_names"] and figures["same_bits"] and figures["shared"]
    assert figures["copied_bytes"] == 0 < 10**7 < figures["model_bytes"], "what is frozen needs no memory beyond the MODEL"
    assert len(set(figures["fingerprints"])) == 1


def test_patches(figures: Any):
    assert figures["unloaded"] == figures["loaded"] == figures["as_comfyui_computes"] == 0
    assert figures["original_kept"] and figures["others_kept"]
    before, original, patched, loaded = figures["prints"]
    assert before == original != patched == loaded


def test_text(figures: Any):
    assert max(figures["conditioning"]) == 0 and figures["bitwise"] and figures["fingerprint_kept"] and figures["layer_counts"]


def test_pictures(figures: Any):
    assert figures["spread"] > 0.1 and max(figures["latents"], figures["pixels"]) < 1e-4
    assert figures["bitwise"] and figures["fingerprint_kept"]


def test_sampling(figures: Any):
    assert figures["effect"] > 1e-2
    for name in ("plain", "controlled"):
        assert figures[name]["difference"] < 5 * FP32 < 0.1 < figures[name]["spread"], name


def test_bases_in_8_bits(figures: Any):
    assert figures["again"] == "Held" and figures["bytes"] == figures["read_by_comfyui"] == figures["patched"] == 0
    assert figures["requested"] == "torch.int8" and 0 < figures["error"] < 0.02
    assert figures["another_base"] and figures["sampled_as_before"] == 0


def test_quantised(figures: Any):
    assert figures["names"] and figures["difference"] == figures["plain_fp8"] == 0 < figures["lost"]
    assert figures["stays_in_8_bits"] == figures["plain_stays_in_8_bits"] == "Held"
    assert figures["held_as"] in ("QuantizedTensor", "torch.float8_e4m3fn") and figures["read_as"] == "torch.bfloat16"


def test_training(figures: Any):
    assert figures["bitwise"] and figures["model_kept"] and figures["changed"] > 0
    assert figures["losses"][0] == figures["losses"][1] and len(figures["losses"][0]) == 3
    assert figures["keys"][0] == figures["keys"][1]


def test_folders(figures: Any):
    assert figures["input"] and figures["runs_below_output"] and figures["device"] == "cpu" and isinstance(figures["lists"], list)
    assert "diffusion_models file: expected a safetensors file in" in figures["missing_file"]

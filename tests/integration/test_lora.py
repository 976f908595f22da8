"""LoRAs in a real ComfyUI: what the graph runs is what the stock loader makes of the exported file, with every key used."""

from __future__ import annotations

from typing import Any

import pytest

BF16_STEP = 2**-8
"""Distance of neighbouring BF16 numbers between 0.5 and 1, the largest weights here."""


@pytest.fixture(scope="module")
def measured(run_inside: Any) -> dict[str, Any]:
    return run_inside("lora_inside.py")


@pytest.mark.parametrize("format", ["kohya", "comfyui", "diffusers"])
def test_the_stock_loader_makes_of_the_file_what_the_graph_uses(measured: dict[str, Any], format: str):
    found = measured["plain"]
    assert found["effect"] > 1e-3 and found["picture_effect"] > 0.1
    assert found[format]["said"] == [], "every key of the file is used"
    if format == "diffusers":  # alpha is multiplied into its matrices, which are rounded once more
        assert found[format]["weights"] <= BF16_STEP and found[format]["picture"] < 0.02 * found["picture_effect"]
    else:
        assert found[format]["weights"] == 0 and found[format]["picture"] == 0


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_the_stock_load_lora_model_gives_what_trained_lora_gives(measured: dict[str, Any], kind: str):
    assert measured[kind]["lora_model"] == {"said": [], "weights": 0, "picture": 0}


def test_the_stock_save_lora_weights_writes_it(measured: dict[str, Any]):
    assert measured["plain"]["saved"] == 0


def test_headless_and_comfyui_give_the_same_weights(measured: dict[str, Any]):
    found = measured["plain"]
    assert found["headless"] == 0 and found["model_kept"] == 0
    assert f"{found['layers_patched']} layers" in found["notes"] and found["where"].startswith("Applied to the transformer that it was trained on")


def test_rslora_s_scale_is_alpha_by_the_root_of_the_rank(measured: dict[str, Any]):
    assert measured["plain"]["scale"] == pytest.approx(3 / 4**0.5, rel=0.03)


def test_a_file_with_split_layers_is_read_as_what_it_was(measured: dict[str, Any]):
    found = measured["plain"]
    assert f"{found['loaded_size']:,} parameters" in found["notes"] and "summed rank" not in found["loaded_notes"]


def test_dora_follows_peft_s_rule_and_its_differences_load(measured: dict[str, Any]):
    found = measured["dora"]
    assert found["said"] == [] and found["effect"] > 1e-3
    assert found["lengths"] < 2 * BF16_STEP, "each row has the trained length"
    assert found["file"] <= 2 * BF16_STEP


def test_another_base_of_the_same_shape_is_taken_and_recorded(measured: dict[str, Any]):
    found = measured["other_base"]
    assert found["effect"] > 1e-3 and found["where"].startswith("Trained on another transformer of the same shape")
    assert found["names"] == ["nano_flux", "other.safetensors", "other.safetensors (patched)"]
    assert found["recorded"] == found["fingerprints"] and found["recorded"][0] != found["recorded"][1]

"""What the graph runs at once is what the exported file runs tomorrow: the same picture, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

LAYOUTS = ("xlabs", "instantx")


def version_of(comfyui: Path) -> tuple[int, ...]:
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    return tuple(int(part) for part in text.partition('"')[2].partition('"')[0].split("."))


@pytest.fixture(scope="module")
def trained(run_inside: Any) -> dict[str, Any]:
    return run_inside("exported_inside.py", "nano")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_trained_controlnet_and_its_file_give_the_same_picture(trained: dict[str, Any], comfyui: Path, layout: str):
    found = trained[layout]
    assert found["finite"] and found["effect"] > 1e-3
    assert found["by_our_loader"] is True
    if version_of(comfyui) >= (0, 33):
        assert found["by_stock_loader"] is True
    else:  # it takes FLUX.1's width for granted: what our loader is there for
        assert "size mismatch" in found["by_stock_loader"]


@pytest.mark.slow
def test_at_flux_1s_own_width_the_stock_loader_gives_the_same_picture(run_inside: Any):
    measured = run_inside("exported_inside.py", "full_width")
    assert sorted(measured) == sorted(f"{layout} 1+{single}" for layout in LAYOUTS for single in (0, 1))
    for case, found in measured.items():
        assert found["hidden_size"] == 3072 and found["stock_knows_the_size"], case
        assert found["finite"] and found["effect"] > 1e-3, case
        assert found["by_stock_loader"] is True and found["by_our_loader"] is True, case

"""The data nodes as the graph calls them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from graft.nodes.data import CannyHint, DrawShapes, EncodeDataset, Folder
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.nodes.result import ValidationGrid
from graft.training.progress import Progress
from graft.training.trainable.controlnet import ControlNetRecipe
from torch import Tensor


class StandInHost(HeadlessHost):
    """Encoders without weights; the bar is the test's own."""

    def __init__(self, bar: Progress | None = None) -> None:
        super().__init__()
        self.encoded, self._bar = 0, bar

    def progress(self, unique_id: str | None = None) -> Progress:
        return self._bar or super().progress(unique_id)

    def encode_images(self, vae: str, pixels: Tensor) -> Tensor:
        self.encoded += len(pixels)
        return torch.zeros(len(pixels), 16, pixels.shape[1] // 8, pixels.shape[2] // 8)

    def encode_text(self, clip: str, texts: list[str]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(texts), 2, 4), torch.zeros(len(texts), 4)

    def vae_fingerprint(self, vae: str) -> str:
        return vae

    def clip_fingerprint(self, clip: str) -> str:
        return clip


@pytest.fixture
def relative_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The input folder as `make demo` names it: relative to where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFT_INPUT", "out/input")
    return tmp_path / "out" / "input"


def test_drawn_shapes_are_found_when_the_input_folder_is_relative(relative_input: Path):
    (folder,) = DrawShapes().execute("shapes", count=4, size_px=64, seed=0)
    assert Path(folder) == relative_input / "shapes"
    (dataset,) = Folder().execute(folder, 64, 1, "stop", "stop")
    assert len(dataset.scan()) == 4


def test_a_folder_is_stamped_by_its_files_and_a_linked_one_not_at_all(relative_input: Path):
    DrawShapes().execute("shapes", count=2, size_px=64, seed=0)
    before = Folder.IS_CHANGED(folder="shapes", held_out=1)
    assert before == Folder.IS_CHANGED(folder="shapes", held_out=1) != Folder.IS_CHANGED(folder="elsewhere")
    (relative_input / "shapes" / "shape_00000.txt").write_text("another caption", encoding="utf-8")
    assert Folder.IS_CHANGED(folder="shapes", held_out=1) != before
    assert Folder.IS_CHANGED(folder=None, held_out=1) == ""  # ComfyUI hands a linked input over as None


def test_thresholds_and_parts_of_the_schedule_are_checked_before_anything_runs():
    assert CannyHint.VALIDATE_INPUTS(100, 200, 0, 0) is True and CannyHint.VALIDATE_INPUTS(None, 200, 0, 0) is True
    assert "canny thresholds" in CannyHint.VALIDATE_INPUTS(200, 100, 0, 0)
    assert ValidationGrid.VALIDATE_INPUTS(0.0, 1.0) is True and "start <= end" in ValidationGrid.VALIDATE_INPUTS(0.5, 0.2)


def test_latents_that_sd_scripts_has_cached_are_taken_where_the_widget_says_so(relative_input: Path):
    (folder,) = DrawShapes().execute("shapes", count=3, size_px=64, seed=0)
    known = np.full((16, 8, 8), 0.25, np.float32)
    np.savez(Path(folder) / "shape_00001_0064x0064_flux.npz", latents_8x8=known)
    with use_host(StandInHost()) as host:
        (dataset,) = Folder().execute(folder, 64, 0, "stop", "stop")
        (own,) = EncodeDataset().execute(dataset, "clip", "vae", ControlNetRecipe(), 1)
        assert host.encoded == 3 and not (own.latents(own.train) == 0.25).all((1, 2, 3)).any()
        (taken,) = EncodeDataset().execute(dataset, "clip", "vae", ControlNetRecipe(), 1, kohya_latents=True)
    assert host.encoded == 3 and taken.key != own.key  # the two others were there already
    assert (taken.latents(taken.train) == 0.25).all((1, 2, 3)).tolist() == [sample.name.startswith("shape_00001") for sample in taken.train]

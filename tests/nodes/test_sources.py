"""The nodes of sources as the graph calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from graft.nodes.data import DrawShapes, Folder
from graft.nodes.sources import CheckDataset, CombineDatasets, DatasetOptions, PictureSource
from graft.training.data.canny import CannyRecipe
from graft.training.data.dataset import GivenHints
from graft.training.errors import InputError

SIDE_PX = 64
SETTINGS = {
    "kind": "auto", "resolution_px": SIDE_PX, "held_out": 1, "held_out_share": 0.0, "missing_captions": "stop", "unreadable_pictures": "stop",
    "hints": "", "picture_column": "", "caption_column": "", "hint_column": "",
}  # fmt: skip


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures in the input folder."""
    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    (folder,) = DrawShapes().execute("5_shapes", count=4, size_px=SIDE_PX, seed=0)
    return Path(folder)


def test_a_source_is_described_and_what_it_read_is_remembered(shapes: Path, tmp_path: Path):
    (dataset,) = PictureSource().execute(".", **SETTINGS)
    samples = dataset.scan()
    assert len(samples) == 4 and {sample.repeats for sample in samples} == {5} and isinstance(dataset.hint, CannyRecipe)
    for path in shapes.iterdir():
        os.utime(path, (1e9, 1e9))
    PictureSource().execute(".", **SETTINGS)
    assert list((tmp_path / "runs" / "cache" / "encoded" / "known").glob("known-*.json"))


def test_hints_of_the_source_are_taken_unless_a_recipe_is_connected(shapes: Path):
    settings = {**SETTINGS, "hints": "5_shapes"}
    (given,) = PictureSource().execute("5_shapes", **settings)
    (drawn,) = PictureSource().execute("5_shapes", **settings, recipe=CannyRecipe.fixed(50, 150))
    assert isinstance(given.hint, GivenHints) and drawn.hint == CannyRecipe.fixed(50, 150)
    sample = given.scan()[0]
    assert np.array_equal(given.read_hint(sample), given.read(sample))


def test_paths_are_told_before_anything_runs(shapes: Path):
    assert PictureSource.VALIDATE_INPUTS("5_shapes", "auto", 512, "", "stop") is True
    assert "nothing there" in PictureSource.VALIDATE_INPUTS("elsewhere", "auto", 512, "", "stop")
    assert "expected tar archives" in PictureSource.VALIDATE_INPUTS("5_shapes", "tar", 512, "", "stop")
    assert "no name" in PictureSource.VALIDATE_INPUTS(" ", "auto", 512, "", "stop")
    assert "multiple of 16" in PictureSource.VALIDATE_INPUTS("5_shapes", "auto", 500, "", "stop")
    assert PictureSource.VALIDATE_INPUTS(None, "auto", 512, "", "stop") is True
    assert "tag separator" in DatasetOptions.VALIDATE_INPUTS(" ")


def test_the_node_runs_again_when_a_file_changes(shapes: Path):
    for path in shapes.iterdir():
        os.utime(path, (1e9, 1e9))
    before = PictureSource.IS_CHANGED("5_shapes", "auto", "")
    assert before == PictureSource.IS_CHANGED("5_shapes", "auto", "", held_out=3) and before
    os.utime(next(shapes.glob("*.txt")), (1e9 + 5, 1e9 + 5))
    assert PictureSource.IS_CHANGED("5_shapes", "auto", "") not in (before, "")
    next(shapes.glob("*.txt")).write_text("now", "utf-8")
    young = PictureSource.IS_CHANGED("5_shapes", "auto", "")
    assert young != young  # looked at again until it has settled
    assert PictureSource.IS_CHANGED(None) == ""


def test_options_combination_and_check(shapes: Path, tmp_path: Path):
    (source,) = PictureSource().execute("5_shapes", **{**SETTINGS, "held_out": 0})
    (optioned,) = DatasetOptions().execute(source, 2, 0.5, "drawn:", "sks", False, 1, ",", False, 8)
    (folder,) = Folder().execute("5_shapes", SIDE_PX, 0, "stop", "stop")
    (whole,) = CombineDatasets().execute(optioned, 0.0, dataset_3=folder)
    samples = whole.scan()
    assert len(samples) == 8 and samples[0].caption.startswith("drawn: sks, ") and (samples[0].repeats, samples[0].weight) == (2, 0.5)
    report, sheet, figures = CheckDataset().execute(whole, 6)
    assert "8 usable pictures" in report and "4 pictures there more than once" in report
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[3] == 3 and float(sheet.min()) >= 0 and float(sheet.max()) <= 1
    assert json.loads(figures)["pictures"] == 8
    with pytest.raises(InputError, match="fewer than there are pictures"):
        CombineDatasets().execute(folder, 0.0, validation=folder)[0].scan()


def test_a_validation_set_is_held_out(shapes: Path):
    (train,) = Folder().execute("5_shapes", SIDE_PX, 0, "stop", "stop")
    (other,) = DrawShapes().execute("other", count=3, size_px=SIDE_PX, seed=7)
    (validation,) = Folder().execute(other, SIDE_PX, 0, "stop", "stop")
    (whole,) = CombineDatasets().execute(train, 0.0, validation=validation)
    assert [len(part) for part in whole.split(whole.scan())] == [4, 3]

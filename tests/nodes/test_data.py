"""The data nodes as the graph calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from graft.nodes.data import CannyHint, DrawShapes, Folder
from graft.nodes.result import ValidationGrid


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

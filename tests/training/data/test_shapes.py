"""The drawn pictures and the judge that reads them back."""

from __future__ import annotations

import errno
import itertools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from graft.training.data.shapes import (
    KINDS,
    PALETTE,
    Shape,
    best_kind,
    judge,
    judged_rates,
    nearest_colour,
    random_shape,
    shapes_folder,
    write_dataset,
)
from graft.training.errors import InputError


def shapes(count: int, seed: int = 0) -> list[Shape]:
    random = np.random.default_rng(seed)
    return [random_shape(random) for _ in range(count)]


def test_real_pictures_pass_the_judge():
    drawn = shapes(400)
    colours, kinds = judged_rates(np.stack([shape.draw(128) for shape in drawn]), drawn)
    assert colours >= 0.99 and kinds >= 0.99


def test_the_judge_refuses_other_figures():
    """Each picture against the next shape's content of another kind: none may pass; and a ragged blob is no shape."""
    drawn = shapes(100)
    for shape, other in itertools.pairwise(drawn):
        if shape.kind != other.kind:
            assert not judge(shape.draw(128)).right_kind(other)
    random = np.random.default_rng(0)
    blob = cv2.GaussianBlur(random.standard_normal((128, 128)), (0, 0), 12)
    mask = (blob > np.percentile(blob, 85)).astype(np.uint8)
    assert best_kind(mask == 1)[1] < 0.82


def test_a_flat_picture_shows_nothing():
    assert judge(np.full((64, 64, 3), 90, np.uint8)).kind == "nothing"


@pytest.mark.parametrize("name", PALETTE)
def test_every_palette_colour_is_nearest_to_itself(name: str):
    assert nearest_colour(np.array(PALETTE[name]) + 8) == name


def test_figures_lie_inside_and_use_every_kind_colour_and_wording():
    drawn = shapes(600)
    assert {shape.kind for shape in drawn} == set(KINDS)
    assert {shape.figure for shape in drawn} == {shape.ground for shape in drawn} == set(PALETTE)
    assert all(shape.figure != shape.ground for shape in drawn)
    assert len({shape.caption.split(" ")[0] for shape in drawn}) > 2
    for shape in drawn[:200]:
        picture = shape.draw(64).astype(int)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == shape.ground_rgb).all(), shape


def test_edges_say_what_the_caption_does_not():
    """Pictures of one caption differ in place, size and turn."""
    same = [shape for shape in shapes(4000) if (shape.kind, shape.figure) == ("star", "red")]
    assert len(same) > 30
    assert np.std([shape.x for shape in same]) > 0.05
    assert np.std([shape.radius for shape in same]) > 0.02
    assert np.std([shape.turn_degrees for shape in same]) > 3


def test_the_folder_is_as_its_seed_says(tmp_path: Path):
    for name in ("one", "two"):
        write_dataset(tmp_path / name, 5, seed=3, size_px=64)
    write_dataset(tmp_path / "other", 5, seed=4, size_px=64)
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "other")]
    assert contents[0] == contents[1] != contents[2]
    random = np.random.default_rng(3)
    expected = [random_shape(random) for _ in range(5)]
    assert [(tmp_path / "one" / f"shape_{i:05d}.txt").read_text().strip() for i in range(5)] == [shape.caption for shape in expected]
    picture = cv2.imread(str(tmp_path / "one" / "shape_00002.png"))[..., ::-1]
    assert (picture == expected[2].draw(64)).all()


def test_a_finished_folder_is_used_as_it_is(tmp_path: Path):
    shapes_folder(tmp_path / "a", count=3, seed=0, size_px=64)
    mark = (tmp_path / "a" / "shape_00000.png").stat().st_mtime_ns
    shapes_folder(tmp_path / "a", count=3, seed=0, size_px=64)
    assert (tmp_path / "a" / "shape_00000.png").stat().st_mtime_ns == mark


def test_an_unfinished_folder_is_finished(tmp_path: Path):
    shapes_folder(tmp_path / "a", count=3, seed=0, size_px=64)
    (tmp_path / "a" / "shapes.json").unlink()
    (tmp_path / "a" / "shape_00002.png").unlink()
    shapes_folder(tmp_path / "a", count=3, seed=0, size_px=64)
    assert (tmp_path / "a" / "shape_00002.png").exists()
    assert json.loads((tmp_path / "a" / "shapes.json").read_text())["count"] == 3


def test_what_a_stopped_larger_run_left_is_not_mixed_in(tmp_path: Path):
    shapes_folder(tmp_path / "a", count=5, seed=1, size_px=64)
    (tmp_path / "a" / "shapes.json").unlink()
    shapes_folder(tmp_path / "a", count=2, seed=0, size_px=64)
    assert len(list((tmp_path / "a").glob("*.png"))) == len(list((tmp_path / "a").glob("*.txt"))) == 2


def test_only_the_manifest_is_flushed_and_it_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: there.append(len(list((tmp_path / "a").glob("shape_*.*")))))
    shapes_folder(tmp_path / "a", count=20, seed=0, size_px=64)
    assert set(there) == {40} and len(there) <= 2, "the file and its folder"


def test_a_full_disk_is_told_and_the_folder_counts_as_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "shape_00001.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="room on the disk"):
        shapes_folder(tmp_path / "a", count=3, seed=0, size_px=64)
    monkeypatch.undo()
    assert not (tmp_path / "a" / "shapes.json").exists()
    shapes_folder(tmp_path / "a", count=3, seed=0, size_px=64)
    assert len(list((tmp_path / "a").glob("*.png"))) == 3


@pytest.mark.parametrize("stranger", ["holiday.jpg", "shapes.json"])
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, stranger: str):
    (tmp_path / stranger).write_text('{"count": 7')
    with pytest.raises(InputError, match="shapes folder"):
        shapes_folder(tmp_path, count=3, seed=0, size_px=64)
    assert [path.name for path in tmp_path.iterdir()] == [stranger]


@pytest.mark.parametrize(("count", "size_px"), [(0, 128), (3, 8)])
def test_senseless_figures_are_refused(tmp_path: Path, count: int, size_px: int):
    with pytest.raises(InputError, match="at least"):
        write_dataset(tmp_path / "a", count, 0, size_px)
    assert not (tmp_path / "a").exists()

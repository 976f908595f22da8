"""The comparison grid: every picture in its place, unchanged, and labels and captions that fit."""

from __future__ import annotations

import numpy as np
import pytest
from graft.training.drawing import printable, text_width_px, wrapped
from graft.training.errors import InputError
from graft.training.grid import comparison_grid


def plain(count: int, first_level: int, height: int = 128, width: int = 128) -> np.ndarray:
    levels = first_level + 10 * np.arange(count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def find(grid: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Top and left of the one place where a plain picture lies."""
    same = (grid == picture[0, 0]).all(axis=-1)
    rows, columns = np.flatnonzero(same.sum(axis=1) >= picture.shape[1]), np.flatnonzero(same.sum(axis=0) >= picture.shape[0])
    assert len(rows) == picture.shape[0] and len(columns) == picture.shape[1]
    return rows[0], columns[0]


def test_pictures_lie_in_rows_and_columns_unchanged() -> None:
    above, below = plain(3, 10), plain(3, 100)
    grid = comparison_grid([("edges given", above), ("trained", below)], captions=["one", "two", "three"], title="A title")
    places = np.array([[find(grid, picture) for picture in pictures] for pictures in (above, below)])
    assert (places[0, :, 0] == places[0, 0, 0]).all() and (places[:, 1, 1] == places[0, 1, 1]).all()
    assert (np.diff(places[0, :, 1]) == 136).all() and places[1, 0, 0] - places[0, 0, 0] == 136


def test_grey_pictures_and_small_pictures_enlarged() -> None:
    edges = np.zeros((1, 32, 32), np.uint8)
    edges[0, :, 16] = 255
    grid = comparison_grid([("", edges)])
    assert grid.shape == (128 + 48, 128 + 48, 3)
    assert (grid[24:-24, 24 + 64 : 24 + 68] == 255).all() and (grid[24:-24, 24:88] == 0).all()


def test_rows_of_other_shapes_keep_their_proportions() -> None:
    grid = comparison_grid([("", plain(1, 10)), ("", plain(1, 100, height=64))])
    wide = (grid == 100).all(axis=-1)
    assert wide.any(axis=1).sum() == 64 and wide.any(axis=0).sum() == 128


def test_cell_size_asked_for() -> None:
    assert comparison_grid([("", plain(2, 10))], cell_px=200).shape == (200 + 48, 2 * 200 + 8 + 48, 3)


def test_a_title_wider_than_the_pictures_is_whole() -> None:
    title = "Held-out edges: F1 0.21 without, 0.83 with the trained ControlNet"
    grid = comparison_grid([("", plain(1, 200))], title=title)
    assert grid.shape[1] > text_width_px(title, 12) > 128 + 48 and grid[:, -20:].min() == 255


def test_labels_and_captions_are_drawn() -> None:
    without = comparison_grid([("", plain(1, 200))])
    labelled = comparison_grid([("label", plain(1, 200))])
    captioned = comparison_grid(
        [("", plain(1, 200))], captions=["a red circle on a very long ground that needs several lines to be told in full"]
    )
    assert labelled.shape[1] > without.shape[1] and labelled.shape[0] == without.shape[0] and labelled[:, :60].min() < 80
    assert captioned.shape[0] > without.shape[0] + 30 and captioned[156:].min() < 140


@pytest.mark.parametrize("rows", [[], [("a", plain(0, 1))], [("a", plain(2, 1)), ("b", plain(3, 1))]])
def test_rows_that_do_not_match_are_refused(rows: list) -> None:
    with pytest.raises(InputError, match="comparison grid"):
        comparison_grid(rows)


def test_captions_that_do_not_match_are_refused() -> None:
    with pytest.raises(InputError, match="captions"):
        comparison_grid([("a", plain(2, 1))], captions=["only one"])


def test_letters_outside_the_font() -> None:
    assert printable("größe – é… 漢\tx") == "grosse - e... ? x"


def test_wrapping_fits_the_width() -> None:
    lines = wrapped("a yellow crescent on a green ground and Donaudampfschifffahrtsgesellschaft", 7, 90, 3)
    assert 1 < len(lines) <= 3 and all(text_width_px(line, 7) <= 90 for line in lines) and lines[-1].endswith("...")
    assert wrapped("", 7, 90, 3) == []

"""Edge F1 on lines whose distances and counts can be read off, and on pictures with known edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from graft.training.data.canny import canny_edges
from graft.training.measure import edge_f1, edge_score, f1_of_edges, shuffled


def column(x: int, rows: slice = slice(None)) -> np.ndarray:
    edges = np.zeros((20, 40), np.uint8)
    edges[rows, x] = 255
    return edges


@pytest.mark.parametrize(("moved_px", "expected"), [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0)])
def test_a_line_moved_sideways(moved_px: int, expected: float) -> None:
    assert f1_of_edges(column(10 + moved_px), column(10)) == expected
    assert f1_of_edges(column(10 - moved_px), column(10)) == expected


def test_tolerance_is_euclidean() -> None:
    one, other = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    one[2, 2], other[4, 4] = 255, 255
    assert f1_of_edges(one, other, tolerance_px=2.0) == 0.0
    assert f1_of_edges(one, other, tolerance_px=2.9) == 1.0


def test_half_of_what_was_drawn_was_asked_for() -> None:
    assert f1_of_edges(column(5) | column(30), column(5)) == pytest.approx(2 * 0.5 * 1.0 / 1.5)


def test_a_quarter_of_what_was_asked_for_was_drawn() -> None:
    """Rows 0..4 of 20 drawn: recall counts the two rows within the tolerance below them too, 7 of 20; precision is 1."""
    assert f1_of_edges(column(5, slice(0, 5)), column(5)) == pytest.approx(2 * 0.35 / 1.35)


def test_empty_edges() -> None:
    empty = np.zeros((20, 40), np.uint8)
    assert f1_of_edges(empty, empty) == 1.0
    assert f1_of_edges(column(3), empty) == 0.0
    assert f1_of_edges(empty, column(3)) == 0.0


@pytest.fixture
def pictures() -> np.ndarray:
    drawn = np.full((3, 64, 64, 3), 230, np.uint8)
    cv2.rectangle(drawn[0], (8, 8), (30, 24), (200, 30, 30), -1)
    cv2.circle(drawn[1], (40, 40), 14, (30, 30, 200), -1)
    cv2.rectangle(drawn[2], (34, 4), (60, 60), (20, 120, 40), -1)
    return drawn


def test_real_pictures_follow_their_own_edges(pictures: np.ndarray) -> None:
    edges = np.stack([canny_edges(picture, 100, 200) for picture in pictures])
    score = edge_score(pictures, edges)
    assert score.per_picture == (1.0, 1.0, 1.0) and score.mean == 1.0
    assert score.chance < 0.4
    assert score.chance_per_picture[1] == edge_f1(pictures[1:2], edges[0:1])[0]


def test_a_picture_moved_by_five_pixels_no_longer_follows(pictures: np.ndarray) -> None:
    edges = np.stack([canny_edges(picture, 100, 200) for picture in pictures])
    assert (edge_f1(np.roll(pictures, 1, axis=2), edges) > 0.99).all()
    assert (edge_f1(np.roll(pictures, 5, axis=(1, 2)), edges) < 0.5).all()


def test_thresholds_reach_canny(pictures: np.ndarray) -> None:
    pale = (pictures // 16 + 200).astype(np.uint8)
    edges = np.stack([canny_edges(picture, 100, 200) for picture in pictures])
    assert (edge_f1(pale, edges) == 0).all() and (edge_f1(pale, edges, low=5, high=10) > 0.99).all()


def test_no_row_of_a_shuffle_stays() -> None:
    assert shuffled(np.arange(4)).tolist() == [3, 0, 1, 2]


def test_one_picture_has_no_chance_level(pictures: np.ndarray) -> None:
    assert np.isnan(edge_score(pictures[:1], np.zeros((1, 64, 64), np.uint8)).chance)


def test_sizes_must_match(pictures: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="do not match"):
        edge_f1(pictures, np.zeros((3, 32, 64), np.uint8))

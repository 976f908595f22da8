"""Canny hints against OpenCV called plainly, against figures known by hand, and for determinism."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.canny import CannyRecipe, canny_edges, canny_images, edge_pixels
from graft.training.errors import InputError


@pytest.fixture
def square() -> np.ndarray:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[8:24, 8:24] = (10, 60, 250)
    return picture


def test_edges_are_those_of_opencv(square: np.ndarray) -> None:
    blurred = cv2.GaussianBlur(square, (5, 5), 0)
    assert np.array_equal(canny_edges(blurred, 60, 180), cv2.Canny(blurred, 60, 180))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (63, 40), (64, 40), (65, 40), (129, 300)])
def test_edges_of_any_size_are_those_of_opencv(size: tuple[int, int]) -> None:
    """Strips of 64 rows are made one by one; of equally strong channels the first counts, which few levels make frequent."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for picture in (noise, np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 1.5).reshape(noise.shape)), noise // 128 * 60):
        for low, high in ((20, 60), (100, 200), (300, 700)):
            assert np.array_equal(canny_edges(picture, low, high), cv2.Canny(picture, low, high, apertureSize=3, L2gradient=False))


def test_edges_follow_the_outline_and_thresholds_decide(square: np.ndarray) -> None:
    edges = canny_edges(square, 100, 200)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges)
    assert rows.min() in (7, 8) and rows.max() in (23, 24) and columns.min() in (7, 8) and columns.max() in (23, 24)
    assert not edges[10:22, 10:22].any()
    assert not canny_edges(square, 1500, 2000).any()


def test_a_step_between_colours_of_equal_grey_is_an_edge() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8], picture[:, 8:] = (200, 0, 0), (0, 102, 0)
    assert abs(int(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[0, 0]) - int(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[0, 15])) <= 1
    assert canny_edges(picture, 100, 200).any()


def test_the_node_sees_the_same_edges_as_the_data_set(square: np.ndarray) -> None:
    image = torch.from_numpy(square).float().div(255)[None]
    edges = canny_images(image, 100, 200)
    assert edges.shape == (1, 32, 32, 3)
    assert torch.equal(edges[0, :, :, 1], torch.from_numpy(canny_edges(square, 100, 200)).float() / 255)


def test_hint_ranges() -> None:
    edges = torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8)
    assert torch.equal(edge_pixels(edges)[0, 2], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert edge_pixels(edges).shape == (1, 3, 2, 2)


def test_fixed_thresholds_stay() -> None:
    recipe = CannyRecipe()
    assert recipe.is_fixed and {recipe.thresholds(seed, seed, seed) for seed in range(5)} == {(100, 200)}


def test_drawn_thresholds_stay_in_range_and_fill_it(ranged: CannyRecipe) -> None:
    pairs = [ranged.thresholds(3, sample, epoch) for sample in range(40) for epoch in range(40)]
    assert all(20 <= low <= 120 and 100 <= high <= 240 and low < high for low, high in pairs)
    assert {low for low, _ in pairs} == set(range(20, 121)) and {high for _, high in pairs} == set(range(100, 241))


def test_low_stays_below_high_where_the_ranges_overlap() -> None:
    recipe = CannyRecipe(low=(100, 200), high=(100, 201))
    assert all(low < high <= 201 for low, high in (recipe.thresholds(0, sample, 0) for sample in range(500)))


def test_thresholds_depend_on_seed_sample_and_epoch_alone(ranged: CannyRecipe) -> None:
    """They are hashes, so a resumed run draws the same ones, on any machine and with any version of numpy."""

    def drawn(first: int, last: int, text: str) -> int:
        return first + int(hashlib.sha256(text.encode()).hexdigest(), 16) % (last - first + 1)

    for seed, sample, epoch in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)):
        low = drawn(20, 120, f'["canny low",{seed},"{sample}",{epoch}]')
        high = drawn(max(100, low + 1), 240, f'["canny high",{seed},"{sample}",{epoch}]')
        assert ranged.thresholds(seed, sample, epoch) == (low, high)


@pytest.mark.parametrize(
    "low, high", [((-1, 10), (20, 30)), ((10, 5), (20, 30)), ((0, 10), (20, 3000)), ((50, 50), (50, 50)), ((200, 200), (100, 100)),
                  ((1.5, 2), (20, 30))],
)  # fmt: skip
def test_impossible_thresholds_are_refused(low: tuple[int, int], high: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="canny"):
        CannyRecipe(low, high)


def test_a_recipe_says_what_it_is(ranged: CannyRecipe) -> None:
    assert CannyRecipe().describe() == "canny low 100 high 200"
    assert ranged.describe() == "canny low 20..120 high 100..240"


def test_images_without_three_channels_are_refused() -> None:
    with pytest.raises(InputError, match="image"):
        canny_images(torch.zeros(1, 8, 8, 4), 100, 200)

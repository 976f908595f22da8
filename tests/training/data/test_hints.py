"""Hints are functions of picture, seed, sample and epoch alone, and do what they say: expected values by OpenCV, numpy or by hand."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from graft.training.data.canny import CannyRecipe
from graft.training.data.hints import (
    Augmented,
    AutoCanny,
    Blurred,
    DrawnHint,
    Grey,
    InpaintMask,
    LowResolution,
    SoftEdges,
    hint_key,
    recipe_fields,
    recipe_of,
)
from graft.training.errors import InputError

RECIPES: list[CannyRecipe | DrawnHint] = [
    CannyRecipe(), AutoCanny(), AutoCanny(rule="median", factor=(0.5, 2.0)), Blurred(), Blurred(sigma_px=(1.0, 8.0)), LowResolution(),
    LowResolution(factor=(2.0, 8.0)), Grey(), SoftEdges(), InpaintMask(), Augmented(), Augmented(recipe=Grey(), blur_px=(0.5, 3.0)),
    Augmented(recipe=AutoCanny(), patch_share=(0.2, 0.4), empty_share=0.3),
]  # fmt: skip


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A bright disc on a dark ground with grain, not square."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(96), np.arange(64))
    disc = np.where(np.hypot(across - 50, down - 30) < 18, 180, 60)[..., None] + np.array([20, 0, 40])
    return (disc + random.normal(0, 4, (64, 96, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.describe())
def test_every_recipe_keeps_the_rules(recipe: CannyRecipe | DrawnHint, picture: np.ndarray) -> None:
    hint = recipe.hint(picture, 1, "a", 0)
    assert hint.shape == picture.shape and hint.dtype == np.uint8
    assert np.array_equal(hint, recipe.hint(picture.copy(), 1, "a", 0))
    others = [recipe.hint(picture, seed, sample, epoch) for seed, sample, epoch in ((2, "a", 0), (1, "b", 0), (1, "a", 1), (1, "a", 2), (1, "a", 3))]
    assert all(np.array_equal(hint, other) for other in others) == recipe.is_fixed
    assert recipe_of(json.loads(json.dumps(recipe_fields(recipe)))) == recipe


def test_keys_tell_recipes_apart_and_canny_keeps_its_own() -> None:
    assert len({json.dumps(hint_key(recipe)) for recipe in RECIPES}) == len(RECIPES)
    assert hint_key(CannyRecipe((1, 2), (30, 40))) == [(1, 2), (30, 40)]


def test_otsu_edges(picture: np.ndarray) -> None:
    high = cv2.threshold(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 0, 255, cv2.THRESH_OTSU)[0]
    expected = cv2.Canny(picture, round(high / 2), round(high))
    assert 60 < high < 180 and np.array_equal(AutoCanny().hint(picture, 0, "a", 0)[..., 0], expected)


def test_median_edges(picture: np.ndarray) -> None:
    middle = np.median(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    expected = cv2.Canny(picture, round(0.67 * middle), round(1.33 * middle))
    assert np.array_equal(AutoCanny(rule="median").hint(picture, 0, "a", 0)[..., 2], expected)


def test_automatic_thresholds_find_the_disc_in_the_dark(picture: np.ndarray) -> None:
    dark = (picture // 6).astype(np.uint8)
    assert not cv2.Canny(dark, 100, 200).any() and np.count_nonzero(AutoCanny().hint(dark, 0, "a", 0)) > 60
    assert AutoCanny().hint(np.zeros_like(picture), 0, "a", 0).max() == 0


def test_drawn_factors_scale_both_thresholds(picture: np.ndarray) -> None:
    recipe = AutoCanny(factor=(0.5, 2.0))
    low, high = recipe.thresholds(picture, 1.0)
    assert recipe.thresholds(picture, 2.0) == (pytest.approx(2 * low, abs=1), 2 * high) and low < high


def test_blur_low_resolution_and_grey(picture: np.ndarray) -> None:
    assert np.array_equal(Blurred(sigma_px=(3, 3)).hint(picture, 0, "a", 0), cv2.GaussianBlur(picture, (0, 0), 3))
    small = picture.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))  # averages of 4 x 4 pixels
    back = LowResolution().hint(picture, 0, "a", 0)
    assert abs(back.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3)) - small)[1:-1, 1:-1].mean() < 2
    luma = picture @ [0.299, 0.587, 0.114]
    grey = Grey().hint(picture, 0, "a", 0)
    assert np.abs(grey[..., 0] - luma).max() <= 1 and np.array_equal(grey[..., 0], grey[..., 2])


def test_soft_edges_are_where_the_picture_changes(picture: np.ndarray) -> None:
    strength = SoftEdges().hint(picture, 0, "a", 0)[..., 0]
    across, down = np.meshgrid(np.arange(96), np.arange(64))
    radius = np.hypot(across - 50, down - 30)
    assert strength[np.abs(radius - 18) < 1].mean() > 150 > 60 > strength[(radius < 12) | (radius > 26)].mean()
    assert SoftEdges().hint(np.full((32, 32, 3), 90, np.uint8), 0, "a", 0).max() == 0


def test_a_mask_hides_about_the_drawn_share_and_nothing_else(picture: np.ndarray) -> None:
    recipe = InpaintMask(share=(0.2, 0.4))
    shares = []
    for epoch in range(20):
        mask, hint = recipe.mask((64, 96), 5, "a", epoch), recipe.hint(picture, 5, "a", epoch)
        assert (hint[mask] == 127).all() and np.array_equal(hint[~mask], picture[~mask])
        shares.append(mask.mean())
    assert min(shares) >= 0.2 and max(shares) < 0.65 and max(shares) - min(shares) > 0.05


def test_augmentation_blurs_before_edges_empties_patches_and_whole_hints(picture: np.ndarray) -> None:
    blurred = Augmented(recipe=CannyRecipe.fixed(40, 80), blur_px=(2.0, 2.0)).hint(picture, 0, "a", 0)
    assert np.array_equal(blurred[..., 0], cv2.Canny(cv2.GaussianBlur(picture, (0, 0), 2), 40, 80))
    holes = Augmented(recipe=Grey(), patch_share=(0.25, 0.25)).hint(picture, 0, "a", 0)
    cells = (holes.reshape(8, 8, 8, 12, 3).max(axis=(1, 3, 4)) == 0).sum()  # 64 x 96 in 8 x 8 cells of 8 x 12
    assert cells == 16
    empty = [not Augmented(recipe=Grey(), empty_share=0.25).hint(picture, 0, "a", epoch).any() for epoch in range(200)]
    assert 30 < sum(empty) < 70


@pytest.mark.parametrize(
    "recipe, options",
    [
        (AutoCanny, {"rule": "best"}), (AutoCanny, {"factor": (2.0, 1.0)}), (AutoCanny, {"spread": 1.0}), (Blurred, {"sigma_px": (0.0, 1.0)}),
        (LowResolution, {"factor": (0.5, 2.0)}), (SoftEdges, {"sigma_px": (1.0, 100.0)}), (InpaintMask, {"share": (0.0, 0.5)}),
        (Augmented, {"empty_share": 1.0}), (Augmented, {"patch_share": (0.0, 1.5)}), (Augmented, {"recipe": Augmented()}),
    ],
)
def test_impossible_recipes_are_refused(recipe: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        recipe(**options)


def test_an_unknown_kind_is_not_guessed() -> None:
    with pytest.raises(KeyError):
        recipe_of({"kind": "of tomorrow"})

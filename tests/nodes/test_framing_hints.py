"""Buckets and Views, Picture Hint and Augment Hint: thin nodes over the engine's framing and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graft.nodes.framing import CutPictures
from graft.nodes.hints import KINDS, AugmentHint, PictureHint
from graft.training.data.buckets import Buckets
from graft.training.data.canny import CannyRecipe
from graft.training.data.folder import ImageFolder
from graft.training.data.framing import PLAIN, Framing
from graft.training.data.hints import Augmented, AutoCanny, Grey, InpaintMask, LowResolution
from graft.training.errors import InputError

USUAL: dict[str, Any] = {"sizes": "square", "min_px": 256, "max_px": 1024, "step_px": 64, "turned_views": 0, "rotation_degrees": 0.0}
STRENGTHS = {"inpaint mask": 0.3, "low resolution": 2.0}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((2, 48, 64, 3), np.float32))


def test_the_data_set_is_the_same_with_another_framing(tmp_path: Path) -> None:
    dataset = ImageFolder(tmp_path, resolution_px=512, held_out=3)
    (plain,) = CutPictures().execute(dataset, **USUAL, flip=False)
    assert plain == dataset and plain.framing == PLAIN
    (cut,) = CutPictures().execute(dataset, **{**USUAL, "sizes": "buckets, none enlarged"}, flip=True)
    assert cut.framing == Framing(buckets=Buckets(upscale=False), flip=True) and cut.held_out == 3 and dataset.framing == PLAIN
    (cropped,) = CutPictures().execute(dataset, **USUAL, flip=False, cropped_views=2)
    assert cropped.framing == Framing(cropped_views=2)


def test_a_resolution_outside_the_buckets_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bucket sides"):
        CutPictures().execute(ImageFolder(tmp_path, resolution_px=2048), **{**USUAL, "sizes": "buckets"}, flip=False)


@pytest.mark.parametrize(
    "changed, expected",
    [({}, True), ({"sizes": "buckets", "min_px": 2048}, "bucket sides"), ({"turned_views": 2}, "rotation"),
     ({"cropped_views": 9, "turned_views": 7, "rotation_degrees": 5.0}, "16 views"), ({"cropped_views": 99}, "cropped_views"),
     ({"sizes": "round"}, "sizes")],
)
def test_values_are_checked_before_the_run(changed: dict[str, Any], expected: Any) -> None:
    said = CutPictures.VALIDATE_INPUTS(**{**USUAL, **changed})
    assert said is True if expected is True else expected in said


@pytest.mark.parametrize("kind", KINDS)
def test_hints_are_those_that_a_data_set_makes(kind: str, images: torch.Tensor) -> None:
    hint, recipe = PictureHint().execute(kind, STRENGTHS.get(kind, 1.0), 0.0, images, seed=4)
    assert hint is not None and hint.shape == images.shape and hint.min() >= 0 and hint.max() <= 1
    picture = (images[1] * 255).round().to(torch.uint8).numpy()
    assert torch.equal(hint[1], torch.from_numpy(recipe.hint(picture, 4, "image 1", 0)).float() / 255)


def test_recipes_without_a_picture() -> None:
    assert PictureHint().execute("canny (median)", 0.7, 1.4) == (None, AutoCanny(rule="median", factor=(0.7, 1.4)))
    assert PictureHint().execute("low resolution", 4.0, 2.0) == (None, LowResolution(factor=(4.0, 4.0)))
    assert PictureHint().execute("inpaint mask", 0.1, 0.5) == (None, InpaintMask(share=(0.1, 0.5)))
    assert PictureHint().execute("grey", 9.0, 0.0) == (None, Grey())


def test_a_strength_that_a_kind_cannot_have_is_said_before_the_run() -> None:
    assert PictureHint.VALIDATE_INPUTS("blurred", 4.0, 0.0) is True
    assert "hidden share" in str(PictureHint.VALIDATE_INPUTS("inpaint mask", 2.0, 0.0))
    assert "strength" in str(PictureHint.VALIDATE_INPUTS("blurred", 1000.0, 0.0))


def test_hints_made_worse(images: torch.Tensor) -> None:
    hint, recipe = AugmentHint().execute(CannyRecipe(), 1.5, 0.1, 0.05, images, seed=1)
    assert recipe == Augmented(recipe=CannyRecipe(), blur_px=(0.0, 1.5), patch_share=(0.0, 0.1), empty_share=0.05)
    assert hint is not None and set(hint.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(InputError, match="augmented"):
        AugmentHint().execute(recipe, 1.0, 0.0, 0.0)

"""Stage 2 of the graph: hints other than Canny with thresholds, and worse hints on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.data.canny import CannyRecipe
from ..training.data.hints import Augmented, AutoCanny, Blurred, DrawnHint, Grey, InpaintMask, LowResolution, SoftEdges
from ..training.data.image_batch import eight_bits
from ..training.data.image_check import require_images
from .types import HINT, Inputs, choice, link, number, said_of, seed_input

KINDS = ("canny (otsu)", "canny (median)", "soft edges", "blurred", "low resolution", "grey", "inpaint mask")


class PictureHint:
    """Hints that need no model."""

    DISPLAY_NAME = "Picture Hint"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", HINT), ("hint", "recipe")
    OUTPUT_TOOLTIPS = ("The hints of the connected pictures; nothing when no image is connected.", "The same recipe for a data set's hints.")
    DESCRIPTION = (
        "Hints by OpenCV without a model: edges whose thresholds follow from each picture, soft edges, blurred, shrunk or grey pictures, or pictures "
        "with parts hidden. Connect `recipe` to a data set and use `hint` to test what was trained. With a range, each picture draws a strength of "
        "its own in each epoch."
    )
    SEARCH_ALIASES = ("preprocessor", "control hint", "auto canny", "tile", "inpaint", "deblur", "colorize")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        strength = (
            "Canny: a factor for the automatic thresholds. Soft edges and blurred: the Gaussian's width in pixels. Low resolution: how many times "
            "smaller. Inpaint mask: the share that is hidden. Not used for grey."
        )
        return {
            "required": {
                "kind": choice(KINDS, "What the hint keeps of the picture."),
                "strength": number(1.0, 0.01, 256.0, 0.01, strength),
                "strength_to": number(0.0, 0.0, 256.0, 0.01, "Upper end of the range from which training draws the strength; at or below it: fixed."),
            },
            "optional": {
                "image": link("IMAGE", "Pictures to make hints of; not needed for the recipe alone."),
                "seed": seed_input("For hints that are drawn: which draw `hint` shows."),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, kind: Any, strength: Any, strength_to: Any) -> bool | str:  # noqa: N802
        given = {"kind": kind, "strength": strength, "strength_to": strength_to}
        return said_of(cls, given, lambda: picture_recipe(**given))

    def execute(
        self, kind: str, strength: float, strength_to: float, image: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor | None, DrawnHint]:
        recipe = picture_recipe(kind, strength, strength_to)
        return (None if image is None else hint_images(recipe, image, seed), recipe)


class AugmentHint:
    """A recipe made worse on purpose."""

    DISPLAY_NAME = "Augment Hint"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", HINT), ("hint", "recipe")
    OUTPUT_TOOLTIPS = ("The hints of the connected pictures; nothing when no image is connected.", "The augmented recipe for a data set's hints.")
    DESCRIPTION = (
        "Makes a ControlNet bear hints that are not perfect: in each epoch the picture is blurred a little before its hint is made, patches of the "
        "hint are empty, or the whole hint is. Connect a recipe of Canny Hint or Picture Hint, and the result to the data set."
    )
    SEARCH_ALIASES = ("hint dropout", "augmentation", "robust controlnet")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "recipe": link(HINT, "The hint that is made worse."),
                "blur_px": number(1.5, 0.0, 64.0, 0.1, "Each picture is blurred by a drawn width of 0 to this many pixels before its hint is made."),
                "patches": number(0.1, 0.0, 1.0, 0.01, "Up to this share of the hint is empty, in patches of an eighth of its sides."),
                "empty": number(0.05, 0.0, 0.99, 0.01, "How often the whole hint is empty: the ControlNet learns to leave the picture alone then."),
            },
            "optional": {
                "image": link("IMAGE", "Pictures to make hints of; not needed for the recipe alone."),
                "seed": seed_input("Which draw `hint` shows."),
            },
        }

    def execute(
        self, recipe: CannyRecipe | DrawnHint, blur_px: float, patches: float, empty: float, image: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor | None, DrawnHint]:
        worse = Augmented(recipe=recipe, blur_px=(0.0, blur_px), patch_share=(0.0, patches), empty_share=empty)
        return (None if image is None else hint_images(worse, image, seed), worse)


def picture_recipe(kind: str, strength: float, strength_to: float) -> DrawnHint:
    """The widgets' values as the engine's recipe; an upper end at or below the lower one means a fixed strength.

    Raises:
        InputError: a strength that the kind cannot have.
    """
    ends = (strength, max(strength, strength_to))
    if kind in KINDS[:2]:
        return AutoCanny(rule="otsu" if kind == KINDS[0] else "median", factor=ends)
    if kind == "low resolution":
        return LowResolution(factor=ends)
    if kind == "inpaint mask":
        return InpaintMask(share=ends)
    if kind == "grey":
        return Grey()
    return SoftEdges(sigma_px=ends) if kind == "soft edges" else Blurred(sigma_px=ends)


def hint_images(recipe: DrawnHint, images: Tensor, seed: int) -> Tensor:
    """Hints of pictures as the graph carries them: [B, H, W, 3] in 0..1 of both.

    Raises:
        InputError: no RGB pictures.
    """
    require_images("image", [images])
    hints = [recipe.hint(eight_bits(image), seed, f"image {place}", 0) for place, image in enumerate(images)]
    return torch.from_numpy(np.stack(hints)).float().div(255)


NODES = {"GraftPictureHint": PictureHint, "GraftAugmentHint": AugmentHint}

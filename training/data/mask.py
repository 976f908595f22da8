"""Masks: where a picture counts. White counts fully, black by the background's weight; a mask goes through the same cut as its picture.

A mask lies beside its picture under its name and `-masklabel.png` (OneTrainer's custom), is the picture's own transparency, or came with it out
of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..errors import InputError
from ..flux_space import PIXELS_PER_LATENT
from .dataset import Problem, list_problems
from .keys import content_key
from .picture import decode_alpha
from .picture_header import UnreadablePictureError
from .sources.place import BytesPlace, Place

Cut: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
"""uint8 [h, w] of the whole picture -> uint8 [H, W] as it is trained in."""


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask of one picture."""

    place: Place
    digest: str
    """SHA-256 by which the place knows it."""
    is_alpha: bool
    """Whether it is the transparency of the picture that lies there, rather than a picture itself."""
    background: float
    """How much counts what is black in it."""

    def key(self) -> str:
        """Stands for all of it."""
        return content_key("mask", self.digest, self.is_alpha, self.background)

    def weights(self, cut: Cut) -> np.ndarray:
        """How much each cell of the latents counts, fp32 [H/8, W/8]: the mean over its pixels.

        Raises:
            UnreadablePictureError: it cannot be read, or nothing of the picture would count.
        """
        weights = self._weighted(cut(self._whole()))
        if not weights.any():
            raise UnreadablePictureError("is black all over where the picture is cut, and the background counts nothing")
        return weights

    def _whole(self) -> np.ndarray:
        """uint8 [h, w]; white all over where a picture has no transparency."""
        if not self.is_alpha:
            return self.place.picture(self.digest).mean(axis=2).round().astype(np.uint8)
        assert isinstance(self.place, BytesPlace), "only files have transparency"
        return decode_alpha(self.place.whole(self.digest))

    def _weighted(self, mask: np.ndarray) -> np.ndarray:
        height, width = (side // PIXELS_PER_LATENT for side in mask.shape)
        cells = mask.reshape(height, PIXELS_PER_LATENT, width, PIXELS_PER_LATENT).mean(axis=(1, 3)) / 255
        return (self.background + (1 - self.background) * cells).astype(np.float32)


def whole_picture(width_px: int, height_px: int) -> np.ndarray:
    """The weights of a picture without a mask."""
    return np.ones((height_px // PIXELS_PER_LATENT, width_px // PIXELS_PER_LATENT), np.float32)


def require_background(weight: float) -> None:
    """Raises:
    InputError: not from 0 to 1.
    """
    if not 0 <= weight <= 1:
        remedy = "0 learns nothing outside of masks; 0.1 a little, which keeps the rest of the picture sensible."
        raise InputError("background weight", expected="0 to 1", found=weight, remedy=remedy)


def require_usable_masks(problems: Sequence[Problem]) -> None:
    """Raises:
    InputError: there are problems; all are listed.
    """
    if problems:
        remedy = "Mend or remove these masks (a picture without one counts as a whole), or give the background some weight."
        raise InputError("masks", expected="readable masks with something white in them", found=list_problems(problems), remedy=remedy)

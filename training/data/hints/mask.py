"""The picture with parts of it hidden, for ControlNets that fill them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...opencv import cv2
from ..keys import drawn_number
from .base import DrawnHint, drawn_real, range_text, require_range

HIDDEN = 127
"""The value of hidden pixels, which is the middle: 0 in the -1..1 that ControlNets see."""
_SHAPES_LIMIT = 64
_RECTANGLE, _ELLIPSE, _STROKE = range(3)


@dataclass(frozen=True)
class InpaintMask(DrawnHint):
    """Rectangles, ellipses and brush strokes over the picture until about a drawn share is hidden; others in each epoch (Drawable).

    Raises:
        InputError: shares out of range.
    """

    kind: ClassVar[str] = "inpaint mask"
    share: tuple[float, float] = (0.1, 0.5)
    """Range of the share of the picture that is hidden."""

    def __post_init__(self) -> None:
        require_range("hidden share", self.share, 0.01, 0.95, "of the picture", "0.1 to 0.5 is usual.")

    @property
    def is_fixed(self) -> bool:
        return False

    def describe(self) -> str:
        return f"{range_text(self.share)} of the picture hidden"

    def mask(self, size: tuple[int, int], seed: int, sample: str, epoch: int) -> np.ndarray:
        """What is hidden of a picture of this height and width: bool [H, W]."""
        wanted = drawn_real(*self.share, "hidden share", seed, sample, epoch)
        canvas = np.zeros(size, np.uint8)
        for number in range(_SHAPES_LIMIT):
            if np.count_nonzero(canvas) >= wanted * canvas.size:
                break
            _draw(canvas, wanted, seed, sample, epoch, number)
        return canvas > 0

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        return np.where(self.mask(picture.shape[:2], seed, sample, epoch)[:, :, None], np.uint8(HIDDEN), picture)


def _draw(canvas: np.ndarray, share: float, seed: int, sample: str, epoch: int, number: int) -> None:
    """One shape, about half the share that is wanted at the most."""
    height, width = canvas.shape

    def drawn(what: str, low: float, high: float) -> float:
        return drawn_real(low, high, "hidden", what, seed, sample, epoch, number)

    def place(what: str) -> tuple[int, int]:
        return round(drawn(f"{what} x", 0, width - 1)), round(drawn(f"{what} y", 0, height - 1))

    kind, reach = drawn_number(_RECTANGLE, _STROKE, "hidden kind", seed, sample, epoch, number), (share * width * height / 2) ** 0.5
    centre, half = place("centre"), (max(round(drawn("wide", 0.3, 0.6) * reach), 1), max(round(drawn("high", 0.3, 0.6) * reach), 1))
    if kind == _RECTANGLE:
        cv2.rectangle(canvas, (centre[0] - half[0], centre[1] - half[1]), (centre[0] + half[0], centre[1] + half[1]), 255, -1)
    elif kind == _ELLIPSE:
        cv2.ellipse(canvas, centre, half, drawn("turn", 0, 180), 0, 360, 255, -1)
    else:
        cv2.line(canvas, centre, place("end"), 255, max(round(reach * drawn("thick", 0.1, 0.3)), 1), cv2.LINE_8)

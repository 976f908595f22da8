"""Canny edges whose thresholds follow from the picture: dark and soft pictures get edges too, noisy ones not too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...errors import InputError
from ...opencv import cv2
from ..canny import THRESHOLD_LIMIT, canny_edges
from .base import DrawnHint, drawn_real, range_text, require_range, three_channels

Rule = Literal["otsu", "median"]


@dataclass(frozen=True)
class AutoCanny(DrawnHint):
    """Edges with thresholds by a rule (Drawable).

    otsu: Otsu's threshold of the picture's grey values is the upper one, half of it the lower one (M. Fang, G. X. Yue, Q. C. Yu,
    "The Study on an Application of Otsu Method in Canny Operator", 2009). median: (1 - spread) and (1 + spread) times the median grey value.

    Raises:
        InputError: an unknown rule, or factors or a spread out of range.
    """

    kind: ClassVar[str] = "auto canny"
    rule: Rule = "otsu"
    factor: tuple[float, float] = (1.0, 1.0)
    """Range from which each picture draws a factor for both thresholds in each epoch; equal ends: fixed."""
    spread: float = 0.33
    """Of the median rule."""

    def __post_init__(self) -> None:
        if self.rule not in ("otsu", "median"):
            raise InputError("canny rule", expected="otsu or median", found=self.rule, remedy="Choose otsu.")
        require_range("canny factor", self.factor, 0.1, 10.0, "", "1 uses the rule's own thresholds; 0.7 to 1.4 varies them.")
        if not 0 < self.spread < 1:
            raise InputError("canny spread", expected="between 0 and 1", found=self.spread, remedy="0.33 is usual.")

    @property
    def is_fixed(self) -> bool:
        return self.factor[0] == self.factor[1]

    def describe(self) -> str:
        factor = "" if self.factor == (1.0, 1.0) else f" times {range_text(self.factor)}"
        return f"canny by the {self.rule} rule{factor}"

    def thresholds(self, picture: np.ndarray, factor: float) -> tuple[int, int]:
        """Low and high, low < high, for uint8 RGB [H, W, 3]."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if self.rule == "otsu":
            high = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
            low = high / 2
        else:
            middle = float(np.median(grey))
            low, high = (1 - self.spread) * middle, (1 + self.spread) * middle
        upper = min(max(round(high * factor), 1), THRESHOLD_LIMIT)
        return min(round(low * factor), upper - 1), upper

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        factor = drawn_real(*self.factor, "canny factor", seed, sample, epoch)
        return three_channels(canny_edges(picture, *self.thresholds(picture, factor)))

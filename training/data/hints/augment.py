"""Worse hints on purpose: a ControlNet that has seen blurred, patchy and missing hints bears those that users draw."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError
from ...opencv import cv2
from ..canny import CannyRecipe
from ..keys import drawn_number
from .base import DrawnHint, drawn_real, range_text, require_range

_CELLS = 8


@dataclass(frozen=True)
class Augmented(DrawnHint):
    """Another recipe, from a blurred picture or with parts of the hint missing (Drawable).

    Raises:
        InputError: values out of range, or a recipe that is augmented already.
    """

    kind: ClassVar[str] = "augmented"
    recipe: CannyRecipe | DrawnHint = field(default_factory=CannyRecipe)
    blur_px: tuple[float, float] = (0.0, 0.0)
    """Range of the Gaussian by which the picture is blurred before its hint is made; below 0.1 it is not."""
    patch_share: tuple[float, float] = (0.0, 0.0)
    """Range of the share of the hint, in an 8 x 8 grid, that is made empty."""
    empty_share: float = 0.0
    """How often the whole hint is empty."""

    def __post_init__(self) -> None:
        require_range("hint blur", self.blur_px, 0.0, 64.0, "px", "0 to 2 makes edges of soft pictures.")
        require_range("hint patches", self.patch_share, 0.0, 1.0, "of the hint", "0 to 0.2 is much already.")
        if not 0 <= self.empty_share < 1:
            raise InputError("empty hints", expected="0 to below 1", found=self.empty_share, remedy="0.05 leaves one in twenty empty.")
        if isinstance(self.recipe, Augmented):
            raise InputError("hint recipe", expected="one that is not augmented yet", found=self.recipe.describe(), remedy="Connect that one's own.")

    @property
    def is_fixed(self) -> bool:
        blurs_alike = self.blur_px[0] == self.blur_px[1]
        return self.recipe.is_fixed and blurs_alike and self.patch_share == (0, 0) and self.empty_share == 0

    def fields(self) -> dict[str, Any]:
        inner = asdict(self.recipe) if isinstance(self.recipe, CannyRecipe) else self.recipe.fields()
        return {
            "kind": self.kind, "recipe": inner, "blur_px": self.blur_px, "patch_share": self.patch_share, "empty_share": self.empty_share
        }  # fmt: skip

    def describe(self) -> str:
        blur = f", the picture blurred by {range_text(self.blur_px)} px" if self.blur_px[1] else ""
        patches = f", {range_text(self.patch_share)} of it empty" if self.patch_share[1] else ""
        return self.recipe.describe() + blur + patches + (f", {self.empty_share:g} of all empty" if self.empty_share else "")

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        if drawn_real(0, 1, "hint empty", seed, sample, epoch) < self.empty_share:
            return np.zeros_like(picture)
        sigma = drawn_real(*self.blur_px, "hint blur", seed, sample, epoch)
        made = self.recipe.hint(cv2.GaussianBlur(picture, (0, 0), sigma) if sigma >= 0.1 else picture, seed, sample, epoch)
        return self._with_holes(made, seed, sample, epoch)

    def _with_holes(self, hint: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        count = round(_CELLS**2 * drawn_real(*self.patch_share, "hint patches", seed, sample, epoch))
        if not count:
            return hint
        order = sorted(range(_CELLS**2), key=lambda cell: drawn_number(0, 2**32, "hint patch", seed, sample, epoch, cell))
        empty = np.zeros(_CELLS**2, np.uint8)
        empty[order[:count]] = 1
        height, width = hint.shape[:2]
        holes = cv2.resize(empty.reshape(_CELLS, _CELLS), (width, height), interpolation=cv2.INTER_NEAREST)
        return np.where(holes[:, :, None] > 0, np.uint8(0), hint)

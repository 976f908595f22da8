"""Hints that keep less of the picture than it has: blurred, of fewer pixels, without colour, or only where it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...opencv import cv2
from .base import DrawnHint, drawn_real, range_text, require_range, three_channels


@dataclass(frozen=True)
class Blurred(DrawnHint):
    """The picture through a Gaussian (Drawable): for ControlNets that sharpen.

    Raises:
        InputError: a width out of range.
    """

    kind: ClassVar[str] = "blurred"
    sigma_px: tuple[float, float] = (4.0, 4.0)
    """Range from which each picture draws the Gaussian's standard deviation in each epoch."""

    def __post_init__(self) -> None:
        require_range("blur", self.sigma_px, 0.1, 256.0, "px", "4 at 512 px takes away the details, 16 all but the colours.")

    @property
    def is_fixed(self) -> bool:
        return self.sigma_px[0] == self.sigma_px[1]

    def describe(self) -> str:
        return f"blurred by {range_text(self.sigma_px)} px"

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        return cv2.GaussianBlur(picture, (0, 0), drawn_real(*self.sigma_px, "blur", seed, sample, epoch))


@dataclass(frozen=True)
class LowResolution(DrawnHint):
    """The picture made smaller by area averages and larger again (Drawable): for ControlNets that upscale.

    Raises:
        InputError: a factor out of range.
    """

    kind: ClassVar[str] = "low resolution"
    factor: tuple[float, float] = (4.0, 4.0)
    """Range of the factor by which both sides shrink."""

    def __post_init__(self) -> None:
        require_range("low resolution", self.factor, 1.0, 64.0, "times", "4 is usual; 2..8 for one that takes several.")

    @property
    def is_fixed(self) -> bool:
        return self.factor[0] == self.factor[1]

    def describe(self) -> str:
        return f"{range_text(self.factor)} times smaller and back"

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        factor, (height, width) = drawn_real(*self.factor, "low resolution", seed, sample, epoch), picture.shape[:2]
        small = cv2.resize(picture, (max(round(width / factor), 1), max(round(height / factor), 1)), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Grey(DrawnHint):
    """The picture's luma (ITU-R BT.601, as OpenCV has it) in three equal channels (Drawable): for ControlNets that colour."""

    kind: ClassVar[str] = "grey"

    @property
    def is_fixed(self) -> bool:
        return True

    def describe(self) -> str:
        return "greyscale"

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        return three_channels(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


@dataclass(frozen=True)
class SoftEdges(DrawnHint):
    """The strength of the change, not a line (Drawable): Scharr gradients of the blurred grey picture, the strongest percent white.

    Raises:
        InputError: a width out of range.
    """

    kind: ClassVar[str] = "soft edges"
    sigma_px: tuple[float, float] = (1.5, 1.5)
    """Range of the Gaussian before the gradient."""

    def __post_init__(self) -> None:
        require_range("soft edges", self.sigma_px, 0.1, 64.0, "px", "1.5 keeps fine lines, 4 only outlines.")

    @property
    def is_fixed(self) -> bool:
        return self.sigma_px[0] == self.sigma_px[1]

    def describe(self) -> str:
        return f"soft edges after a blur of {range_text(self.sigma_px)} px"

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        smooth = cv2.GaussianBlur(grey, (0, 0), drawn_real(*self.sigma_px, "soft edges", seed, sample, epoch))
        strength = cv2.magnitude(cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1))
        white = max(float(np.percentile(strength, 99)), 1.0)  # of a flat picture nothing is an edge
        return three_channels((np.minimum(strength / white, 1) * 255).round().astype(np.uint8))

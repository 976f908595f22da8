"""Canny hints: one function for training, for the hint node and for measuring, so that all three see the same edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..opencv import cv2
from .keys import drawn_number

# The strongest gradient of 8-bit pictures as OpenCV adds it up: a Sobel response of 1020 in x and in y.
THRESHOLD_LIMIT = 2040
_SOBEL_APERTURE_PX = 3
_STRIP_ROWS = 64


@dataclass(frozen=True)
class CannyRecipe:
    """How edges are made from a picture: two hysteresis thresholds, each a range of whole numbers (equal ends: fixed).

    Raises:
        InputError: a threshold outside 0 to THRESHOLD_LIMIT, a range whose ends are swapped, or no room for low < high.
    """

    low: tuple[int, int] = (100, 100)
    """Range of the lower threshold: a pixel between the two is an edge if it touches a stronger one."""
    high: tuple[int, int] = (200, 200)
    """Range of the upper threshold: from this gradient on, a pixel is an edge."""

    def __post_init__(self) -> None:
        _require_range("canny low threshold", self.low)
        _require_range("canny high threshold", self.high)
        if self.low[1] >= self.high[1]:
            raise InputError(
                "canny thresholds", expected="the lower to end below the higher's end", found=self.describe(),
                remedy="Raise the high threshold or lower the low one.",
            )  # fmt: skip

    @classmethod
    def fixed(cls, low: int, high: int) -> CannyRecipe:
        """The recipe that uses the same two thresholds for every picture."""
        return cls((low, low), (high, high))

    @property
    def is_fixed(self) -> bool:
        """Whether every picture always gets the same thresholds."""
        return self.low[0] == self.low[1] and self.high[0] == self.high[1]

    def thresholds(self, seed: int, sample: int | str, epoch: int) -> tuple[int, int]:
        """The thresholds (low, high), low < high, of one sample in one epoch; they depend on these three and the recipe alone."""
        low = drawn_number(*self.low, "canny low", seed, sample, epoch)
        high = drawn_number(max(self.high[0], low + 1), self.high[1], "canny high", seed, sample, epoch)
        return low, high

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        """The edges of one picture, white on black (hints.base.Drawable): uint8 RGB [H, W, 3] of the same size."""
        return np.repeat(canny_edges(picture, *self.thresholds(seed, sample, epoch))[:, :, None], 3, axis=2)

    def describe(self) -> str:
        """The recipe in words, for file metadata and reports: `canny low 100 high 180..220`."""
        return f"canny low {_range_text(self.low)} high {_range_text(self.high)}"


def canny_edges(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """Edges of one picture by cv2.Canny: Sobel aperture 3, gradient |dx| + |dy|, of the channel in which it is strongest.

    Args:
        picture: uint8 RGB [H, W, 3], in the size in which the edges are wanted.
        low: lower hysteresis threshold.
        high: upper hysteresis threshold.

    Returns:
        uint8 [H, W], 255 on edges and 0 elsewhere.
    """
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3, f"not an RGB picture: {picture.dtype} {picture.shape}"
    return cv2.Canny(*_strongest_gradient(np.ascontiguousarray(picture)), low, high, L2gradient=False)


def _strongest_gradient(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel responses in x and y of the channel in which |dx| + |dy| is largest, the first of equals: two int16 [H, W].

    What cv2.Canny does with three channels by itself, pixel by pixel; whole strips at once, which stay in the processor's cache, take half the time.
    """
    height = len(picture)
    across, down = (np.empty(picture.shape[:2], np.int16) for _ in range(2))
    for top in range(0, height, _STRIP_ROWS):
        end = min(top + _STRIP_ROWS, height)
        first = max(top - 1, 0)  # a row more on either side, where there is one
        strip, inner = picture[first : min(end + 1, height)], slice(top - first, end - first)
        across[top:end], down[top:end] = (best[inner] for best in _strongest_of_strip(strip))
    return across, down


def _strongest_of_strip(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    channels = cv2.split(strip)
    best_x, best_y = _gradient(channels[0])
    best = np.abs(best_x) + np.abs(best_y)
    for channel in channels[1:]:
        x, y = _gradient(channel)
        strength = np.abs(x) + np.abs(y)
        is_stronger = cv2.compare(strength, best, cv2.CMP_GT)
        cv2.copyTo(x, is_stronger, best_x)
        cv2.copyTo(y, is_stronger, best_y)
        best = cv2.max(strength, best)
    return best_x, best_y


def _gradient(channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (
        cv2.Sobel(channel, cv2.CV_16S, 1, 0, ksize=_SOBEL_APERTURE_PX, borderType=cv2.BORDER_REPLICATE),
        cv2.Sobel(channel, cv2.CV_16S, 0, 1, ksize=_SOBEL_APERTURE_PX, borderType=cv2.BORDER_REPLICATE),
    )


def canny_images(images: Tensor, low: int, high: int) -> Tensor:
    """Edges of pictures as the graph carries them: [B, H, W, 3] in 0..1 -> [B, H, W, 3] in {0, 1}, three equal channels.

    Raises:
        InputError: impossible thresholds, or pictures of another shape.
    """
    recipe = CannyRecipe.fixed(low, high)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError("image", expected="RGB pictures [B, H, W, 3]", found=list(images.shape), remedy="Connect an IMAGE output.")
    pictures = (images.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    edges = np.stack([canny_edges(picture, recipe.low[0], recipe.high[0]) for picture in pictures])
    return torch.from_numpy(edges).float().div(255).unsqueeze(-1).repeat(1, 1, 1, 3)


def edge_pixels(edges: Tensor) -> Tensor:
    """Edges as a picture: uint8 [B, H, W] in {0, 255} -> float [B, 3, H, W] in {0, 1}, white on black."""
    return edges.float().div(255).unsqueeze(1).repeat(1, 3, 1, 1)


def _require_range(name: str, ends: tuple[int, int]) -> None:
    whole = len(ends) == 2 and all(isinstance(end, int) for end in ends)
    if not whole or not 0 <= ends[0] <= ends[1] <= THRESHOLD_LIMIT:
        raise InputError(
            name, expected=f"whole numbers from 0 to {THRESHOLD_LIMIT}, the first not above the second", found=ends,
            remedy="Canny thresholds of 100 and 200 suit most pictures.",
        )  # fmt: skip


def _range_text(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"

"""Aspect buckets by the rule of sd-scripts: which size a picture is trained in, and to what it is scaled before it is cropped to that size.

Source of the rule: kohya-ss/sd-scripts, library/model_util.py (the set of sizes) and library/train_util.py (the choice), as facts/formats.md
states it. The same picture gets the same bucket here as there, floating point included: trainings can be moved between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ..errors import InputError
from .picture_header import UnreadablePictureError

GRID_PX = 16
"""Sides divide by this: eight pixels to a latent, two latents to a patch."""
Size: TypeAlias = "tuple[int, int]"
"""Width and height in pixels."""


@dataclass(frozen=True)
class Frame:
    """Where one picture goes: scaled to `scaled_px`, then cropped at its centre to `size_px`."""

    scaled_px: Size
    size_px: Size

    @property
    def corner_px(self) -> Size:
        """Left and top of the crop in the scaled picture."""
        (wide, high), (width, height) = self.scaled_px, self.size_px
        return (wide - width) // 2, (high - height) // 2

    @property
    def cropped_share(self) -> float:
        """Share of the scaled picture that is cropped away."""
        return 1 - math.prod(self.size_px) / math.prod(self.scaled_px)


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Sizes of about the same area as the resolution's square, one of which each picture is given.

    Raises:
        InputError: a step that does not divide by GRID_PX, ends that do not divide by the step, or that are swapped.
    """

    min_px: int = 256
    """The shortest side of a bucket."""
    max_px: int = 1024
    """The longest side of a bucket."""
    step_px: int = 64
    """Sides are multiples of this."""
    upscale: bool = True
    """False: no picture is enlarged. The sizes then follow from the pictures, and `min_px` and `max_px` are not used."""

    def __post_init__(self) -> None:
        if self.step_px < GRID_PX or self.step_px % GRID_PX:
            raise InputError("bucket step", expected=f"a multiple of {GRID_PX}", found=self.step_px, remedy="64 is usual.")
        ends = (self.min_px, self.max_px)
        if not 0 < self.min_px <= self.max_px or any(end % self.step_px for end in ends):
            expected = f"multiples of the step ({self.step_px}), the first not above the second"
            raise InputError("bucket sides", expected=expected, found=ends, remedy="256 and 1024 are usual, 512 and 2048 at 1024 px.")

    def require_resolution(self, resolution_px: int) -> None:
        """Raises:
        InputError: the square of the resolution lies outside the buckets' sides.
        """
        if self.upscale and not self.min_px <= resolution_px <= self.max_px:
            expected = f"the resolution's side between them, {resolution_px}"
            remedy = "Lower the shortest side or raise the longest."
            raise InputError("bucket sides", expected=expected, found=(self.min_px, self.max_px), remedy=remedy)

    def sizes(self, resolution_px: int) -> tuple[Size, ...]:
        """All buckets for the area of a square, sorted; none where the sizes follow from the pictures (`upscale` False)."""
        return _sizes(resolution_px**2, self.min_px, self.max_px, self.step_px) if self.upscale else ()

    def frame(self, size_px: Size, resolution_px: int) -> Frame:
        """The bucket of a picture and how it gets there.

        Args:
            size_px: the picture's width and height, upright.
            resolution_px: side of the square whose area the buckets have.

        Raises:
            UnreadablePictureError: it is smaller than one step and may not be enlarged.
        """
        return self._covering(size_px, resolution_px) if self.upscale else self._shrinking(size_px, resolution_px)

    def describe(self) -> str:
        """In words, for reports: `256..1024 px in steps of 64`."""
        return f"{self.min_px}..{self.max_px} px in steps of {self.step_px}" if self.upscale else f"in steps of {self.step_px} px, none enlarged"

    def _covering(self, size_px: Size, resolution_px: int) -> Frame:
        width, height = size_px
        bucket = _nearest(size_px, self.sizes(resolution_px))
        # By its height where the picture is the wider of the two, else by its width; rounded half up.
        scale = bucket[1] / height if width / height > bucket[0] / bucket[1] else bucket[0] / width
        return Frame((int(width * scale + 0.5), int(height * scale + 0.5)), bucket)

    def _shrinking(self, size_px: Size, resolution_px: int) -> Frame:
        scaled = self._shrunk(size_px, resolution_px**2) if math.prod(size_px) > resolution_px**2 else size_px
        size = (scaled[0] - scaled[0] % self.step_px, scaled[1] - scaled[1] % self.step_px)
        if 0 in size:
            raise UnreadablePictureError(f"has {size_px[0]} x {size_px[1]} pixels, less than one bucket step ({self.step_px})")
        return Frame(scaled, size)

    def _shrunk(self, size_px: Size, area: int) -> Size:
        """To the area: one side to a multiple of the step, the other by the proportions; whichever keeps the proportions better."""
        ratio = size_px[0] / size_px[1]
        width = math.sqrt(area * ratio)
        by_width, by_height = self._stepped(width), self._stepped(area / width)
        height_of, width_of = self._stepped(by_width / ratio), self._stepped(by_height * ratio)
        if not (by_width and by_height and height_of and width_of):
            raise UnreadablePictureError(f"has {size_px[0]} x {size_px[1]} pixels: at the resolution's area, one side is less than one bucket step")
        if abs(by_width / height_of - ratio) < abs(width_of / by_height - ratio):
            return by_width, int(by_width / ratio + 0.5)
        return int(by_height * ratio + 0.5), by_height

    def _stepped(self, side: float) -> int:
        rounded = int(side + 0.5)
        return rounded - rounded % self.step_px


@lru_cache(maxsize=8)
def _sizes(area: int, min_px: int, max_px: int, step_px: int) -> tuple[Size, ...]:
    side = int(math.sqrt(area) // step_px) * step_px
    found = {(side, side)}
    for width in range(min_px, max_px + 1, step_px):
        height = min(max_px, area // width // step_px * step_px)
        if height >= min_px:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def _nearest(size_px: Size, sizes: tuple[Size, ...]) -> Size:
    """The very size if it is there, else the nearest in proportions (their plain difference); the first of equals."""
    if size_px in sizes:
        return size_px
    ratio = size_px[0] / size_px[1]
    return min(sizes, key=lambda size: abs(size[0] / size[1] - ratio))

"""How pictures are cut to the sizes that are trained in: squares or buckets, and views of each (mirrored, turned, cropped elsewhere) beside the plain
one.

Whatever belongs to a picture, its hint or its mask, goes the same way: `Framing.cut` takes the picture's own size for all of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputError
from ..opencv import cv2
from .buckets import Buckets, Frame, Size
from .keys import KeyPart, drawn_number
from .picture import fit_square, scaled

VIEWS_LIMIT = 16
ROTATION_LIMIT_DEGREES = 45.0
_ANGLE_STEPS = _CROP_STEPS = 1000


@dataclass(frozen=True)
class View:
    """One way in which a picture is seen."""

    mirrored: bool = False
    """Left and right exchanged, after the turn."""
    degrees: float = 0.0
    """Turned about its centre, counter-clockwise, and enlarged so far that no corner is empty."""
    crop: tuple[float, float] | None = None
    """Where the part that is kept lies in what there is, from (0, 0), the left and top, to (1, 1), the right and bottom; None: in the middle."""

    @property
    def is_plain(self) -> bool:
        return not self.mirrored and self.degrees == 0 and self.crop is None


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Sizes and views of a data set's pictures. The default: the centre square, seen plainly.

    Raises:
        InputError: values out of range.
    """

    buckets: Buckets | None = None
    """None: every picture is cropped to the resolution's square."""
    flip: bool = False
    """Whether pictures are also seen mirrored."""
    rotation_degrees: float = 0.0
    """Turned views are turned by at most this, to either side."""
    turned_views: int = 0
    """How many turned views each picture has beside the plain one; each is encoded by itself."""
    cropped_views: int = 0
    """How many views each picture has that are cropped at a drawn place in place of the middle. What fits without cropping is encoded once."""

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_degrees <= ROTATION_LIMIT_DEGREES:
            expected = f"0 to {ROTATION_LIMIT_DEGREES:.0f} degrees"
            raise InputError("rotation", expected=expected, found=self.rotation_degrees, remedy="5 is much already; 0 for none.")
        if min(self.turned_views, self.cropped_views) < 0 or self.views > VIEWS_LIMIT:
            expected = f"at most {VIEWS_LIMIT} views of each picture"
            raise InputError("turned and cropped views", expected=expected, found=self.views, remedy="Each is encoded by itself: 2 are many.")
        if bool(self.turned_views) != bool(self.rotation_degrees):
            found = f"{self.turned_views} turned views, {self.rotation_degrees} degrees"
            raise InputError("rotation", expected="both turned views and degrees, or neither", found=found, remedy="Set the other one too.")

    @property
    def views(self) -> int:
        """How many views each picture has, the plain one included."""
        return (1 + self.turned_views + self.cropped_views) * (2 if self.flip else 1)

    @property
    def is_plain(self) -> bool:
        """The centre square and nothing else."""
        return self.buckets is None and self.views == 1

    def view(self, number: int, digest: str) -> View:
        """View `number` of the picture known by `digest`; 0 is the plain one. Angles and crops are drawn for each picture."""
        assert 0 <= number < self.views, f"no view {number} of {self.views}"
        mirrored, kind = (bool(number % 2), number // 2) if self.flip else (False, number)
        if kind > self.turned_views:
            across, down = (drawn_number(0, _CROP_STEPS, f"view crop {axis}", digest, kind - self.turned_views) for axis in ("across", "down"))
            return View(mirrored, crop=(across / _CROP_STEPS, down / _CROP_STEPS))
        place = 0 if kind == 0 else drawn_number(-_ANGLE_STEPS, _ANGLE_STEPS, "view angle", digest, kind)
        return View(mirrored, self.rotation_degrees * place / _ANGLE_STEPS)

    def view_key(self, number: int, digest: str, size_px: Size, resolution_px: int) -> KeyPart:
        """Stands for the pixels of a view: two framings that cut alike have the same. The plain centre square is the digest alone."""
        view = self.view(number, digest)
        frame = None if self.buckets is None else self.frame(size_px, resolution_px)
        middle, corner = (self._corner(size_px, resolution_px, crop) for crop in (None, view.crop))
        moved: list[KeyPart] = [] if corner == middle else [list(corner)]
        if frame is None and not view.mirrored and not view.degrees and not moved:
            return digest
        return [digest, list(frame.scaled_px + frame.size_px) if frame else None, view.mirrored, round(view.degrees, 6), *moved]

    def size(self, size_px: Size, resolution_px: int) -> Size:
        """Width and height in which a picture of this size is trained.

        Raises:
            UnreadablePictureError: it is too small for any bucket.
        """
        return (resolution_px, resolution_px) if self.buckets is None else self.frame(size_px, resolution_px).size_px

    def frame(self, size_px: Size, resolution_px: int) -> Frame:
        """How a picture of this size gets into its bucket."""
        assert self.buckets is not None, "squares are cropped before they are scaled"
        return self.buckets.frame(size_px, resolution_px)

    def cut(self, picture: np.ndarray, size_px: Size, resolution_px: int, view: View = View()) -> np.ndarray:
        """A picture, or a hint or mask of it, in the size that it is trained in.

        Args:
            picture: uint8 [h, w, 3] (or [h, w] for a mask) of any size with the proportions of `size_px`.
            size_px: width and height of the picture itself, which decide the bucket.
            resolution_px: side of the square, or of the square whose area the buckets have.
            view: how it is seen.

        Returns:
            uint8 [height, width, 3] (or [height, width]) of the size that `size` tells.
        """
        plain = self._plain if view.degrees == 0 else self._turned
        cut = plain(picture, size_px, resolution_px, view)
        return np.ascontiguousarray(cut[:, ::-1]) if view.mirrored else cut

    def key(self) -> list[KeyPart]:
        """Everything about it, for keys; empty for the default, whose keys are as they were before there were others."""
        buckets: KeyPart = None if self.buckets is None else [[name, value] for name, value in sorted(asdict(self.buckets).items())]
        cropped = [self.cropped_views] if self.cropped_views else []
        return [] if self.is_plain else ["framing", buckets, self.flip, self.rotation_degrees, self.turned_views, *cropped]

    def describe(self) -> str:
        """In words, for reports."""
        sizes = "centre squares" if self.buckets is None else f"buckets {self.buckets.describe()}"
        turned = f", {self.turned_views} views turned by up to {self.rotation_degrees:g} degrees" if self.turned_views else ""
        cropped = f", {self.cropped_views} views cropped elsewhere" if self.cropped_views else ""
        return sizes + (", mirrored too" if self.flip else "") + turned + cropped

    def _plain(self, picture: np.ndarray, size_px: Size, resolution_px: int, view: View) -> np.ndarray:
        if self.buckets is None:
            return fit_square(_square_at(picture, view.crop), resolution_px)
        frame = self.frame(size_px, resolution_px)
        (left, top), (width, height) = self._corner(size_px, resolution_px, view.crop), frame.size_px
        return np.ascontiguousarray(scaled(picture, frame.scaled_px)[top : top + height, left : left + width])

    def _corner(self, size_px: Size, resolution_px: int, crop: tuple[float, float] | None) -> Size:
        """Left and top of what is kept: of the scaled picture where there are buckets, else of the picture itself."""
        if self.buckets is None:
            return _placed(size_px, (min(size_px), min(size_px)), crop)
        frame = self.frame(size_px, resolution_px)
        return frame.corner_px if crop is None else _placed(frame.scaled_px, frame.size_px, crop)

    def _turned(self, picture: np.ndarray, size_px: Size, resolution_px: int, view: View) -> np.ndarray:
        cut = self._plain(picture, size_px, resolution_px, view)
        height, width = cut.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), view.degrees, _covering_zoom(width, height, view.degrees))
        return cv2.warpAffine(cut, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


PLAIN = Framing()


def _placed(whole_px: Size, part_px: Size, crop: tuple[float, float] | None) -> Size:
    """Left and top of a part of a picture."""
    rooms = [whole - part for whole, part in zip(whole_px, part_px, strict=True)]
    left, top = (room // 2 for room in rooms) if crop is None else (round(room * place) for room, place in zip(rooms, crop, strict=True))
    return left, top


def _square_at(picture: np.ndarray, crop: tuple[float, float] | None) -> np.ndarray:
    """The largest square at this place; the picture as it is where the middle is wanted."""
    if crop is None:
        return picture
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = _placed((width, height), (side, side), crop)
    return picture[top : top + side, left : left + side]


def _covering_zoom(width: int, height: int, degrees: float) -> float:
    """By how much a rectangle has to grow so that, turned, it covers what it was."""
    angle = abs(math.radians(degrees))
    longer = max(width, height) / min(width, height)
    return math.cos(angle) + longer * math.sin(angle)

"""Drawing with OpenCV alone: smooth text and lines for the plots and grids that a run leaves behind.

Everything is drawn on a sheet three times as large and scaled down at the end, which makes OpenCV's letters and lines look even. Lengths
are given in the pixels of the finished picture.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .opencv import cv2

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]] | NDArray[np.float64]
Window = tuple[float, float, float, float]

OVERSAMPLING = 3
FONT = 0
"""cv2.FONT_HERSHEY_SIMPLEX, told without importing OpenCV."""
FARTHEST_PX = 50_000
"""Points of a line farther off than this are drawn as if they lay here: OpenCV counts in 32 bits."""
FONT_HEIGHT_AT_ONE_PX = 21.0
"""Height of a capital letter of OpenCV's font at scale 1."""

WHITE: Color = (255, 255, 255)
INK: Color = (31, 36, 48)
MUTED: Color = (98, 106, 122)
HAIRLINE: Color = (228, 231, 237)

_SUBSTITUTES = {
    "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{MINUS SIGN}": "-", "\N{HORIZONTAL ELLIPSIS}": "...", "\N{MULTIPLICATION SIGN}": "x",
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"', "\N{RIGHTWARDS ARROW}": "->", "\N{MICRO SIGN}": "u", "\N{LATIN SMALL LETTER SHARP S}": "ss",
    "\N{LATIN SMALL LETTER AE}": "ae", "\N{LATIN SMALL LETTER O WITH STROKE}": "o", "\N{MIDDLE DOT}": "-", "\N{BULLET}": "-",
}  # fmt: skip


def printable(text: str) -> str:
    """The text in ASCII, which is all that OpenCV's font has: accents are dropped, common signs replaced, the rest are question marks."""
    spelled = "".join(_SUBSTITUTES.get(letter, letter) for letter in text)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else " " if letter.isspace() else "?" for letter in plain)


def text_width_px(text: str, height_px: float) -> float:
    (width, _), _ = cv2.getTextSize(printable(text), FONT, _scale(height_px), _weight(height_px, bold=False))
    return width / OVERSAMPLING


def wrapped(text: str, height_px: float, width_px: float, most_lines: int) -> list[str]:
    """The text in lines no wider than `width_px`; what does not fit into `most_lines` ends in dots."""
    lines: list[str] = []
    for word in printable(text).split():
        if lines and text_width_px(f"{lines[-1]} {word}", height_px) <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    kept = lines[:most_lines]
    if len(lines) > most_lines:
        kept[-1] += " ..."
    return [_fitting(line, height_px, width_px) for line in kept]


def _fitting(line: str, height_px: float, width_px: float) -> str:
    while len(line) > 4 and text_width_px(line, height_px) > width_px:
        line = line.removesuffix("...").rstrip()[:-1] + "..."
    return line


def _scale(height_px: float) -> float:
    return height_px * OVERSAMPLING / FONT_HEIGHT_AT_ONE_PX


def _weight(height_px: float, bold: bool) -> int:
    return max(1, round(height_px * OVERSAMPLING / (6 if bold else 10)))


@dataclass
class Sheet:
    """A white sheet to draw on; `finished()` is the picture."""

    width_px: int
    height_px: int
    background: Color = WHITE
    pixels: Picture = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.full((self.height_px * OVERSAMPLING, self.width_px * OVERSAMPLING, 3), self.background, np.uint8)

    def finished(self) -> Picture:
        """uint8 RGB [height_px, width_px, 3]."""
        return cv2.resize(self.pixels, (self.width_px, self.height_px), interpolation=cv2.INTER_AREA).astype(np.uint8)

    def text(
        self, text: str, x: float, baseline: float, height_px: float, color: Color = INK, align: float = 0.0, bold: bool = False
    ) -> None:
        """`align`: 0 puts the text's left end at x, 0.5 its middle, 1 its right end. `height_px` is that of a capital letter."""
        start = x - align * text_width_px(text, height_px)
        place = (round(start * OVERSAMPLING), round(baseline * OVERSAMPLING))
        cv2.putText(self.pixels, printable(text), place, FONT, _scale(height_px), color, _weight(height_px, bold), cv2.LINE_AA)

    def line(self, points: Points, color: Color, thickness_px: float, window: Window | None = None) -> None:
        """A polyline through points (x, y), cut off at the edges of a window (left, top, right, bottom) if there is one."""
        if window is None:
            _polyline(self.pixels, np.asarray(points, np.float64), color, thickness_px)
            return
        left, top, right, bottom = (round(value * OVERSAMPLING) for value in window)
        inside = self.pixels[top:bottom, left:right].copy()
        _polyline(inside, np.asarray(points, np.float64) - (left / OVERSAMPLING, top / OVERSAMPLING), color, thickness_px)
        self.pixels[top:bottom, left:right] = inside

    def box(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        left, top, right, bottom = (round(value * OVERSAMPLING) for value in (x, y, x + width, y + height))
        self.pixels[max(0, top) : bottom, max(0, left) : right] = color

    def dot(self, x: float, y: float, radius_px: float, color: Color, rim: Color = WHITE) -> None:
        place = (round(x * OVERSAMPLING), round(y * OVERSAMPLING))
        cv2.circle(self.pixels, place, round((radius_px + 1) * OVERSAMPLING), rim, -1, cv2.LINE_AA)
        cv2.circle(self.pixels, place, round(radius_px * OVERSAMPLING), color, -1, cv2.LINE_AA)


def _polyline(pixels: Picture, points: NDArray[np.float64], color: Color, thickness_px: float) -> None:
    """A polyline through points [N, 2] in finished pixels, on pixels that are `OVERSAMPLING` times as fine."""
    if len(points) > 1:
        fractions = 4  # OpenCV takes fixed-point coordinates: four binary digits after the point keep thin slopes even.
        within = points.clip(-FARTHEST_PX, FARTHEST_PX)
        fixed = np.round(within * OVERSAMPLING * (1 << fractions)).astype(np.int32)
        cv2.polylines(pixels, [fixed[:, None]], False, color, max(1, round(thickness_px * OVERSAMPLING)), cv2.LINE_AA, fractions)

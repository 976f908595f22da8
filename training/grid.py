"""Pictures side by side, to compare at a glance: one row per model or kind, one column per sample, labels and captions around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .drawing import HAIRLINE, INK, MUTED, Picture, Sheet, text_width_px, wrapped
from .errors import InputError
from .opencv import cv2

Row = tuple[str, NDArray[np.uint8]]
"""A label and pictures: RGB [N, H, W, 3] or grey [N, H, W]."""

MARGIN_PX, GAP_PX = 24, 8
TITLE_PX, LABEL_PX, CAPTION_PX = 12.0, 9.5, 7.0
LABEL_WIDTH_PX, LABEL_LINES = 150, 4
CAPTION_LINES, LINE_FACTOR = 4, 2.0
SMALLEST_CELL_PX = 128


def comparison_grid(rows: Sequence[Row], *, captions: Sequence[str] = (), title: str = "", cell_px: int | None = None) -> Picture:
    """uint8 RGB of all rows, equal in cell size; pictures keep their shape inside their cell.

    Args:
        rows: each a label and its pictures; all rows hold equally many.
        captions: one per column, written under the last row.
        cell_px: the longer side of a cell; None shows the largest pictures in their own size, and small ones enlarged to 128 or more.

    Raises:
        InputError: no pictures, rows of unequal length, or captions that do not match the columns.
    """
    columns = _columns(rows, captions)
    layout = Layout.of(rows, captions, title, columns, cell_px)
    sheet = Sheet(layout.width_px, layout.height_px)
    if title:
        sheet.text(title, MARGIN_PX, MARGIN_PX + TITLE_PX, TITLE_PX, INK, bold=True)
    for number, (label, _) in enumerate(rows):
        _label(sheet, layout, number, label)
    for number, caption in enumerate(captions):
        _caption(sheet, layout, number, caption)
    canvas = sheet.finished()
    for row, (_, pictures) in enumerate(rows):
        for column in range(columns):
            _paste(canvas, _in_cell(_as_rgb(pictures[column]), layout.cell), layout.place(row, column))
    return canvas


def _columns(rows: Sequence[Row], captions: Sequence[str]) -> int:
    counts = {label: len(pictures) for label, pictures in rows}
    if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
        raise InputError(
            "comparison grid",
            expected="rows with equally many pictures",
            found=counts or "no rows",
            remedy="Give each row one picture per column.",
        )
    columns = next(iter(counts.values()))
    if captions and len(captions) != columns:
        raise InputError(
            "comparison grid captions", expected=f"{columns}, one per column", found=len(captions), remedy="Give one per column, or none."
        )
    return columns


# ---------------------------------------------------------------- layout


@dataclass(frozen=True)
class Layout:
    """Where everything goes, in pixels of the finished picture."""

    rows: int
    columns: int
    cell: tuple[int, int]
    """Height and width."""
    label_width_px: int
    title_height_px: int
    title_width_px: int
    caption_height_px: int

    @classmethod
    def of(cls, rows: Sequence[Row], captions: Sequence[str], title: str, columns: int, cell_px: int | None) -> Layout:
        cell = _cell(rows, cell_px)
        lines = max((len(wrapped(caption, CAPTION_PX, cell[1], CAPTION_LINES)) for caption in captions), default=0)
        widest = max((text_width_px(line, LABEL_PX) for label, _ in rows for line in _label_lines(label)), default=0.0)
        return cls(
            rows=len(rows),
            columns=columns,
            cell=cell,
            label_width_px=round(widest) + 2 * GAP_PX if widest else 0,
            title_height_px=round(TITLE_PX) + 22 if title else 0,
            title_width_px=ceil(text_width_px(title, TITLE_PX)),
            caption_height_px=round(lines * CAPTION_PX * LINE_FACTOR) + 6 if lines else 0,
        )

    @property
    def width_px(self) -> int:
        return 2 * MARGIN_PX + max(self.label_width_px + self.columns * (self.cell[1] + GAP_PX) - GAP_PX, self.title_width_px)

    @property
    def height_px(self) -> int:
        return 2 * MARGIN_PX + self.title_height_px + self.rows * (self.cell[0] + GAP_PX) - GAP_PX + self.caption_height_px

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Top and left of a cell."""
        top = MARGIN_PX + self.title_height_px + row * (self.cell[0] + GAP_PX)
        return top, MARGIN_PX + self.label_width_px + column * (self.cell[1] + GAP_PX)


def _cell(rows: Sequence[Row], cell_px: int | None) -> tuple[int, int]:
    """The largest picture's shape, enlarged by a whole factor if it is small, or scaled to the side that is asked for."""
    height, width = max((pictures.shape[1:3] for _, pictures in rows), key=lambda size: size[0] * size[1])
    longer = max(height, width)
    factor = cell_px / longer if cell_px else float(-(-SMALLEST_CELL_PX // longer))
    return round(height * factor), round(width * factor)


# ---------------------------------------------------------------- drawing


def _label_lines(label: str) -> list[str]:
    return wrapped(label, LABEL_PX, LABEL_WIDTH_PX, LABEL_LINES)


def _label(sheet: Sheet, layout: Layout, row: int, label: str) -> None:
    """Beside the row, its lines centred on the row's middle and flush left."""
    lines, top = _label_lines(label), layout.place(row, 0)[0]
    spacing = LABEL_PX * LINE_FACTOR
    first = top + layout.cell[0] / 2 + LABEL_PX / 2 - spacing * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        sheet.text(line, MARGIN_PX, first + number * spacing, LABEL_PX, INK)


def _caption(sheet: Sheet, layout: Layout, column: int, caption: str) -> None:
    top, left = layout.place(layout.rows, column)
    for number, line in enumerate(wrapped(caption, CAPTION_PX, layout.cell[1], CAPTION_LINES)):
        baseline = top + 4 + CAPTION_PX + number * CAPTION_PX * LINE_FACTOR
        sheet.text(line, left + layout.cell[1] / 2, baseline, CAPTION_PX, MUTED, align=0.5)


def _as_rgb(picture: NDArray[np.uint8]) -> Picture:
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]


def _in_cell(picture: Picture, cell: tuple[int, int]) -> Picture:
    """Scaled to fit and centred; the rest of the cell, and a hairline around the picture, are light grey."""
    factor = min(cell[0] / picture.shape[0], cell[1] / picture.shape[1])
    size = max(1, round(picture.shape[0] * factor)), max(1, round(picture.shape[1] * factor))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST if factor == int(factor) else cv2.INTER_CUBIC
    filled = np.full((*cell, 3), HAIRLINE, np.uint8)
    _paste(filled, cv2.resize(picture, size[::-1], interpolation=kind), ((cell[0] - size[0]) // 2, (cell[1] - size[1]) // 2))
    return filled


def _paste(canvas: Picture, picture: NDArray, place: tuple[int, int]) -> None:
    top, left = place
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture

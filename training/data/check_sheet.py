"""A contact sheet: some pictures as training will see them, with their hints under them and their captions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..drawing import INK, Picture, Sheet
from ..errors import InputError
from ..grid import comparison_grid
from .canny import CannyRecipe
from .check import Check, CheckReport, with_problems
from .dataset import Dataset, GivenHints, Problem, Sample
from .encode_pictures import SHARED_SEED
from .picture import scaled
from .picture_header import UnreadablePictureError

SHEET_PICTURES, SHEET_COLUMNS, CELL_PX = 12, 6, 192
WORKERS = 2
"""Threads that decode pictures while a data set is encoded."""


def contact_sheet(dataset: Dataset, check: Check, pictures: int = SHEET_PICTURES) -> tuple[Picture, CheckReport]:
    """Some samples, evenly spread over all of them; where there are none, a sheet that says so.

    Returns:
        The sheet, uint8 RGB, and the report with the time that preparing all pictures will take as these did, and with those of these that cannot
        be decoded.
    """
    chosen = spread(check.samples, pictures)
    if not chosen:
        sheet = Sheet(CELL_PX * 2, CELL_PX)
        sheet.text("no usable pictures", CELL_PX, CELL_PX / 2, 12.0, INK, align=0.5)
        return sheet.finished(), check.report
    began = time.perf_counter()
    problems: list[Problem] = []
    shown = [_seen(dataset, sample, problems) for sample in chosen]
    seconds = (time.perf_counter() - began) / len(chosen)
    starts = range(0, len(chosen), SHEET_COLUMNS)
    rows = [_row(chosen[first : first + SHEET_COLUMNS], shown[first : first + SHEET_COLUMNS]) for first in starts]
    preparing = seconds * len(check.samples) * dataset.framing.views / WORKERS
    return _stacked(rows), replace(with_problems(check.report, problems), preparing_seconds=preparing)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, the first and the last among them."""
    if len(samples) <= count:
        return list(samples)
    return [samples[round(place * (len(samples) - 1) / max(count - 1, 1))] for place in range(count)]


def _seen(dataset: Dataset, sample: Sample, problems: list[Problem]) -> tuple[Picture, Picture]:
    """Picture and hint in a cell each; an empty picture where it cannot be read, which is no longer told by its header, and added to `problems`."""
    try:
        picture = _cut(dataset, sample, dataset.read_whole(sample))
        is_given = isinstance(dataset.hint, GivenHints)
        hint = _cut(dataset, sample, dataset.read_whole_hint(sample)) if is_given else _drawn(dataset, picture, sample)
    except (UnreadablePictureError, InputError) as error:
        problems.append(Problem(sample.name, str(error)))
        picture = hint = np.zeros((CELL_PX, CELL_PX, 3), np.uint8)
    return _in_cell(picture), _in_cell(hint)


def _cut(dataset: Dataset, sample: Sample, picture: np.ndarray) -> np.ndarray:
    return dataset.framing.cut(picture, sample.size_px, dataset.resolution_px)


def _drawn(dataset: Dataset, picture: np.ndarray, sample: Sample) -> np.ndarray:
    recipe = CannyRecipe() if isinstance(dataset.hint, GivenHints) else dataset.hint
    return recipe.hint(picture, SHARED_SEED, sample.digest, 0)


def _in_cell(picture: np.ndarray) -> Picture:
    """Scaled into a white square."""
    height, width = picture.shape[:2]
    scale = CELL_PX / max(height, width)
    small = scaled(picture, (max(round(width * scale), 1), max(round(height * scale), 1)))
    cell = np.full((CELL_PX, CELL_PX, 3), 255, np.uint8)
    top, left = (CELL_PX - small.shape[0]) // 2, (CELL_PX - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    return cell


def _row(samples: Sequence[Sample], shown: Sequence[tuple[Picture, Picture]]) -> Picture:
    captions = [f"{sample.name}: {sample.caption}" if sample.caption else f"{sample.name} (no caption)" for sample in samples]
    pictures, hints = (np.stack(side) for side in zip(*shown, strict=True))
    return comparison_grid([("picture", pictures), ("hint", hints)], captions=captions, cell_px=CELL_PX)


def _stacked(rows: Sequence[Picture]) -> Picture:
    """One below the other, on white."""
    sheet = np.full((sum(len(row) for row in rows), max(row.shape[1] for row in rows), 3), 255, np.uint8)
    top = 0
    for row in rows:
        sheet[top : top + len(row), : row.shape[1]] = row
        top += len(row)
    return sheet

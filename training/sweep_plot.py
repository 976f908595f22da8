"""What the LoRAs of a sweep came to, side by side: their loss curves in one picture, and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .axis import Axis, Scale, Values
from .drawing import INK, MUTED, Color, Picture, Sheet, wrapped
from .history import History
from .plots import LABEL_PX, MARGIN_BOTTOM_PX, MARGIN_LEFT_PX, MARGIN_TOP_PX, curve, frame, running_mean

COLORS: tuple[Color, ...] = (
    (37, 99, 200), (222, 96, 26), (20, 140, 100), (190, 60, 120), (120, 90, 200), (150, 120, 20), (60, 160, 200), (110, 110, 110),
)  # fmt: skip
"""Of the curves, in turn."""
FAINT = 0.55
"""How far a running mean's colour is mixed with white; the held-out loss has it full."""
LEGEND_PX, LEGEND_TOP_PX, LINE_PX, EDGE_PX, SWATCH_PX = 260, 128, 40, 30, 20
NOT_TAKEN = "-"


@dataclass(frozen=True)
class Curve:
    """One LoRA's losses."""

    name: str
    history: History
    note: str = ""
    """Why it went no further, if it did not."""

    @property
    def last_held_out(self) -> float | None:
        taken = self.history.comparable_held_out
        return taken[-1].held_out if taken else None


def best_of(curves: Sequence[Curve]) -> int | None:
    """The place of the one whose last held-out loss is lowest, of the first of several; None if none has any. Those that broke off do not count."""
    losses = [(each.last_held_out, place) for place, each in enumerate(curves) if not each.note]
    finite = [(loss, place) for loss, place in losses if loss is not None and math.isfinite(loss)]
    return min(finite)[1] if finite else None


def sweep_plot(curves: Sequence[Curve], scale: Scale = "linear", title: str = "Sweep", width_px: int = 1100, height_px: int = 560) -> Picture:
    """uint8 RGB [height_px, width_px, 3]: of each LoRA the running mean of its steps' losses, faint, and its held-out losses as dots on a line.

    All LoRAs of a sweep see the same pictures at the same times with the same noise, so their steps' losses can be compared, too.
    """
    height_px = max(height_px, LEGEND_TOP_PX + LINE_PX * len(curves) + EDGE_PX)
    sheet = Sheet(width_px, height_px)
    means, held_out = [_mean(each.history) for each in curves], [_held_out(each.history) for each in curves]
    steps = [points[:, 0] for points in (*means, *held_out)]
    across = Axis.of_steps(np.concatenate(steps or [np.zeros(0)]), MARGIN_LEFT_PX, width_px - LEGEND_PX)
    losses, points = (np.concatenate([part[:, 1] for part in parts] or [np.zeros(0)]) for parts in (means, held_out))
    upward = Axis.of_losses(losses, points, scale, height_px - MARGIN_BOTTOM_PX, MARGIN_TOP_PX)
    frame(sheet, across, upward, title)
    best = best_of(curves)
    for number, each in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        curve(sheet, across, upward, means[number][:, 0], means[number][:, 1], _mixed_with_white(color), 1.6)
        curve(sheet, across, upward, held_out[number][:, 0], held_out[number][:, 1], color, 2.2)
        _dots(sheet, across, upward, held_out[number], color)
        _legend(sheet, number, each, color, best=number == best)
    return sheet.finished()


def sweep_table(curves: Sequence[Curve]) -> str:
    """Markdown: of each LoRA its steps, its held-out loss at the start and at the end, and the mean loss of its last steps."""
    best = best_of(curves)
    heads = ("LoRA", "steps", "held-out loss at the start", "at the end", "mean loss of the last steps", "")
    rows = [_row(each, "best" if number == best else each.note) for number, each in enumerate(curves)]
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *rows])


def _row(each: Curve, remark: str) -> str:
    taken, steps = each.history.comparable_held_out, each.history.steps
    last = [record.loss for record in steps[-max(1, len(steps) // 20) :]]
    cells = (
        each.name, str(steps[-1].step if steps else 0), f"{taken[0].held_out:.5f}" if taken else NOT_TAKEN,
        f"{taken[-1].held_out:.5f}" if taken else NOT_TAKEN, f"{sum(last) / len(last):.5f}" if last else NOT_TAKEN, remark,
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _mean(history: History) -> Values:
    """[N, 2]: step and running mean of the loss."""
    losses = np.asarray([record.loss for record in history.steps], np.float64)
    mean = running_mean(losses, max(1, len(losses) // 20))
    return np.stack([np.asarray([record.step for record in history.steps], np.float64), mean], axis=1)


def _held_out(history: History) -> Values:
    """[N, 2]: step and held-out loss."""
    taken = [(record.step, record.held_out) for record in history.comparable_held_out]
    return np.asarray(taken, np.float64).reshape(-1, 2)


def _dots(sheet: Sheet, across: Axis, upward: Axis, points: Values, color: Color) -> None:
    for x, y in zip(across.place(points[:, 0]), upward.place(points[:, 1]), strict=True):
        if math.isfinite(y):
            sheet.dot(x, y, 3.6, color)


def _legend(sheet: Sheet, number: int, each: Curve, color: Color, best: bool) -> None:
    """One entry on the right: name, and the last held-out loss."""
    left, top = sheet.width_px - LEGEND_PX + EDGE_PX, LEGEND_TOP_PX + number * LINE_PX
    sheet.line([(left, top - LABEL_PX / 2), (left + SWATCH_PX, top - LABEL_PX / 2)], color, 2.6)
    room_px = LEGEND_PX - 2 * EDGE_PX - SWATCH_PX
    (name,) = wrapped(each.name, LABEL_PX, room_px, 1) or [""]
    sheet.text(name, left + SWATCH_PX + 8, top, LABEL_PX, INK, bold=best)
    loss = each.last_held_out
    said = "broke off" if each.note else "no held-out loss" if loss is None else f"{loss:.5f}" + (", the lowest" if best else "")
    sheet.text(said, left + SWATCH_PX + 8, top + LABEL_PX + 7, LABEL_PX, MUTED)


def _mixed_with_white(color: Color) -> Color:
    red, green, blue = (round(value + (255 - value) * FAINT) for value in color)
    return red, green, blue

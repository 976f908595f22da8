"""The loss curve as a picture: every step's loss faint, its running mean strong, the held-out loss as dots, the learning rate beside them.

The held-out loss (fixed times, fixed noise) is the curve worth looking at: a single step's loss is dominated by which t it drew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .axis import Axis, Scale, Values, tick_label
from .drawing import HAIRLINE, INK, MUTED, Color, Picture, Sheet, text_width_px

STEP_COLOR: Color = (176, 200, 240)
MEAN_COLOR: Color = (37, 99, 200)
HELD_OUT_COLOR: Color = (222, 96, 26)
RATE_COLOR: Color = (128, 138, 120)
PRIOR_COLOR: Color = (150, 80, 170)

MARGIN_LEFT_PX, MARGIN_RIGHT_PX, MARGIN_TOP_PX, MARGIN_BOTTOM_PX = 70, 70, 112, 62
EDGE_PX = 20
TITLE_PX, LABEL_PX, TICK_PX = 13.0, 9.5, 9.0


def loss_plot(
    losses: Sequence[float],
    *,
    held_out: Sequence[tuple[int, float]] = (),
    learning_rates: Sequence[float] = (),
    regularisation: Sequence[float] = (),
    first_step: int = 1,
    smoothing_steps: int | None = None,
    scale: Scale = "linear",
    title: str = "Training loss",
    width_px: int = 900,
    height_px: int = 540,
) -> Picture:
    """uint8 RGB [height_px, width_px, 3].

    Args:
        losses: one number per step; non-finite ones leave a gap.
        held_out: (step, loss) pairs.
        learning_rates: one number per step, drawn thin against the right axis.
        regularisation: losses of regularisation pictures, one number per step; their running mean is drawn.
        first_step: the step of losses[0].
        smoothing_steps: memory of the running mean; None takes a twentieth of the steps.
    """
    values, rates = np.asarray(losses, np.float64), np.asarray(learning_rates, np.float64)
    memory_steps = smoothing_steps or max(1, len(values) // 20)
    prior = running_mean(np.asarray(regularisation, np.float64), memory_steps)
    points = np.asarray([pair for pair in held_out if math.isfinite(pair[1])], np.float64).reshape(-1, 2)
    mean = running_mean(values, memory_steps)
    steps = first_step + np.arange(max(len(values), len(rates), len(prior)), dtype=np.float64)
    sheet = Sheet(width_px, height_px)
    across = Axis.of_steps(np.concatenate([steps, points[:, 0]]), *_span(width_px, MARGIN_LEFT_PX, MARGIN_RIGHT_PX))
    upward = Axis.of_losses(values, np.concatenate([points[:, 1], prior]), scale, *_rising(height_px))
    frame(sheet, across, upward, title)
    if len(values) + len(points) == 0:
        sheet.text("no steps yet", width_px / 2, height_px / 2, LABEL_PX, MUTED, align=0.5)
        return sheet.finished()
    curve(sheet, across, upward, steps[: len(values)], values, STEP_COLOR, 1.0)
    if len(rates):
        _learning_rate(sheet, across, upward, steps[: len(rates)], rates)
    curve(sheet, across, upward, steps[: len(values)], mean, MEAN_COLOR, 2.2)
    curve(sheet, across, upward, steps[: len(prior)], prior, PRIOR_COLOR, 1.8)
    _held_out(sheet, across, upward, points)
    _legend(sheet, _entries(len(values) > 0, len(points) > 0, len(prior) > 0))
    return sheet.finished()


def _entries(any_steps: bool, any_held_out: bool, any_prior: bool) -> list[tuple[str, Color, float]]:
    of_steps: list[tuple[str, Color, float]] = [("each step", STEP_COLOR, 1.6), ("running mean", MEAN_COLOR, 2.6)]
    of_held_out = [("held-out", HELD_OUT_COLOR, 2.6)] if any_held_out else []
    return (of_steps if any_steps else []) + of_held_out + ([("regularisation", PRIOR_COLOR, 2.2)] if any_prior else [])


def running_mean(values: Values, memory_steps: int) -> Values:
    """Exponential running mean, corrected for its start, as Adam corrects its moments; non-finite values are passed over."""
    decay, total, weight = 1 - 1 / memory_steps, 0.0, 0.0
    means = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        if math.isfinite(value):
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
            means[index] = total / weight
    return means


def _span(length_px: int, before_px: float, after_px: float) -> tuple[float, float]:
    return before_px, length_px - after_px


def _rising(height_px: int) -> tuple[float, float]:
    top, bottom = _span(height_px, MARGIN_TOP_PX, MARGIN_BOTTOM_PX)
    return bottom, top


# ---------------------------------------------------------------- drawing


def frame(sheet: Sheet, across: Axis, upward: Axis, title: str) -> None:
    """The title, the lines and numbers of both axes."""
    sheet.text(title, MARGIN_LEFT_PX, 38, TITLE_PX, INK, bold=True)
    for value in upward.ticks(9):
        y = float(upward.place(np.float64(value)))
        sheet.line([(across.start_px, y), (across.end_px, y)], HAIRLINE, 1.0)
        sheet.text(tick_label(value), across.start_px - 10, y + TICK_PX / 2, TICK_PX, MUTED, align=1.0)
    for value in (tick for tick in across.ticks(9) if tick == round(tick)):
        x = float(across.place(np.float64(value)))
        sheet.line([(x, upward.start_px), (x, upward.start_px + 5)], MUTED, 1.0)
        sheet.text(tick_label(value), x, upward.start_px + 10 + TICK_PX, TICK_PX, MUTED, align=0.5)
    sheet.line([(across.start_px, upward.start_px), (across.end_px, upward.start_px)], MUTED, 1.0)
    sheet.text("step", (across.start_px + across.end_px) / 2, sheet.height_px - 16, LABEL_PX, MUTED, align=0.5)
    name = "loss (log)" if upward.logarithmic else "loss"
    sheet.text(name, EDGE_PX, upward.end_px - 18, LABEL_PX, MUTED)


def curve(sheet: Sheet, across: Axis, upward: Axis, steps: Values, values: Values, color: Color, thickness_px: float) -> None:
    """A line through all values, with a gap where one has no place on the axis."""
    window = (across.start_px, upward.end_px, across.end_px, upward.start_px)
    for run in _unbroken(values, upward.logarithmic):
        points = np.stack([across.place(steps[run]), upward.place(values[run])], axis=1)
        if len(points) == 1:
            sheet.dot(points[0, 0], points[0, 1], 1.5 * thickness_px, color)
        sheet.line(points, color, thickness_px, window)


def _unbroken(values: Values, logarithmic: bool) -> list[slice]:
    """The stretches without a gap; a gap is a value that the axis has no place for."""
    shown = np.isfinite(values) & ((values > 0) | (not logarithmic))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], shown, [False]]).astype(int)))
    return [slice(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _learning_rate(sheet: Sheet, across: Axis, upward: Axis, steps: Values, rates: Values) -> None:
    """Against an axis of its own on the right, from 0 to the highest rate."""
    highest = float(np.nanmax(rates, initial=0.0)) or 1.0
    own = Axis(0.0, highest * 1.06, upward.start_px, upward.end_px)
    curve(sheet, across, own, steps, rates, RATE_COLOR, 1.2)
    for value in own.ticks(4)[1:]:
        y = float(own.place(np.float64(value)))
        sheet.text(tick_label(value), across.end_px + 10, y + TICK_PX / 2, TICK_PX, RATE_COLOR)
    sheet.text("learning rate", sheet.width_px - EDGE_PX, upward.end_px - 18, LABEL_PX, RATE_COLOR, align=1.0)


def _held_out(sheet: Sheet, across: Axis, upward: Axis, points: Values) -> None:
    curve(sheet, across, upward, points[:, 0], points[:, 1], HELD_OUT_COLOR, 1.6)
    for x, y in zip(across.place(points[:, 0]), upward.place(points[:, 1]), strict=True):
        if math.isfinite(y):
            sheet.dot(x, y, 4.0, HELD_OUT_COLOR)


def _legend(sheet: Sheet, entries: Sequence[tuple[str, Color, float]]) -> None:
    """In one row under the title."""
    left, baseline = float(MARGIN_LEFT_PX), 64
    for name, color, thickness_px in entries:
        sheet.line([(left, baseline - LABEL_PX / 2), (left + 20, baseline - LABEL_PX / 2)], color, thickness_px)
        sheet.text(name, left + 28, baseline, LABEL_PX, MUTED)
        left += 28 + text_width_px(name, LABEL_PX) + 24

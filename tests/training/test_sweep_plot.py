"""The picture and the table of a sweep."""

from __future__ import annotations

import numpy as np
from graft.training.history import HeldOutRecord, History, StepRecord
from graft.training.sweep_plot import COLORS, Curve, best_of, sweep_plot, sweep_table


def history(last: float, steps: int = 40) -> History:
    """Losses that fall to `last`."""
    losses = np.linspace(1.0, last, steps)
    records = [
        StepRecord(step=number + 1, loss=float(loss), learning_rate=1e-3, gradient_norm=1.0, buckets={}, seconds=0.1)
        for number, loss in enumerate(losses)
    ]
    held_out = [HeldOutRecord(step=step, held_out=loss, by_time=(loss,), samples=1) for step, loss in ((0, 1.0), (steps, last))]
    return History(tuple(records), tuple(held_out))


CURVES = [Curve("lr0.0001", history(0.5)), Curve("lr0.001", history(0.25)), Curve("lr0.1", history(0.125), "Step 9 gave a loss of nan | so it ended")]


def test_the_best_is_the_lowest_that_did_not_break_off():
    assert best_of(CURVES) == 1 and best_of(CURVES[2:]) is None and best_of([]) is None
    assert best_of([Curve("a", History()), CURVES[0], CURVES[0]]) == 1


def test_every_curve_is_drawn_in_its_colour():
    picture = sweep_plot(CURVES)
    assert picture.shape == (560, 1100, 3) and picture.dtype == np.uint8
    for color in COLORS[: len(CURVES)]:
        assert (np.abs(picture.astype(int) - color).max(axis=-1) <= 2).sum() > 100, color
    left_of_legend = (slice(None), slice(0, 820))
    unused = COLORS[len(CURVES)]
    assert (np.abs(picture[left_of_legend].astype(int) - unused).max(axis=-1) <= 2).sum() == 0
    assert sweep_plot([*CURVES] * 8).shape[0] > 1000, "a long legend makes it higher"
    assert sweep_plot([]).shape == sweep_plot([Curve("new", History())], scale="log").shape == (560, 1100, 3)


def test_the_table_tells_steps_and_losses():
    lines = sweep_table([*CURVES, Curve("none", History())]).splitlines()
    assert lines[3] == "| lr0.001 | 40 | 1.00000 | 0.25000 | 0.25962 | best |"
    assert "Step 9 gave a loss of nan / so it ended" in lines[4] and lines[5] == "| none | 0 | - | - | - |  |"

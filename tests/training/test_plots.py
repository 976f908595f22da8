"""The loss plot: where values land on the sheet, what the axes say, and input that real runs give (gaps, spikes, one step, none)."""

from __future__ import annotations

import numpy as np
import pytest
from graft.training.axis import Axis, nice_ticks, tick_label
from graft.training.plots import HELD_OUT_COLOR, MEAN_COLOR, RATE_COLOR, STEP_COLOR, loss_plot, running_mean


def pixels_of(picture: np.ndarray, color: tuple[int, int, int], below_px: int = 112) -> np.ndarray:
    """Rows and columns of pixels close to a colour inside the plot's frame (the legend lies above it)."""
    near = np.abs(picture.astype(int) - color).max(axis=-1) < 12
    near[:below_px] = False
    return np.argwhere(near)


@pytest.mark.parametrize("memory_steps", [1, 4])
def test_running_mean_equals_its_definition(memory_steps: int) -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    weights = [[(1 - 1 / memory_steps) ** (i - j) for j in range(i + 1)] for i in range(5)]
    expected = [np.dot(w, values[: len(w)]) / sum(w) for w in weights]
    np.testing.assert_allclose(running_mean(values, memory_steps), expected)


def test_running_mean_passes_over_gaps() -> None:
    means = running_mean(np.array([2.0, np.nan, np.inf, 4.0]), 1)
    assert means[0] == 2 and np.isnan(means[1:3]).all() and means[3] == 4


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 1, 4, [0, 0.5, 1]),
        (1, 800, 9, [100, 200, 300, 400, 500, 600, 700, 800]),
        (-3, 3, 4, [-2, 0, 2]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, most: int, expected: list[float]) -> None:
    np.testing.assert_allclose(nice_ticks(low, high, most), expected, atol=1e-12)


def test_logarithmic_axis() -> None:
    axis = Axis(0.01, 100, 400, 0, logarithmic=True)
    np.testing.assert_allclose(axis.place(np.array([0.01, 1, 100])), [400, 200, 0])
    np.testing.assert_allclose(axis.ticks(6), [0.01, 0.1, 1, 10, 100])
    np.testing.assert_allclose(Axis(0.02, 3, 400, 0, logarithmic=True).ticks(9), [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2])


def test_tick_labels() -> None:
    assert [tick_label(value) for value in (0, 0.05, 1e-5, 800, 20_000, 1_500_000)] == ["0", "0.05", "1e-05", "800", "20k", "1.5M"]


def test_curves_land_where_their_values_lie() -> None:
    losses = np.linspace(2.0, 1.0, 200)
    picture = loss_plot(losses, held_out=[(1, 1.0), (200, 1.0)], learning_rates=[1e-3] * 200, smoothing_steps=1)
    assert picture.shape == (540, 900, 3) and picture.dtype == np.uint8
    mean, held_out, rate = (pixels_of(picture, color) for color in (MEAN_COLOR, HELD_OUT_COLOR, RATE_COLOR))
    first, last = mean[mean[:, 1].argmin()], mean[mean[:, 1].argmax()]
    assert first[1] < 76 and last[1] > 818 and first[0] < last[0] - 200
    assert abs(np.median(held_out[:, 0]) - last[0]) < 4
    flat = rate[(rate[:, 1] > 100) & (rate[:, 1] < 800)]
    assert len(flat) > 500 and np.ptp(flat[:, 0]) <= 2


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_one_wild_step_does_not_flatten_the_rest(scale: str) -> None:
    losses = np.linspace(1.0, 0.5, 400)
    losses[200] = 1e6
    picture = loss_plot(losses, scale=scale)
    steps = pixels_of(picture, STEP_COLOR)
    start, end = (steps[np.abs(steps[:, 1] - column) < 3][:, 0].mean() for column in (80, 820))
    assert end - start > 150
    assert picture[100:110, 430:470].min() > 200, "nothing may be drawn above the frame"


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
    "losses",
    [[], [0.4], [0.4, 0.4], [float("nan")] * 3, [0.0, 0.0], [-1.0, 2.0], [1.0, float("nan"), float("inf"), 0.5], [1e-9, 1e9]],
)
def test_odd_runs_give_a_picture(losses: list[float], scale: str) -> None:
    picture = loss_plot(losses, scale=scale, title="größe → 漢字", width_px=600, height_px=400)
    assert picture.shape == (400, 600, 3) and picture.min() < 120


def test_a_gap_stays_a_gap() -> None:
    losses = np.full(300, 0.5)
    losses[100:200] = np.nan
    columns = pixels_of(loss_plot(losses, smoothing_steps=1), MEAN_COLOR)[:, 1]
    assert not ((columns > 330) & (columns < 570)).any() and (columns < 310).any() and (columns > 590).any()


def test_held_out_alone() -> None:
    assert len(pixels_of(loss_plot([], held_out=[(0, 1.0), (100, 0.5)]), HELD_OUT_COLOR)) > 500

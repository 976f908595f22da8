"""Curves of any length in bounded memory."""

from __future__ import annotations

import json

import pytest
from graft.nodes.live.curve import Curve, HeldOut, Point, rounded, single


def test_a_short_curve_keeps_every_step():
    curve = Curve(most=4)
    curve.extend(single(step, 1 / step, 0.1) for step in (1, 2, 3))
    assert curve.points == [Point(1, 1, 1.0, 1.0, 1.0, 0.1), Point(2, 1, 0.5, 0.5, 0.5, 0.1), Point(3, 1, 1 / 3, 1 / 3, 1 / 3, 0.1)]


def test_a_full_curve_joins_neighbours_and_loses_no_spike():
    curve = Curve(most=4)
    curve.extend(single(step, float(step), step / 10) for step in range(1, 6))
    assert curve.points == [Point(2, 2, 1.5, 1.0, 2.0, 0.2), Point(4, 2, 3.5, 3.0, 4.0, 0.4), Point(5, 1, 5.0, 5.0, 5.0, 0.5)]
    curve.add(single(6, 100.0, 0.6))
    assert curve.points[-1] == Point(6, 2, 52.5, 5.0, 100.0, 0.6)


@pytest.mark.parametrize("steps", [100, 4097, 30_000])
def test_no_step_is_lost_or_counted_twice_however_many_there_are(steps: int):
    curve = Curve(most=64)
    losses = [((step * 7919) % 1000) / 1000 for step in range(1, steps + 1)]
    curve.extend(single(step, loss, 0.0) for step, loss in enumerate(losses, start=1))
    assert len(curve.points) <= 64 and sum(point.count for point in curve.points) == steps
    assert sum(point.mean * point.count for point in curve.points) == pytest.approx(sum(losses))
    assert min(point.lowest for point in curve.points) == min(losses) and max(point.highest for point in curve.points) == max(losses)
    assert [point.step for point in curve.points] == sorted({point.step for point in curve.points}) and curve.points[-1].step == steps


def test_held_out_losses_keep_the_first_and_the_newest():
    held_out = HeldOut(most=8)
    for step in range(1, 1001):
        held_out.add(step, step / 1000)
    assert len(held_out.points) <= 8 and held_out.points[0] == (1, 0.001) and held_out.points[-1] == (1000, 1.0)


def test_numbers_become_short_and_never_what_json_does_not_know():
    assert rounded(0.123456789) == 0.123457 and json.dumps(single(3, float("nan"), float("inf")).rounded()) == "[3, 1, 0.0, 0.0, 0.0, 0.0]"

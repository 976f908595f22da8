"""Losses of any number of steps in bounded memory: neighbours are merged into points that keep their mean, lowest and highest loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

MOST_POINTS = 4096
MOST_HELD_OUT = 512
DIGITS = 6


class Point(NamedTuple):
    """One step, or several that were merged. Its order is that of the page's events (web/curve.js)."""

    step: int
    """The last of its steps."""
    count: int
    """How many steps."""
    mean: float
    lowest: float
    highest: float
    learning_rate: float
    """Of its last step."""

    def joined(self, later: Point) -> Point:
        """Both as one."""
        count = self.count + later.count
        mean = (self.mean * self.count + later.mean * later.count) / count
        return Point(later.step, count, mean, min(self.lowest, later.lowest), max(self.highest, later.highest), later.learning_rate)

    def rounded(self) -> list[float]:
        """For JSON: short, and never what JSON does not know."""
        return [self.step, self.count, *(rounded(value) for value in self[2:])]


def single(step: int, loss: float, learning_rate: float) -> Point:
    """A step by itself."""
    return Point(step, 1, loss, loss, loss, learning_rate)


def rounded(value: float) -> float:
    """To six digits; JSON has no words for infinity and NaN, which training never records."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else 0.0


class Curve:
    """All points of a training so far, at most `most`: when they are full, each two become one, of twice as many steps."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        assert most >= 2 and most % 2 == 0
        self._most, self._steps_per_point = most, 1
        self.points: list[Point] = []

    def add(self, point: Point) -> None:
        if self.points and self.points[-1].count + point.count <= self._steps_per_point:
            self.points[-1] = self.points[-1].joined(point)
            return
        self.points.append(point)
        if len(self.points) > self._most:
            self._halve()

    def extend(self, points: Iterable[Point]) -> None:
        for point in points:
            self.add(point)

    def _halve(self) -> None:
        *pairs, last = self.points
        joined = [first.joined(second) for first, second in zip(pairs[::2], pairs[1::2], strict=True)]
        self.points = [*joined, last]
        self._steps_per_point *= 2


class HeldOut:
    """(step, loss) pairs, at most `most`: when they are full, every second is forgotten, but neither the first nor the newest."""

    def __init__(self, most: int = MOST_HELD_OUT) -> None:
        self._most, self.points = most, list[tuple[int, float]]()

    def add(self, step: int, loss: float) -> None:
        self.points.append((step, loss))
        if len(self.points) > self._most:
            self.points = [*self.points[:-1:2], self.points[-1]]

    def clear(self) -> None:
        """When from now on it is taken on other pictures."""
        self.points = []

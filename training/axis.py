"""Where values lie along one side of a plot, and which of them get a label."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Scale = Literal["linear", "log"]
SCALES: tuple[Scale, ...] = ("linear", "log")


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` onto pixels between `start_px` and `end_px`."""

    low: float
    high: float
    start_px: float
    end_px: float
    logarithmic: bool = False

    @classmethod
    def of_steps(cls, steps: Values, start_px: float, end_px: float) -> Axis:
        low, high = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 1.0)
        return cls(low, high if high > low else low + 1, start_px, end_px)

    @classmethod
    def of_losses(cls, values: Values, whole: Values, scale: Scale, start_px: float, end_px: float) -> Axis:
        """Holds every value of `whole` (held-out losses) and the bulk of `values` (steps): one wild step must not flatten the rest."""
        bulk, kept = (part[np.isfinite(part) & ((part > 0) | (scale == "linear"))] for part in (values, whole))
        known = np.concatenate([np.percentile(bulk, [1, 99]) if len(bulk) else bulk, kept])
        if len(known) == 0:
            known = np.array([0.1, 1.0])
        return _padded(cls(float(known.min()), float(known.max()), start_px, end_px, scale == "log"))

    def place(self, value: Values) -> Values:
        if self.logarithmic:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (np.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self, most: int) -> list[float]:
        if self.logarithmic and self.high / self.low >= 10:
            return _decade_ticks(self.low, self.high, most)
        return nice_ticks(self.low, self.high, most)


def _padded(tight: Axis) -> Axis:
    """Room above and below; a linear axis starts at zero when that wastes little."""
    low, high = tight.low, tight.high
    if tight.logarithmic:
        room = max(high / low, 1.05) ** 0.06
        return replace(tight, low=low / room, high=high * room)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return replace(tight, low=0.0 if 0 <= low < 0.35 * high else low - room, high=high + room)


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten apart) in low..high."""
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _decade_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def tick_label(value: float) -> str:
    """Short and exact enough for a tick: 0.05, 20k, 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value / 1e3:.4g}k"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2g}"

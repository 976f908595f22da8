"""One LoRA at several steps and strengths, side by side: rows of (step, strength), columns of captions, the same noise in every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import InputError
from .grid import comparison_grid
from .measure import Pictures
from .state import State

LARGEST_STRENGTH = 20.0
DrawRow = Callable[[State | None, float], Pictures]
"""(state, strength) -> pictures uint8 RGB [N, H, W, 3], one per caption; without a state: by the base alone."""


@dataclass(frozen=True)
class Row:
    """One row of the grid."""

    state: State | None
    """None: the base alone."""
    strength: float

    @property
    def label(self) -> str:
        return "without LoRA" if self.state is None else f"step {self.state.step}, strength {self.strength:g}"


def grid_rows(states: Sequence[State], strengths: Sequence[float]) -> list[Row]:
    """The base alone comes first and once, if a strength is 0; then state by state."""
    base = [Row(None, 0.0)] if 0 in strengths else []
    return base + [Row(state, strength) for state in states for strength in strengths if strength != 0]


def require_strengths(strengths: Sequence[float]) -> Sequence[float]:
    """Raises InputError if a LoRA cannot be applied so strongly."""
    wrong = [strength for strength in strengths if abs(strength) > LARGEST_STRENGTH]
    if wrong:
        expected = f"{-LARGEST_STRENGTH:g} to {LARGEST_STRENGTH:g}"
        raise InputError("strengths", expected=expected, found=", ".join(map(str, wrong)), remedy="1 is as trained.")
    return strengths


def lora_grid(rows: Sequence[Row], captions: Sequence[str], draw: DrawRow) -> Pictures:
    """The comparison picture [H, W, 3], uint8 RGB."""
    pictures = [(row.label, draw(row.state, row.strength)) for row in rows]
    return comparison_grid(pictures, captions=captions, title="One row per step and strength, the same noise in every row")

"""What every hint recipe is to those who use it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Protocol

import numpy as np

from ...errors import InputError
from ..keys import KeyPart, drawn_number

# Part of the keys of hints encoded ahead: raise it when the same recipe would draw others.
HINT_PARTS_VERSION = 1
_FINE = 1_000_000


class Drawable(Protocol):
    """A recipe by which a hint is drawn from its picture."""

    @property
    def is_fixed(self) -> bool:
        """Whether every picture always gets the same hint."""

    def describe(self) -> str:
        """In words, for file metadata and reports."""

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        """The hint of one picture, which depends on these four and the recipe alone.

        Args:
            picture: uint8 RGB [H, W, 3], in the size that is trained in, mirrored and turned already.
            seed: of the training.
            sample: what the picture is known by.
            epoch: which time it comes.

        Returns:
            uint8 RGB [H, W, 3].
        """


class DrawnHint:
    """A recipe that is a frozen dataclass of plain values (Drawable)."""

    kind: ClassVar[str]
    """Its name in files: never changed."""

    def fields(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    @property
    def is_fixed(self) -> bool:
        raise NotImplementedError

    def describe(self) -> str:
        raise NotImplementedError

    def hint(self, picture: np.ndarray, seed: int, sample: str, epoch: int) -> np.ndarray:
        raise NotImplementedError


def drawn_real(low: float, high: float, *parts: KeyPart) -> float:
    """A number from `low` to `high` that depends on `parts` alone."""
    return low + (high - low) * drawn_number(0, _FINE, *parts) / _FINE


def hint_key(recipe: Any) -> list[KeyPart]:
    """Everything about a recipe, for keys. Canny with thresholds is two ranges, as it was before there were other recipes."""
    if isinstance(recipe, DrawnHint):
        return ["hint", *_flat(recipe.fields())]
    return [recipe.low, recipe.high]


def _flat(fields: dict[str, Any]) -> list[KeyPart]:
    return [[name, _flat(value) if isinstance(value, dict) else value] for name, value in sorted(fields.items())]


def require_range(name: str, ends: tuple[float, float], lowest: float, highest: float, unit: str, remedy: str) -> None:
    """Raises:
    InputError: not two numbers from `lowest` to `highest`, the first not above the second.
    """
    if len(ends) != 2 or not lowest <= ends[0] <= ends[1] <= highest:
        expected = f"from {lowest:g} to {highest:g} {unit}, the first not above the second".replace("  ", " ")
        raise InputError(name, expected=expected, found=tuple(ends), remedy=remedy)


def range_text(ends: tuple[float, float]) -> str:
    """`3` or `3..7`."""
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g}..{ends[1]:g}"


def three_channels(grey: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> [H, W, 3]."""
    return np.repeat(grey[:, :, None], 3, axis=2)

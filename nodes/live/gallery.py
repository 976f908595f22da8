"""The pictures that were made on the way, encoded and bounded in number: the first set, the newest, and some between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Pictures = Sequence[bytes]
"""JPEG files."""
MOST_SETS = 24


class Gallery:
    """Sets of pictures by step, and the hints that they were made from."""

    def __init__(self, most: int = MOST_SETS) -> None:
        self._most = most
        self._sets: dict[int, tuple[bytes, ...]] = {}
        self.hints: tuple[bytes, ...] = ()

    def add(self, step: int, pictures: Pictures) -> None:
        """Adds a set; when there are too many, every second of the older ones goes, but never the first."""
        self._sets[step] = tuple(pictures)
        if len(self._sets) > self._most:
            steps = sorted(self._sets)
            kept = {*steps[:-1:2], steps[-1]}
            self._sets = {step: made for step, made in self._sets.items() if step in kept}

    def picture(self, step: int | None, index: int) -> bytes | None:
        made = self.hints if step is None else self._sets.get(step, ())
        return made[index] if 0 <= index < len(made) else None

    def summary(self) -> dict[str, Any]:
        newest = self._sets[max(self._sets)] if self._sets else ()
        return {"picture_steps": sorted(self._sets), "picture_count": len(newest), "hint_count": len(self.hints)}

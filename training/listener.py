"""Whoever watches a training step by step and may ask it for something: the live panel, a log. The loop works the same without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from torch import Tensor

from .history import HeldOutRecord, StepRecord

Wish = Literal["go on", "save", "stop"]
"""After the step just finished: nothing; a checkpoint now; or stop, save and let the graph go on with what is trained."""


class Listener(Protocol):
    """Called in the loop's own thread: it must return at once."""

    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """A step has finished. `weights()` gives the trained tensors as they are now (a view: copy what is to be kept)."""

    def held_out(self, record: HeldOutRecord) -> None:
        """The held-out loss was taken."""

    def wish(self) -> Wish:
        """Asked after each step; a wish is fulfilled once."""


class _Nobody:
    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None: ...

    def held_out(self, record: HeldOutRecord) -> None: ...

    def wish(self) -> Wish:
        return "go on"


NO_LISTENER: Listener = _Nobody()

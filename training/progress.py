"""How long work tells what it has done, without knowing who listens (a terminal, ComfyUI's bar, nobody)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class Progress(Protocol):
    """Listens to one piece of work at a time."""

    def start(self, total: int, unit: str) -> None:
        """Work begins: `total` units named `unit` ("step", "picture", "tensor")."""

    def advance(self, done: int, **values: float) -> None:
        """`done` units are finished in all; `values` are figures to show beside the bar (loss, learning_rate)."""

    def finish(self) -> None:
        """The work has ended, whether it is complete or not."""

    def check_interrupt(self) -> None:
        """Raises the host's own interrupt exception if the user has asked to stop; called at least once a step."""


@runtime_checkable
class Viewer(Protocol):
    """A `Progress` that can show figures and pictures of how far the work is beside its bar."""

    def show(self, pictures: Sequence[bytes]) -> None:
        """JPEG files, shown together beside the bar."""

    def bar_only(self) -> None:
        """From now on the bar is all: the same figures and pictures are shown elsewhere."""


class _Silent:
    def start(self, total: int, unit: str) -> None: ...

    def advance(self, done: int, **values: float) -> None: ...

    def finish(self) -> None: ...

    def check_interrupt(self) -> None: ...


NO_PROGRESS: Progress = _Silent()

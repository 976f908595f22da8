"""Ctrl-C during a run: the first asks the running node to save and stop, the second ends the process at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The user has asked to stop. No Exception, so that `except Exception` cannot swallow it; ComfyUI's own behaves the same."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped by the user")
        self.signal_number = signal_number


class StopRequest:
    """Remembers that a signal has asked this run to stop, until a node looks (`check`)."""

    def __init__(self) -> None:
        self._signal_number: int | None = None

    def check(self) -> None:
        """Raises Interrupted if the run has been asked to stop."""
        if self._signal_number is not None:
            raise Interrupted(self._signal_number)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Takes Ctrl-C and SIGTERM over within a with-block; to be called from the main thread."""
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal_number = number
        signal.signal(number, signal.SIG_DFL)
        sys.stderr.write("\nStopping: the running node saves what it has. Ctrl-C again ends at once.\n")

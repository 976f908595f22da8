"""A heartbeat for what should be told often, but not too often: a thread of its own, so that whoever has news never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

INTERVAL_SECONDS = 0.2
"""Fast enough for eyes, and half the price of ten a second: what an event costs is mostly to wake a thread (`graft bench --only panel`)."""


class Pulse:
    """Calls `beat` soon after each `due`, with at least an interval between two calls; the last news is always told.

    Args:
        beat: is called in the pulse's own thread.
        interval_seconds: between two calls.
    """

    def __init__(self, beat: Callable[[], None], interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._beat, self._interval_seconds = beat, interval_seconds
        self._due, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="graft live panel", daemon=True)
        self._thread.start()

    def due(self) -> None:
        """There is news."""
        self._due.set()

    def close(self) -> None:
        """Tells what is still due and ends."""
        self._closed.set()
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._due.wait()
            self._due.clear()
            self._beat()
            self._closed.wait(self._interval_seconds)
        if self._due.is_set():
            self._beat()

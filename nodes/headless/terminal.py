"""Progress in a terminal: one line that moves where there is a screen, plain lines now and then where the output goes to a file."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

BAR_CELLS = 24
REDRAW_SECONDS = 0.1
PLAIN_LINE_SECONDS = 15.0
RATE_WINDOW = 40

Clock = Callable[[], float]


class Reporter:
    """Tells a person how a run goes: which node works, how far it is, how long it took.

    Args:
        stream: where to write.
        check_interrupt: raises if the user has asked to stop.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO, check_interrupt: Callable[[], None], clock: Clock = time.monotonic) -> None:
        self._stream, self._clock, self.check_interrupt = stream, clock, check_interrupt
        self._moves = stream.isatty()
        self._drawn = False
        self._label = ""

    def node_started(self, number: int, count: int, name: str) -> None:
        self._label = f"[{number}/{count}] {name}"
        if self._moves:
            self._draw(self._label)
        else:
            self.line(self._label)

    def node_finished(self, seconds: float) -> None:
        if self._moves or seconds >= 1:
            self.line(f"{self._label}: done in {duration(seconds)}")

    def progress(self) -> TerminalProgress:
        """A bar for one piece of work of the node now running."""
        return TerminalProgress(self, self._clock, REDRAW_SECONDS if self._moves else PLAIN_LINE_SECONDS)

    def show(self, text: str) -> None:
        """The state of the work: replaces the moving line, or becomes a plain line."""
        label = f"{self._label} " if self._label else ""
        if self._moves:
            self._draw(label + text)
        else:
            self.line(label + text)

    def line(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._drawn = False

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns
        self._stream.write("\r\x1b[2K" + text[: width - 1])
        self._stream.flush()
        self._drawn = True


class TerminalProgress:
    """A `Progress` drawn by a Reporter: bar, done of total, the given figures, speed and time left."""

    def __init__(self, reporter: Reporter, clock: Clock, interval_seconds: float) -> None:
        self._reporter, self._clock, self._interval_seconds = reporter, clock, interval_seconds
        self._recent: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        self._total, self._unit, self._done = 0, "", 0
        self._values: dict[str, float] = {}
        self._shown_at = self._clock()
        self._shown_done = -1

    def start(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done, self._values = total, unit, 0, {}
        self._recent.clear()
        self._recent.append((self._clock(), 0))
        self._shown_at, self._shown_done = self._clock(), -1

    def advance(self, done: int, **values: float) -> None:
        now = self._clock()
        if len(self._recent) == 1 and self._done == 0 and done > 1:
            self._recent.clear()  # resumed work begins at `done`: what was done before says nothing about the speed
        self._done, self._values = done, self._values | values
        self._recent.append((now, done))
        if now - self._shown_at >= self._interval_seconds:
            self._show(now)

    def finish(self) -> None:
        if self._done != self._shown_done and (self._shown_done >= 0 or self._values):
            self._show(self._clock())

    def check_interrupt(self) -> None:
        self._reporter.check_interrupt()

    def _show(self, now: float) -> None:
        self._shown_at, self._shown_done = now, self._done
        self._reporter.show(self.text())

    def text(self) -> str:
        """ "[######......] 50/200 steps  loss 0.1234  3.1 steps/s  0:48 left" """
        share = min(1.0, self._done / self._total) if self._total else 1.0
        bar = ("#" * round(share * BAR_CELLS)).ljust(BAR_CELLS, ".")
        figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._values.items()]
        return "  ".join([f"[{bar}] {self._done}/{self._total} {self._unit}s", *figures, *self._speed()])

    def _speed(self) -> list[str]:
        if len(self._recent) < 2 or self._recent[-1][0] <= self._recent[0][0]:
            return []
        (since, first), (until, last) = self._recent[0], self._recent[-1]
        rate = (last - first) / (until - since)
        if rate <= 0:
            return []
        speed = f"{rate:.3g} {self._unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{self._unit}"
        return [speed] + ([f"{duration((self._total - self._done) / rate)} left"] if self._done < self._total else [])


def duration(seconds: float) -> str:
    """ "0.4 s", "3:05" (minutes), "2:03:05" (hours)."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ReporterHandler(logging.Handler):
    """Puts log messages above the moving line."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        self._reporter.line(prefix + record.getMessage())

"""One training as the page sees it: figures, curve and pictures so far, and wishes that wait for the step to end. Safe to share by threads."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...training.history import HeldOutRecord, History, StepRecord
from ...training.listener import Wish
from .curve import Curve, HeldOut, Point, rounded, single
from .gallery import Gallery, Pictures

Phase = Literal["preparing", "running", "finished", "stopped", "cancelled", "failed", "found"]
"""Stopped: by a wish, and the graph goes on with what is trained. Found: on the disk, nothing had to be trained."""
WISHES: tuple[Wish, ...] = get_args(Wish)
SPEED_WINDOW_STEPS = 50
MOST_NEW_HELD_OUT = 8
LONGEST_MESSAGE = 400


@dataclass(frozen=True)
class Place:
    """Where the node is that trains."""

    node: str
    """As the page names it: "7", or "1:7" inside a subgraph."""
    workflow: str | None = None
    """The workflow's own id, if it came from a page; node ids alone are the same in many workflows."""


class LiveRun:
    """What is known of one training; every method may be called from any thread.

    Args:
        place: its node.
        can_sample: whether pictures can be asked for.
        clock: seconds, monotonic.
    """

    def __init__(self, place: Place, can_sample: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.id, self.place, self._can_sample, self._clock = secrets.token_hex(8), place, can_sample, clock
        self.stored_as: str | None = None
        """The name of its run in the store, once it is known."""
        self.news: Callable[[], None] = lambda: None
        """Called when a page has changed something: other pages should hear of it before the step ends."""
        self._lock = threading.RLock()
        self._curve, self._held_out, self._gallery = Curve(), HeldOut(), Gallery()
        self._recent: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._new_point: Point | None = None
        self._new_held_out: list[tuple[int, float]] = []
        self._samples: int | None = None
        self._wishes: dict[Wish, None] = {}
        self._sequence = 0
        self._phase: Phase = "preparing"
        self._message = ""
        self._step, self._until_step, self._saved_step = 0, 0, 0
        self._learning_rate: float | None = None
        self._memory: dict[str, Any] = {}

    # ------------------------------------------------------------ what the training tells

    def begin(self, step: int, until_step: int, history: History) -> None:
        with self._lock:
            self._phase, self._step, self._until_step, self._saved_step = "running", step, until_step, step
            self._take_over(history)
            self._recent.append((self._clock(), step))

    def found(self, step: int, partial: bool, history: History) -> None:
        """Nothing had to be trained: the result lay on the disk."""
        with self._lock:
            self._phase, self._step, self._until_step, self._saved_step = "stopped" if partial else "found", step, step, step
            self._take_over(history)

    def go_on_from(self, before: Iterable[LiveRun], stored_as: str) -> None:
        """Keeps the pictures of an earlier sitting of the same stored run, which its node has shown."""
        with self._lock:
            self.stored_as = stored_as
            for earlier in before:
                if earlier.stored_as == stored_as:
                    self._gallery = earlier._gallery

    def step(self, record: StepRecord) -> None:
        with self._lock:
            self._step = record.step
            point = single(record.step, record.loss, record.learning_rate)
            self._new_point = point if self._new_point is None else self._new_point.joined(point)
            self._learning_rate = record.learning_rate
            self._recent.append((self._clock(), record.step))

    def held_out(self, record: HeldOutRecord) -> None:
        with self._lock:
            self._add_held_out(record)
            self._new_held_out = [*self._new_held_out, (record.step, record.held_out)][-MOST_NEW_HELD_OUT:]

    def pictures(self, step: int, pictures: Pictures) -> None:
        with self._lock:
            self._gallery.add(step, pictures)

    def hints(self, pictures: Pictures) -> None:
        with self._lock:
            self._gallery.hints = tuple(pictures)

    def saved(self, step: int) -> None:
        with self._lock:
            self._saved_step = step

    def say(self, message: str) -> None:
        """One line for the person who watches."""
        with self._lock:
            self._message = message[:LONGEST_MESSAGE]

    def memory(self, figures: dict[str, Any]) -> None:
        with self._lock:
            self._memory = figures

    def end(self, phase: Phase, message: str = "") -> None:
        with self._lock:
            self._phase, self._wishes = phase, {}
            if message:
                self.say(message)

    @property
    def done_steps(self) -> int:
        return self._step

    @property
    def going_on(self) -> bool:
        return self._phase in ("preparing", "running")

    # ------------------------------------------------------------ what the page asks

    def wish(self, wish: Wish) -> bool:
        """Notes a wish; False if nothing runs that could fulfil it."""
        with self._lock:
            possible = self._phase == "running" and (wish != "sample" or self._can_sample)
            if possible:
                self._wishes[wish] = None
        self.news()
        return possible

    def wishes(self) -> tuple[Wish, ...]:
        with self._lock:
            return tuple(self._wishes)

    def fulfilled(self, wishes: Iterable[Wish]) -> None:
        with self._lock:
            for wish in wishes:
                self._wishes.pop(wish, None)

    def event(self) -> dict[str, Any]:
        """What has changed since the last event, and all present figures: bounded in size however long the training is."""
        with self._lock:
            self._sequence += 1
            point, held_out = self._new_point, self._new_held_out
            self._new_point, self._new_held_out = None, []
            if point:
                self._curve.add(point)
            return {
                **self.summary(), "point": point.rounded() if point else None,
                "held_out": [[step, rounded(loss)] for step, loss in held_out],
            }  # fmt: skip

    def history(self) -> dict[str, Any]:
        """Everything that events have told so far, for a page that comes later: those numbered above its `sequence` follow on it."""
        with self._lock:
            return {
                **self.summary(), "points": [point.rounded() for point in self._curve.points],
                "held_out": [[step, rounded(loss)] for step, loss in self._held_out.points],
            }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The present figures."""
        with self._lock:
            speed = self._steps_per_second()
            remaining = self._until_step - self._step
            return {
                "run": self.id, "sequence": self._sequence, "node": self.place.node, "workflow": self.place.workflow,
                "phase": self._phase, "message": self._message, "step": self._step, "until_step": self._until_step,
                "saved_step": self._saved_step, "learning_rate": self._learning_rate,
                "steps_per_second": rounded(speed) if speed else None,
                "seconds_left": rounded(remaining / speed) if speed and self.going_on else None,
                "memory": self._memory, "wishes": list(self._wishes), "can_sample": self._can_sample,
                **self._gallery.summary(),
            }  # fmt: skip

    def picture(self, step: int | None, index: int) -> bytes | None:
        """A JPEG: of the pictures at `step`, or of the hints beside them if None."""
        with self._lock:
            return self._gallery.picture(step, index)

    def newest_picture(self) -> bytes | None:
        """The first of the newest set, to know the run by."""
        with self._lock:
            steps = self._gallery.summary()["picture_steps"]
            return self._gallery.picture(steps[-1], 0) if steps else None

    # ------------------------------------------------------------ inside

    def _take_over(self, history: History) -> None:
        self._curve.extend(single(record.step, record.loss, record.learning_rate) for record in history.steps)
        if history.steps:
            self._learning_rate = history.steps[-1].learning_rate
        for record in history.held_out:
            self._add_held_out(record)

    def _add_held_out(self, record: HeldOutRecord) -> None:
        if self._samples not in (None, record.samples):
            self._held_out.clear()
        self._samples = record.samples
        self._held_out.add(record.step, record.held_out)

    def _steps_per_second(self) -> float | None:
        (since, first), (until, last) = (self._recent[0], self._recent[-1]) if self._recent else ((0.0, 0), (0.0, 0))
        return (last - first) / (until - since) if until > since and last > first else None

"""Ties a training to its panel: what the loop tells goes out as events, what the page wishes for goes in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ...training.catalogue import keep_picture
from ...training.history import HeldOutRecord, StepRecord
from ...training.learner import Learner
from ...training.listener import Silent, Wish
from ...training.loop import Training
from ...training.memory import memory_figures
from ...training.state import State
from .board import BOARD, Board
from .gallery import Pictures
from .pictures import Painter
from .pulse import Pulse
from .run import LiveRun, Phase, Place

_log = logging.getLogger(__name__)
EVENT = "graft.training"
MEMORY_INTERVAL_SECONDS = 1.0

Send = Callable[[str, Mapping[str, Any]], None]
"""(event, data) to the pages of the host."""


class Unwatched(Silent):
    """Stands in for a `Watch` where no page shows the training."""

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, *error: object) -> None: ...

    def result(self, state: State) -> None: ...


class Watch(Silent):
    """The listener of one Train Steps; use it in a with-block around everything that the node does.

    Args:
        send: gets the events, in another thread.
        place: the node.
        painter: makes pictures.
        sample_every: steps between pictures that nobody has to ask for; 0 makes none. With any the first are made before the first step.
        device: whose memory is shown.
        board: where pages find the run.
        show: shows the same pictures on the node's own bar.
    """

    def __init__(
        self, send: Send, place: Place, painter: Painter, sample_every: int, device: torch.device, board: Board = BOARD,
        show: Callable[[Pictures], None] | None = None,
    ) -> None:  # fmt: skip
        self._send, self._painter, self._sample_every, self._device, self._board = send, painter, sample_every, device, board
        self._show = show
        self.run = LiveRun(place, can_sample=painter.able)
        self._measured_at, self._asked = -MEMORY_INTERVAL_SECONDS, tuple[Wish, ...]()

    def __enter__(self) -> Watch:
        self._before = self._board.add(self.run)
        self._pulse = Pulse(self._tell)
        self.run.news = self._pulse.due
        self._pulse.due()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.run.end(*_ended(error))
        self._pulse.due()
        self._pulse.close()

    def result(self, state: State) -> None:
        """What the node gives on. Nothing was told before if it was found on the disk."""
        if self.run.going_on:
            self.run.go_on_from(self._before, state.folder.name)
            self.run.found(state.step, state.partial, state.history())
        if state.partial:
            self._board.stopped(self.run.place.node)
        picture = self.run.newest_picture()
        if picture is not None:
            keep_picture(state.folder, picture)

    # ------------------------------------------------------------ what the loop tells (training/listener.py)

    def begin(self, learner: Learner, training: Training) -> None:
        self.run.go_on_from(self._before, training.run.folder.name)
        self.run.begin(learner.step, training.until_step, training.history(learner.step))
        self._until_step = training.until_step
        self.run.hints(self._painter.hints() if self._painter.able else ())
        self._pulse.due()
        if self._sample_every and self._painter.able:
            self.sample(learner)

    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        self.run.step(record)
        self._pulse.due()

    def held_out(self, record: HeldOutRecord) -> None:
        self.run.held_out(record)
        self._pulse.due()

    def wishes(self) -> Collection[Wish]:
        self._asked = self.run.wishes()
        due = self._sample_every and self._painter.able and self.run.done_steps % self._sample_every == 0
        return {*self._asked, "sample"} if due else self._asked

    def sample(self, learner: Learner) -> None:
        try:
            pictures = self._painter.paint(learner)
            self.run.pictures(learner.step, pictures)
            if self._show is not None:
                self._show(pictures)
        except torch.cuda.OutOfMemoryError:
            _log.warning("no memory for pictures at step %d: training goes on without them", learner.step)
            self.run.say("no memory for pictures")
        self.run.fulfilled(["sample"])
        self._pulse.due()

    def saved(self, step: int) -> None:
        self.run.saved(step)
        self.run.fulfilled(["save"])
        self._pulse.due()

    def end(self, error: BaseException | None) -> None:
        done: tuple[Phase, str] = ("stopped", "") if self.run.done_steps < self._until_step else ("finished", "")
        self.run.end(*(done if error is None else _ended(error)))
        self._pulse.due()

    # ------------------------------------------------------------ in the pulse's thread

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._measured_at >= MEMORY_INTERVAL_SECONDS:
            self._measured_at = now
            self.run.memory(memory_figures(self._device))
        self._send(EVENT, self.run.event())


def _ended(error: BaseException) -> tuple[Phase, str]:
    """ComfyUI's own interrupt is an Exception in older versions, so its name tells."""
    if not isinstance(error, Exception) or "Interrupt" in type(error).__name__:
        return "cancelled", ""
    return "failed", str(error) or type(error).__name__

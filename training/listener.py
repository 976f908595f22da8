"""Whoever watches a training step by step and may ask it for something: the live panel, a log. The loop works the same without."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from .history import HeldOutRecord, StepRecord

if TYPE_CHECKING:
    from .learner import Learner
    from .loop import Training

Wish = Literal["save", "sample", "stop"]
"""After the step just finished: a checkpoint now; pictures now; or stop, save and let the graph go on with what is trained."""


class Listener(Protocol):
    """Called in the loop's own thread. Nothing that it does may change what is trained: it looks at the learner only."""

    def begin(self, learner: Learner, training: Training) -> None:
        """Training is about to go on from `learner.step` to `training.until_step`."""

    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """A step has finished. `weights()` gives the trained tensors as they are now (a view: copy what is to be kept)."""

    def held_out(self, record: HeldOutRecord) -> None:
        """The held-out loss was taken."""

    def wishes(self) -> Collection[Wish]:
        """Asked after each step: what was wished for since the last time it was asked."""

    def sample(self, learner: Learner) -> None:
        """The wish for pictures, fulfilled by whoever listens: the learner is at rest."""

    def saved(self, step: int) -> None:
        """A checkpoint of `step` steps lies on the disk."""

    def end(self, error: BaseException | None) -> None:
        """Training is over: well (at the last step, or stopped by a wish), or because of `error`. What could be saved is saved."""


class Silent:
    """Hears everything, wishes for nothing: what listeners begin from."""

    def begin(self, learner: Learner, training: Training) -> None: ...

    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None: ...

    def held_out(self, record: HeldOutRecord) -> None: ...

    def wishes(self) -> Collection[Wish]:
        return ()

    def sample(self, learner: Learner) -> None: ...

    def saved(self, step: int) -> None: ...

    def end(self, error: BaseException | None) -> None: ...


NO_LISTENER: Listener = Silent()


class Several(Silent):
    """Hears for all of these, and wishes for whatever one of them wishes for."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def begin(self, learner: Learner, training: Training) -> None:
        for listener in self._listeners:
            listener.begin(learner, training)

    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        for listener in self._listeners:
            listener.step(record, weights)

    def held_out(self, record: HeldOutRecord) -> None:
        for listener in self._listeners:
            listener.held_out(record)

    def wishes(self) -> Collection[Wish]:
        return {wish for listener in self._listeners for wish in listener.wishes()}

    def sample(self, learner: Learner) -> None:
        for listener in self._listeners:
            listener.sample(learner)

    def saved(self, step: int) -> None:
        for listener in self._listeners:
            listener.saved(step)

    def end(self, error: BaseException | None) -> None:
        for listener in self._listeners:
            listener.end(error)

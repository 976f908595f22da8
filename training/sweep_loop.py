"""The loop of a sweep: LoRAs that stand at the same step take it together, each in a run of its own as if it were trained alone.

What a step draws, how it is applied, measured and saved are the single loop's own functions (loop.py); only the pass through the network is shared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from .data.batches import Batches
from .guard import NonFiniteError
from .history import StepRecord
from .learner import Learner
from .loop import (
    Training,
    apply_step,
    batch_losses,
    batch_numbers,
    every,
    held_out_losses,
    note_held_out,
    open_batches,
    save,
    save_before_leaving,
)  # fmt: skip
from .memory import begin_peak
from .models.flux import Flux
from .progress import NO_PROGRESS, Progress
from .trainable.lora_sweep import JointLoras
from .weights import own_module

Result: TypeAlias = StepRecord | NonFiniteError
"""Of one LoRA's step; a loss or gradient that is not finite concerns that LoRA alone."""


@dataclass(frozen=True, kw_only=True)
class SweepTraining(Training):
    """One LoRA's training within a sweep."""

    together: int
    """LoRAs of the sweep that had to be trained."""

    def facts(self, learner: Learner, why: str) -> dict[str, Any]:
        """As alone; the wall time and the memory are those of the whole sweep."""
        return {**super().facts(learner, why), "trained_together": self.together}


class Lane:
    """One LoRA on its way."""

    def __init__(self, learner: Learner, training: SweepTraining) -> None:
        self.learner, self.training = learner, training
        self.first_step = learner.step
        self.measured = {record.step for record in training.run.history.read().held_out}
        self.error: NonFiniteError | None = None
        """Why it went no further."""

    @property
    def going_on(self) -> bool:
        return self.error is None and self.learner.step < self.training.until_step

    def keep(self) -> None:
        """Saves what was trained since the last checkpoint, unless it was stopped in the middle of an update."""
        if self.learner.step > self.first_step and not self.learner.changing:
            save_before_leaving(self.learner, self.training)

    def took(self, result: Result) -> None:
        """After a step: notes what it gave, or leaves the others with what was trained before."""
        if isinstance(result, StepRecord):
            self.training.run.history.append(result)
        else:
            self.error = result
            self.keep()


def train_lanes(base: Flux, lanes: Sequence[Lane], progress: Progress) -> None:
    """Trains all to the step that they were asked for; a LoRA that is behind the others catches up first.

    A loss or gradient that is not finite ends that LoRA alone: its `error` says so. Anything else that stops the training (the host's interrupt,
    a full disk) stops all of them, saved where they are.

    Raises:
        InputError: the disk is full or may not be written.
    """
    first = lanes[0]
    with _keeping(lanes, progress), open_batches(first.learner, first.training) as batches:
        while behind := [lane for lane in lanes if lane.going_on]:
            step = min(lane.learner.step for lane in behind)
            group = [lane for lane in behind if lane.learner.step == step]
            next_stop = min((lane.learner.step for lane in behind if lane not in group), default=first.training.until_step)
            _train_group(base, group, next_stop, batches, progress)


def _train_group(base: Flux, group: Sequence[Lane], next_stop: int, batches: Batches, progress: Progress) -> None:
    """Until others stand at the same step, or one of these fails."""
    learners = [lane.learner for lane in group]
    joint = joint_network(base, learners)
    _measure(joint, group, due=not all(lane.measured for lane in group))
    going_on = list(group)
    while len(going_on) == len(group) and learners[0].step < next_stop:
        results = joint_step(joint, learners, batches, progress)
        for lane, result in zip(group, results, strict=True):
            lane.took(result)
        going_on = [lane for lane in group if lane.error is None]
        if going_on:
            losses = [result.loss for result in results if isinstance(result, StepRecord)]
            progress.advance(going_on[0].learner.step, lowest_loss=min(losses), highest_loss=max(losses))
            _measure_and_save(joint, group, going_on)


def joint_network(base: Flux, learners: Sequence[Learner]) -> JointLoras:
    """One network for the LoRAs of these learners, over the tensors of a base that stays as it is."""
    own: Any = own_module(base)
    return JointLoras(own, [(learner.base, learner.trainable) for learner in learners], learners[0].settings.checkpointing)


def joint_step(joint: JointLoras, learners: Sequence[Learner], batches: Batches, progress: Progress = NO_PROGRESS) -> list[Result]:
    """One step of each, as loop.train_step, with one pass through the network for all.

    Gradients are those of the sum of all losses: each LoRA's adapters have part in its own loss alone.
    """
    started, accumulation = time.perf_counter(), learners[0].settings.accumulation
    times, losses = [], []
    for number in batch_numbers(learners[0]):
        progress.check_interrupt()
        loss, t = batch_losses(learners[0], joint.predict, batches.batch(number), number, copies=len(learners))
        own = loss.view(len(learners), -1)
        (own.mean(dim=1).sum() / accumulation).backward()
        for learner in learners:
            learner.weights.gather_gradients()
        times.append(t)
        losses.append(own.detach())
    return [_applied(learner, batches, times, [own[place] for own in losses], started) for place, learner in enumerate(learners)]


def _applied(learner: Learner, batches: Batches, times: Sequence[Tensor], losses: Sequence[Tensor], started: float) -> Result:
    try:
        return apply_step(learner, batches, times, losses, started)
    except NonFiniteError as error:
        learner.discard_gradients()
        return error.with_traceback(None)  # whose frames would keep the step's tensors


def _measure_and_save(joint: JointLoras, group: Sequence[Lane], going_on: Sequence[Lane]) -> None:
    learner, end = going_on[0].learner, going_on[0].training.until_step
    last = learner.step == end
    _measure(joint, group, due=last or every(learner.settings.evaluate_every, learner.step))
    if last or every(learner.settings.checkpoint_every, learner.step):
        for lane in going_on:
            save(lane.learner, lane.training, "end" if last else "on the way")


def _measure(joint: JointLoras, group: Sequence[Lane], due: bool) -> None:
    """Takes the held-out losses of all together if they are due, and keeps those that were not measured already."""
    wanted = {number: lane for number, lane in enumerate(group) if lane.error is None and lane.learner.step not in lane.measured}
    if not due or not wanted:
        return
    lead = next(iter(wanted.values()))
    with ExitStack() as results:
        for lane in group:
            results.enter_context(lane.learner.showing_result())
        records = held_out_losses(lead.learner, joint.predict, lead.training.data, lead.training.progress, copies=len(group))
    for number, lane in wanted.items():
        lane.measured.add(lead.learner.step)
        if records:
            note_held_out(lane.training, records[number])


@contextmanager
def _keeping(lanes: Sequence[Lane], progress: Progress) -> Iterator[None]:
    """Whatever stops them: what was trained is saved under the steps that it has."""
    begin_peak(lanes[0].learner.device)
    progress.start(lanes[0].training.until_step, "step")
    progress.advance(min(lane.learner.step for lane in lanes))
    try:
        yield
    except BaseException:
        for lane in lanes:
            lane.keep()
        raise
    finally:
        progress.finish()

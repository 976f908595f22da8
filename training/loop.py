"""The training loop. A step is a pure function of weights, optimiser state and absolute step; `train` repeats it, measures and saves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .data.batches import Batch, Batches, held_out_batch, held_out_batches
from .data.encoded import Encoded
from .errors import InputError
from .guard import require_finite
from .history import HeldOutRecord, History, StepRecord
from .learner import Learner
from .listener import NO_LISTENER, Listener
from .memory import begin_peak, peak_memory_bytes
from .objective import HELD_OUT_TIMES, Predict, bucket_sums, draw, drop_captions, flow_matching_loss, held_out_draws, repeated
from .optimise import clip_gradients, learning_rate
from .progress import NO_PROGRESS, Progress
from .regularisation import PriorBatches, Regularisation
from .store import Run
from .trainable.base import Conditions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a loop works with beside the learner; nothing in it changes but files."""

    data: Encoded
    run: Run
    until_step: int
    """The absolute step to reach."""
    progress: Progress = NO_PROGRESS
    listener: Listener = NO_LISTENER
    regularisation: Regularisation | None = None
    """Pictures that must not change, beside the data."""
    earlier: History = field(default_factory=History)
    """What the runs that this one began from have measured."""
    started: float = field(default_factory=lambda: time.perf_counter())
    """When this sitting began, on the clock of time.perf_counter."""

    def history(self, step: int) -> History:
        """Everything that led to the first `step` steps, earlier runs included."""
        own = self.run.history.read().up_to(step)
        return self.earlier.followed_by(own.after(self.earlier.steps[-1].step) if self.earlier.steps else own)

    def facts(self, learner: Learner, why: str) -> dict[str, Any]:
        """What is noted with a checkpoint. The wall time counts everything: steps, held-out losses and checkpoints, of earlier sittings too."""
        before, own = learner.seconds_before, time.perf_counter() - self.started
        return {
            "why": why, "asked_for_step": self.until_step, "torch": torch.__version__, "device": str(learner.device),
            "compute": str(learner.compute).removeprefix("torch."), "peak_memory_bytes": peak_memory_bytes(learner.device),
            "train_seconds": None if before is None else before + own,
        }  # fmt: skip


def train(learner: Learner, training: Training) -> None:
    """Trains from the learner's step to `until_step`, or to where the listener asks to stop; leaves a checkpoint of where it ended.

    Whatever stops it (the host's interrupt, an error, a number that is not finite): what was trained is saved under the steps that it has,
    and the exception goes on its way.

    Raises:
        NonFiniteError: a loss or gradient is not finite.
        InputError: the disk is full or may not be written.
    """
    settings, run, progress, listener, end = learner.settings, training.run, training.progress, training.listener, training.until_step
    measured = {record.step for record in run.history.read().held_out}
    with _keeping(learner, training), open_batches(learner, training) as batches, _open_prior(learner, training) as prior:
        with learner.showing_result():
            listener.begin(learner, training)
        measure(learner, training, measured, due=not measured)
        stop = False
        while learner.step < end and not stop:
            record = train_step(learner, batches, progress, prior)
            run.history.append(record)
            progress.advance(record.step, **record.figures())
            listener.step(record, learner.result)
            wishes = listener.wishes()
            stop = "stop" in wishes
            last = learner.step == end or stop
            measure(learner, training, measured, due=last or every(settings.evaluate_every, learner.step))
            if not last and ("save" in wishes or every(settings.checkpoint_every, learner.step)):
                save(learner, training, "on the way")
            if "sample" in wishes:
                with learner.showing_result():
                    listener.sample(learner)
        save(learner, training, "end" if learner.step == end else "stopped")


def train_step(learner: Learner, batches: Batches, progress: Progress = NO_PROGRESS, prior: PriorBatches | None = None) -> StepRecord:
    """One step: the mean loss of `accumulation` batches, and of as many of a regularisation, its gradient, and the update.

    Raises:
        NonFiniteError: before anything has changed.
    """
    settings, started = learner.settings, time.perf_counter()
    times, losses, beside = [], [], []
    for number in batch_numbers(learner):
        progress.check_interrupt()
        loss, t = batch_losses(learner, learner.predict, batches.batch(number), number)
        (loss.mean() / settings.accumulation).backward()
        learner.weights.gather_gradients()
        times.append(t)
        losses.append(loss.detach())
        if prior is not None:
            beside.append(_add_prior(learner, prior, number))
    return apply_step(learner, batches, times, losses, started, prior, beside)


def _add_prior(learner: Learner, prior: PriorBatches, number: int) -> Tensor:
    """Adds the gradient of the regularisation's batch to the masters'; gives its losses [B], unweighted."""
    loss, _ = batch_losses(learner, learner.predict, prior.batch(number), number, seed=prior.seed)
    prior.weighted(loss).backward()
    learner.weights.gather_gradients()
    return loss.detach()


def batch_losses(
    learner: Learner, predict: Predict, batch: Batch, number: int, copies: int = 1, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of each sample [copies * B] of the training batch of that absolute number, and the samples' flow times [B].

    With `copies` the network sees all rows of the batch, and everything drawn for them, so many times one after another: one for each LoRA of a
    sweep (sweep_loop.py). `seed` is that of the settings unless another is given.
    """
    settings, first = learner.settings, number * learner.settings.batch_size
    drawn = draw(settings.objective, settings.seed if seed is None else seed, range(first, first + settings.batch_size), batch.latents.shape[1:])
    draws = drawn.to(learner.device)
    conditions = drop_captions(conditions_of(batch, learner), draws.dropped, batch.empty_text, batch.empty_pooled)
    x_0, told, rows = (repeated(value, copies) for value in (batch.latents.to(learner.device), conditions, draws))
    return flow_matching_loss(predict, x_0, told, rows, learner.compute, weights=_weights_of(batch, learner, copies)), drawn.t


def _weights_of(batch: Batch, learner: Learner, copies: int) -> Tensor | None:
    """How much each cell counts [copies * B, 1, H/8, W/8]; None where no picture has a mask."""
    return None if batch.loss_weights is None else repeated(batch.loss_weights.to(learner.device), copies)


def apply_step(
    learner: Learner, batches: Batches, times: Sequence[Tensor], losses: Sequence[Tensor], started: float,
    prior: PriorBatches | None = None, beside: Sequence[Tensor] = (),
) -> StepRecord:  # fmt: skip
    """The update by the gradients that the masters hold; of each batch the flow times [B] and losses [B], and when the step began.

    `beside` are the losses [B] of the batches of `prior`.

    Raises:
        NonFiniteError: before anything has changed.
    """
    settings = learner.settings
    rate = learning_rate(settings.optimiser, settings.schedule, learner.step)
    norm = clip_gradients(learner.weights.parameters, settings.clip_norm)
    # The step's one wait for the device.
    *loss_list, norm_value = torch.cat([*losses, *beside, norm.detach().float().reshape(1)]).tolist()
    loss_list, beside_list = _split(loss_list, sum(len(loss) for loss in losses))
    if prior is not None:
        held = (prior.batch(number) for number in batch_numbers(learner))
        require_finite(learner, held, beside_list, 0.0, rate, "regularisation pictures")
    require_finite(learner, (batches.batch(number) for number in batch_numbers(learner)), loss_list, norm_value, rate)
    used = learner.update(rate)
    return StepRecord(
        step=learner.step, loss=sum(loss_list) / len(loss_list), learning_rate=used, gradient_norm=norm_value,
        buckets=bucket_sums(torch.cat(list(times)).tolist(), loss_list), seconds=time.perf_counter() - started,
        regularisation=sum(beside_list) / len(beside_list) if beside_list else None,
    )  # fmt: skip


def _split(values: list[float], count: int) -> tuple[list[float], list[float]]:
    return values[:count], values[count:]


def held_out_loss(learner: Learner, data: Encoded, progress: Progress = NO_PROGRESS) -> HeldOutRecord | None:
    """The loss on held-out samples at fixed times with fixed noise; None when there are none. Changes nothing."""
    records = held_out_losses(learner, learner.predict, data, progress)
    return records[0] if records else None


def held_out_losses(learner: Learner, predict: Predict, data: Encoded, progress: Progress, copies: int = 1) -> list[HeldOutRecord]:
    """The held-out loss of each of `copies` LoRAs that `predict` computes together (see batch_losses); none when there are no samples."""
    settings, count = learner.settings, min(data.held_out_size, learner.settings.evaluate_samples)
    totals = torch.zeros(copies, len(HELD_OUT_TIMES), device=learner.device)
    for samples in held_out_batches(data, count, settings.batch_size):
        batch = held_out_batch(data, samples)
        conditions, x_0, weights = conditions_of(batch, learner), batch.latents.to(learner.device), _weights_of(batch, learner, copies)
        for index, t in enumerate(HELD_OUT_TIMES):
            progress.check_interrupt()
            draws = held_out_draws(settings.objective, samples, t, x_0.shape[1:]).to(learner.device)
            latents, told, rows = (repeated(value, copies) for value in (x_0, conditions, draws))
            with torch.no_grad():
                losses = flow_matching_loss(predict, latents, told, rows, learner.compute, weights=weights)
            totals[:, index] += losses.view(copies, -1).sum(dim=1)
    each = [tuple(total / count for total in by_time) for by_time in totals.tolist()] if count else []
    return [HeldOutRecord(step=learner.step, held_out=sum(by_time) / len(by_time), by_time=by_time, samples=count) for by_time in each]


def measure(learner: Learner, training: Training, measured: set[int], due: bool) -> None:
    """Takes and records the held-out loss if it is due and not among the steps that were `measured` already."""
    if not due or learner.step in measured:
        return
    with learner.showing_result():
        record = held_out_loss(learner, training.data, training.progress)
    measured.add(learner.step)
    if record is not None:
        note_held_out(training, record)


def note_held_out(training: Training, record: HeldOutRecord) -> None:
    """Keeps a held-out loss with the run and tells it."""
    training.run.history.append(record)
    training.listener.held_out(record)


def save(learner: Learner, training: Training, why: str) -> None:
    """Writes a checkpoint of where the learner is.

    Raises:
        InputError: the disk is full or may not be written; earlier checkpoints stay.
    """
    training.run.save(learner.step, learner.parts(), lambda: training.facts(learner, why), learner.settings.keep_checkpoints)
    training.listener.saved(learner.step)


def conditions_of(batch: Batch, learner: Learner) -> Conditions:
    """What the model is told about a batch, on the learner's device in its compute dtype."""
    text, pooled = (tensor.to(learner.device, learner.compute) for tensor in (batch.text, batch.pooled))
    return Conditions(text, pooled, None if batch.hint is None else batch.hint.to(learner.device, learner.compute))


def batch_numbers(learner: Learner) -> range:
    """The batches of the learner's next step."""
    return range(learner.step * learner.settings.accumulation, (learner.step + 1) * learner.settings.accumulation)


def open_batches(learner: Learner, training: Training) -> Batches:
    settings = learner.settings
    last = training.until_step * settings.accumulation
    return Batches(training.data, seed=settings.seed, batch_size=settings.batch_size, end_step=last)


def _open_prior(learner: Learner, training: Training) -> AbstractContextManager[PriorBatches | None]:
    if training.regularisation is None:
        return nullcontext()
    return PriorBatches(training.regularisation, learner.settings, training.until_step * learner.settings.accumulation)


@contextmanager
def _keeping(learner: Learner, training: Training) -> Iterator[None]:
    first = learner.step
    begin_peak(learner.device)
    training.progress.start(training.until_step, "step")
    training.progress.advance(first)
    try:
        yield
        training.listener.end(None)
    except BaseException as error:
        if learner.step > first and not learner.changing:
            save_before_leaving(learner, training)
        training.listener.end(error)
        raise
    finally:
        training.progress.finish()


def save_before_leaving(learner: Learner, training: Training) -> None:
    if training.run.checkpoint(learner.step) is not None:
        return
    try:
        save(learner, training, "interrupted")
    except (InputError, OSError) as error:
        _log.error("what was trained since the last checkpoint, up to step %d, could not be saved: %s", learner.step, error)


def every(interval_steps: int, step: int) -> bool:
    return interval_steps > 0 and step % interval_steps == 0

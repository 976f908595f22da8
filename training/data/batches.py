"""Batches for training: which samples belong to a step follows from seed and step alone, and worker threads have them ready.

Epochs follow one another without a gap: each is a permutation of all samples, and a batch may end one and begin the next. Where pictures lie in
buckets, or come more or less often, order.py says how.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType

import numpy as np
from torch import Tensor

from ..errors import InputError
from .encode_pictures import SHARED_SEED
from .encoded import Encoded, EncodedSample
from .order import BucketOrder, permutation
from .pages import PIECES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What one step is trained on, on the CPU."""

    latents: Tensor
    """fp32 [B, C, H/8, W/8] in the space that is trained in."""
    text: Tensor
    """[B, L, W] in the encoder's dtype."""
    pooled: Tensor
    """[B, V] in the encoder's dtype."""
    hint: Tensor | None
    """Pixels fp32 [B, 3, H, W] in {-1, 1}, or latents fp32 [B, C, H/8, W/8], or None, as `Encoded.hint_form` says."""
    empty_text: Tensor
    """[L, W]: the empty caption, for the objective's caption dropout."""
    empty_pooled: Tensor
    """[V]: the empty caption."""
    indices: tuple[tuple[int, int], ...]
    """(sample, epoch) of each row."""
    loss_weights: Tensor | None = None
    """How much each cell counts in the loss, fp32 [B, 1, H/8, W/8]; None: all alike."""


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> list[tuple[int, int]]:
    """The samples of a step, which depend on these four numbers alone.

    Args:
        seed: of the order.
        step: absolute, from 0.
        batch_size: samples per step.
        size: samples in all.

    Returns:
        (sample, epoch) for each place in the batch; every sample comes exactly once in each epoch.
    """
    assert step >= 0 and batch_size > 0 and size > 0, f"no batch {step} of {batch_size} out of {size}"
    places = [divmod(position, size) for position in range(step * batch_size, (step + 1) * batch_size)]
    return [(int(_epoch_order(seed, epoch, size)[place]), epoch) for epoch, place in places]


def load_batch(encoded: Encoded, indices: Sequence[tuple[int, int]], seed: int) -> Batch:
    """Reads training samples, given as (sample, epoch), with the hints that `seed` draws for them."""
    return _load(encoded, [encoded.seen(sample, seed, epoch) for sample, epoch in indices], indices, seed)


def held_out_batch(encoded: Encoded, positions: Sequence[int]) -> Batch:
    """Reads held-out samples of one size by position; their hints are the same for every training."""
    return _load(encoded, [encoded.held_out[position] for position in positions], [(position, 0) for position in positions], SHARED_SEED)


def held_out_batches(encoded: Encoded, count: int, batch_size: int) -> list[list[int]]:
    """The first `count` held-out positions in batches of one size, in the order of the positions where all have the same."""
    groups = encoded.groups("held out")
    kinds = [0] * count if groups is None else groups[:count].tolist()
    together = [[position for position in range(count) if kinds[position] == kind] for kind in sorted(set(kinds))]
    return [alike[first : first + batch_size] for alike in together for first in range(0, len(alike), batch_size)]


class Batches:
    """Reads batches ahead in worker threads. Use it in a `with` block, or close it.

    Args:
        encoded: the data.
        seed: of order and drawn hints.
        batch_size: samples per step.
        workers: threads that read ahead; 0 reads in the caller's thread. The batches are the same.
        ahead: batches that are kept ready.
        end_step: nothing is read ahead from this step on.

    Raises:
        InputError: batch size below 1, or a negative number of workers.
    """

    def __init__(
        self, encoded: Encoded, *, seed: int, batch_size: int, workers: int = 2, ahead: int = 4, end_step: int | None = None
    ) -> None:
        if batch_size < 1:
            raise InputError("batch size", expected="1 or more", found=batch_size, remedy="4 suits most GPUs.")
        if workers < 0 or ahead < 1:
            found = f"{workers} workers, {ahead} batches ahead"
            raise InputError("data workers", expected="0 or more, at least 1 batch ahead", found=found, remedy="2 workers are enough.")
        self._encoded, self._seed, self._batch_size, self._ahead, self._end_step = encoded, seed, batch_size, ahead, end_step
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="graft-batches") if workers else None
        self._waiting: dict[int, Future[Batch]] = {}
        self._order = _order_of(encoded, seed, batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of an absolute step; the same content on every call, whichever steps were asked for before."""
        if self._readers is None:
            return self._load(step)
        self._read_ahead(self._readers, step)
        return self._waiting.pop(step).result()

    def close(self) -> None:
        """Stops reading ahead, waits for the threads to end, and gives back the memory that was kept for further batches."""
        if self._readers is not None:
            self._readers.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
        PIECES.release()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def indices(self, step: int) -> list[tuple[int, int]]:
        """(sample, epoch) for each place in the batch of an absolute step."""
        if self._order is not None:
            return self._order.indices(step)
        return batch_indices(self._seed, step, self._batch_size, self._encoded.train_size)

    def _load(self, step: int) -> Batch:
        return load_batch(self._encoded, self.indices(step), self._seed)

    def _read_ahead(self, readers: ThreadPoolExecutor, step: int) -> None:
        end = step + 1 + self._ahead
        wanted = range(step, end if self._end_step is None else max(min(end, self._end_step), step + 1))
        for stale in [known for known in self._waiting if known not in wanted]:
            self._waiting.pop(stale).cancel()
        for coming in wanted:
            if coming not in self._waiting:
                self._waiting[coming] = readers.submit(self._load, coming)


def _load(encoded: Encoded, samples: Sequence[EncodedSample], indices: Sequence[tuple[int, int]], seed: int) -> Batch:
    text, pooled = encoded.text(samples)
    empty_text, empty_pooled = encoded.empty_text()
    hint = encoded.hints(samples, seed, [epoch for _, epoch in indices])
    return Batch(encoded.latents(samples), text, pooled, hint, empty_text, empty_pooled, tuple(indices), encoded.loss_weights(samples))


def _order_of(encoded: Encoded, seed: int, batch_size: int) -> BucketOrder | None:
    """None where all samples have one size and come once in each epoch."""
    groups, rates = encoded.groups("train"), encoded.rates
    if groups is None and (rates is None or (rates == 1).all()):
        return None
    order = BucketOrder(encoded.train_size, groups, rates, encoded.sizes, seed, batch_size)
    for line in order.describe():
        logger.info("%s", line)
    return order


@lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """A permutation of range(size), the same on every machine and for all time."""
    order = permutation(size, "order", seed, epoch)
    order.flags.writeable = False
    return order

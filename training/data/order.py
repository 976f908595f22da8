"""Which samples belong to a batch, as a function of seed and number alone, where batches are of one size, or samples come more or less often.

Each size has a stream of its own: epochs of its samples, each a permutation, one behind the other without a gap; a batch may end one and begin the
next, so nothing is ever dropped. Of every size so many batches come in an epoch as its stream has filled, in an order that is drawn; what is left
over comes with the next. Nothing of this has a history: batch 1,000 is the same whichever batches were asked for before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from .buckets import Size
from .keys import KeyPart, content_key, drawn_number

_PHASES = 1 << 20


def permutation(size: int, *key: KeyPart) -> np.ndarray:
    """A permutation of range(size), int32. RandomState, because numpy promises never to change its numbers (NEP 19)."""
    words = np.frombuffer(bytes.fromhex(content_key(*key)), dtype="<u4")
    return np.random.RandomState(words.astype(np.uint32)).permutation(size).astype(np.int32)


@dataclass(frozen=True)
class _Stream:
    """The samples of one size, epoch after epoch."""

    name: str
    positions: np.ndarray
    """int32: of the samples among all."""
    rates: np.ndarray | None
    """Times per epoch, float64; None: once each."""
    seed: int
    _lengths: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    def length(self, epochs: int) -> int:
        """Samples in the first `epochs` epochs."""
        if self.rates is None:
            return len(self.positions) * epochs
        if epochs not in self._lengths:
            self._lengths[epochs] = int(self._times(epochs).sum())
        return self._lengths[epochs]

    def epoch_of(self, place: int) -> int:
        """The epoch in which place `place` of the stream lies."""
        if self.rates is None:
            return place // len(self.positions)
        return _first(lambda epochs: self.length(epochs) > place) - 1

    def order(self, epoch: int) -> np.ndarray:
        """The positions of the samples of one epoch in the order in which they come."""
        members = self.positions
        if self.rates is not None:
            members = np.repeat(members, self._times(epoch + 1) - self._times(epoch))
        return members[permutation(len(members), "order", self.seed, epoch, self.name)]

    def _times(self, epochs: int) -> np.ndarray:
        """How often each sample has come after so many epochs. The phases spread samples of a low rate over the epochs."""
        assert self.rates is not None
        return np.floor(self.rates * epochs + _phases(self.name, len(self.rates))).astype(np.int64)


class BucketOrder:
    """The batches of a training.

    Args:
        groups: the number of each sample's size; None: all have the same.
        rates: how often each sample comes in an epoch; None: once.
        sizes: width and height of each number.
        seed: of the order.
        batch_size: samples per batch.
    """

    def __init__(self, size: int, groups: np.ndarray | None, rates: np.ndarray | None, sizes: Sequence[Size], seed: int, batch_size: int) -> None:
        self._seed, self._batch_size, self._sizes = seed, batch_size, sizes
        groups = np.zeros(size, np.int16) if groups is None else groups
        self._streams = []
        for number in sorted(set(groups.tolist())):
            positions = np.nonzero(groups == number)[0].astype(np.int32)
            own = None if rates is None or (rates == 1).all() else rates[positions].astype(np.float64)
            self._streams.append(_Stream(f"{sizes[number][0]}x{sizes[number][1]}", positions, own, seed))
        keep = 2 * len(self._streams) + 2
        self._order = lru_cache(keep)(lambda stream, epoch: self._streams[stream].order(epoch))
        self._epoch_batches = lru_cache(4)(self._batches_of_epoch)

    def indices(self, number: int) -> list[tuple[int, int]]:
        """(sample, epoch) for each place in batch `number`, from 0; all samples of a batch have one size."""
        epoch = self.epoch_of(number)
        stream, own = self._epoch_batches(epoch)[number - self.batches(epoch)]
        return self._stream_batch(int(stream), int(own))

    def batches(self, epochs: int) -> int:
        """Batches in the first `epochs` epochs."""
        return sum(stream.length(epochs) // self._batch_size for stream in self._streams)

    def epoch_of(self, number: int) -> int:
        """The epoch in which a batch comes."""
        return _first(lambda epochs: self.batches(epochs) > number) - 1

    def describe(self) -> list[str]:
        """For each size how many samples there are and what becomes of those that do not fill a batch. Nothing is dropped."""
        return [self._described(stream) for stream in self._streams]

    def _described(self, stream: _Stream) -> str:
        per_epoch = len(stream.positions) if stream.rates is None else float(stream.rates.sum())
        left = per_epoch % self._batch_size
        text = f"{stream.name}: {len(stream.positions)} pictures, {per_epoch:g} in an epoch, {per_epoch / self._batch_size:.4g} batches"
        if per_epoch < self._batch_size:
            return text + f"; fewer than a batch: one every {self._batch_size / per_epoch:.3g} epochs, with pictures more than once in it"
        return text + (f"; {left:g} left over go into the next epoch's first batch" if left else "")

    def _batches_of_epoch(self, epoch: int) -> np.ndarray:
        """(stream, number of the batch in its stream) for each batch of an epoch, in the order in which they come: int64 [batches, 2]."""
        rows = []
        for stream, samples in enumerate(self._streams):
            own = np.arange(samples.length(epoch) // self._batch_size, samples.length(epoch + 1) // self._batch_size)
            rows.append(np.stack([np.full_like(own, stream), own], axis=1))
        together = np.concatenate(rows)
        return together if len(self._streams) == 1 else together[permutation(len(together), "batches", self._seed, epoch)]

    def _stream_batch(self, stream: int, number: int) -> list[tuple[int, int]]:
        samples, drawn = self._streams[stream], []
        for place in range(number * self._batch_size, (number + 1) * self._batch_size):
            epoch = samples.epoch_of(place)
            drawn.append((int(self._order(stream, epoch)[place - samples.length(epoch)]), epoch))
        return drawn


def _first(is_reached: Callable[[int], bool]) -> int:
    """The smallest number from 1 for which `is_reached` holds; it holds for all larger ones."""
    high = 1
    while not is_reached(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_reached(middle) else (middle, high)
    return high


@lru_cache(maxsize=64)
def _phases(name: str, size: int) -> np.ndarray:
    """Numbers in 0..1, one for each sample, always the same."""
    return np.random.RandomState(drawn_number(0, _PHASES, "phase", name)).random_sample(size)

"""Batches of one size: nothing is dropped, none is starved, and what comes is a function of seed and number alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from graft.training.data.order import BucketOrder

SIZES = ((512, 512), (640, 384), (384, 640))


def order(groups: list[int], seed: int = 3, batch_size: int = 4, rates: list[float] | None = None) -> BucketOrder:
    drawn = None if rates is None else np.array(rates, np.float32)
    return BucketOrder(len(groups), np.array(groups, np.int16), drawn, SIZES, seed, batch_size)


GROUPS = [0] * 13 + [1] * 6 + [2] * 3


def test_batches_hold_one_size_and_every_sample_once_in_each_epoch_of_its_size() -> None:
    batches = [order(GROUPS).indices(number) for number in range(400)]
    assert all(len({GROUPS[sample] for sample, _ in batch}) == 1 and len(batch) == 4 for batch in batches)
    times = Counter(place for batch in batches for place in batch)
    assert set(times.values()) == {1}
    for group in range(3):
        members = {sample for sample in range(22) if GROUPS[sample] == group}
        epochs = Counter(epoch for sample, epoch in times if sample in members)
        assert all(count == len(members) for epoch, count in epochs.items() if epoch < max(epochs) - 1)


def test_no_size_is_starved_and_none_comes_more_often() -> None:
    """400 batches are 1,600 pictures of 22: 72.7 epochs. Each sample has come 72 or 73 times, give or take the batch that is not full yet."""
    times = Counter(sample for number in range(400) for sample, _ in order(GROUPS).indices(number))
    assert len(times) == 22 and max(times.values()) - min(times.values()) <= 3
    assert all(abs(count - 1600 / 22) < 2.5 for count in times.values())


def test_batches_of_a_number_of_epochs_by_hand() -> None:
    # Epoch 0: 13 // 4 + 6 // 4 + 3 // 4 = 4; two epochs: 26 // 4 + 12 // 4 + 6 // 4 = 10; four: 13 + 6 + 3 = 22, nothing left over.
    assert [order(GROUPS).batches(epochs) for epochs in (0, 1, 2, 4)] == [0, 4, 10, 22]
    assert [order(GROUPS).epoch_of(number) for number in (0, 3, 4, 9, 10, 21, 22)] == [0, 0, 1, 1, 2, 3, 4]


def test_a_batch_is_the_same_whichever_was_asked_for_before() -> None:
    first = order(GROUPS)
    wanted = [first.indices(number) for number in range(60)]
    for number in (59, 0, 31, 32, 5):
        assert order(GROUPS).indices(number) == wanted[number] == first.indices(number)


def test_after_a_break_exactly_the_remaining_pictures_come_in_the_same_order() -> None:
    """An epoch and a half, then the rest in a new process: together what one sitting would have seen."""
    whole, before, after = order(GROUPS), order(GROUPS), order(GROUPS)
    seen = [before.indices(number) for number in range(7)]
    rest = [after.indices(number) for number in range(7, 22)]
    assert seen + rest == [whole.indices(number) for number in range(22)]
    assert Counter(place for batch in seen + rest for place in batch) == Counter((sample, epoch) for sample in range(22) for epoch in range(4))


def test_seeds_and_epochs_change_the_order() -> None:
    def first_epochs(seed: int) -> list[list[tuple[int, ...]]]:
        numbers = (range(4), range(4, 10))
        return [[tuple(sample for sample, _ in order(GROUPS, seed).indices(number)) for number in epoch] for epoch in numbers]

    assert first_epochs(1) != first_epochs(2) and first_epochs(1)[0] != first_epochs(1)[1][:4]
    sizes = {tuple(GROUPS[order(GROUPS, seed).indices(number)[0][0]] for number in range(22)) for seed in range(5)}
    assert len(sizes) == 5


def test_a_size_of_fewer_samples_than_a_batch_comes_in_whole_batches() -> None:
    small = order([0] * 8 + [1])
    ones = [number for number in range(9 * 4) if small.indices(number)[0][0] == 8]
    assert small.batches(4) == 9 and len(ones) == 4 and small.indices(ones[0]) == [(8, 0), (8, 1), (8, 2), (8, 3)]


def test_rates_are_times_per_epoch() -> None:
    """Repeats of 3, a weight of 0.25, and once: after 8 epochs 24, 2 and 8 times each, epoch by epoch within one."""
    rates = [3.0] * 4 + [0.25] * 8 + [1.0] * 4
    one_size = order([0] * 16, rates=rates, batch_size=2)
    times = Counter(sample for number in range(one_size.batches(8)) for sample, _ in one_size.indices(number))
    assert [times[sample] for sample in range(16)] == [24] * 4 + [2] * 8 + [8] * 4
    by_epoch = [Counter(sample for batch in range(200) for sample, its in one_size.indices(batch) if its == epoch) for epoch in range(8)]
    assert all(epoch[sample] in (3,) for epoch in by_epoch for sample in range(4))
    rare = [sum(epoch[sample] for sample in range(4, 12)) for epoch in by_epoch]
    assert sum(rare) == 16 and max(rare) < 8  # spread over the epochs, not all in every fourth


def test_what_becomes_of_those_that_fill_no_batch_is_said() -> None:
    lines = order([0] * 8 + [1] * 5 + [2]).describe()
    assert lines[0] == "512x512: 8 pictures, 8 in an epoch, 2 batches"
    assert "1 left over go into the next epoch" in lines[1]
    assert "fewer than a batch: one every 4 epochs" in lines[2]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_any_batch_size(batch_size: int) -> None:
    made = order(GROUPS, batch_size=batch_size)
    drawn = Counter(place for number in range(made.batches(50)) for place in made.indices(number))
    assert set(drawn.values()) == {1} and 22 * 50 - 3 * batch_size <= sum(drawn.values()) <= 22 * 50

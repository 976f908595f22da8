"""The order is a permutation per epoch that follows from the seed and the step alone, and threads change nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graft.training.data import batches as batches_module
from graft.training.data.batches import Batch, Batches, batch_indices, held_out_batch, load_batch
from graft.training.data.canny import CannyRecipe
from graft.training.data.encoded import Encoded
from graft.training.data.folder import ImageFolder
from graft.training.errors import InputError


@pytest.fixture
def encoded(make_folder: Callable[..., Path], encoders: Any, tmp_path: Path, small_shards: int, ranged: CannyRecipe) -> Encoded:
    dataset = ImageFolder(make_folder(13), resolution_px=32, held_out=3, hint=ranged)
    return encoders.encode(dataset, tmp_path / "encoded")


def same(first: Batch, second: Batch) -> bool:
    fields = [field.name for field in dataclasses.fields(Batch) if field.name != "indices"]
    pairs = [(getattr(first, name), getattr(second, name)) for name in fields]
    return first.indices == second.indices and all(one is other or torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("size, batch_size", [(10, 4), (10, 10), (7, 16), (1, 3), (64, 1)])
def test_every_epoch_has_every_sample_once(size: int, batch_size: int) -> None:
    steps = -(-3 * size // batch_size)
    drawn = [place for step in range(steps) for place in batch_indices(5, step, batch_size, size)]
    for epoch in range(3):
        assert sorted(sample for sample, its_epoch in drawn if its_epoch == epoch) == list(range(size))
        assert [its_epoch for _, its_epoch in drawn[epoch * size : (epoch + 1) * size]] == [epoch] * size


def test_order_differs_between_epochs_and_seeds() -> None:
    orders = [[sample for sample, _ in batch_indices(seed, epoch, 50, 50)] for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_order_is_fixed_for_all_time() -> None:
    # By hand: numpy's RandomState, seeded with the SHA-256 of '["order",0,0]' as eight little-endian words.
    words = np.frombuffer(hashlib.sha256(b'["order",0,0]').digest(), "<u4")
    expected = np.random.RandomState(words).permutation(12).tolist()
    assert [sample for sample, _ in batch_indices(0, 0, 12, 12)] == expected


def test_the_batch_size_does_not_change_the_stream() -> None:
    by_two = [place for step in range(15) for place in batch_indices(3, step, 2, 10)]
    by_six = [place for step in range(5) for place in batch_indices(3, step, 6, 10)]
    assert by_two == by_six


def test_a_batch_holds_what_its_indices_say(encoded: Encoded, ranged: CannyRecipe) -> None:
    with Batches(encoded, seed=4, batch_size=4) as batches:
        for step in range(6):
            batch = batches.batch(step)
            assert list(batch.indices) == batch_indices(4, step, 4, encoded.train_size)
            for row, (sample, epoch) in enumerate(batch.indices):
                entry = encoded.train[sample]
                assert torch.equal(batch.latents[row], encoded.latents([entry])[0])
                assert torch.equal(batch.text[row], encoded.text([entry])[0][0])
                assert torch.equal(batch.hint[row], encoded.hints([entry], 4, [epoch])[0])
            assert batch.latents.shape == (4, 4, 4, 4) and batch.pooled.shape == (4, 2) and batch.hint.shape == (4, 3, 32, 32)
            assert torch.equal(batch.empty_text, encoded.empty_text()[0]) and torch.equal(batch.empty_pooled, encoded.empty_text()[1])


def test_drawn_hints_change_between_epochs(encoded: Encoded) -> None:
    hints = [load_batch(encoded, [(sample, epoch) for sample in range(10)], seed=0).hint for epoch in range(2)]
    assert not torch.equal(hints[0], hints[1])


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_change_nothing(encoded: Encoded, workers: int) -> None:
    with Batches(encoded, seed=1, batch_size=3, workers=0) as alone, Batches(encoded, seed=1, batch_size=3, workers=workers) as threaded:
        for step in range(9):
            assert same(alone.batch(step), threaded.batch(step))


def test_timing_changes_nothing(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [load_batch(encoded, batch_indices(1, step, 3, encoded.train_size), 1) for step in range(6)]
    load = batches_module.load_batch

    def uneven(encoded: Encoded, indices: Any, seed: int) -> Batch:
        time.sleep(0.02 if indices[0][0] % 2 else 0.0)
        return load(encoded, indices, seed)

    monkeypatch.setattr(batches_module, "load_batch", uneven)
    with Batches(encoded, seed=1, batch_size=3, workers=3) as batches:
        assert all(same(batches.batch(step), plain[step]) for step in range(6))


def test_steps_may_be_asked_for_in_any_order(encoded: Encoded) -> None:
    with Batches(encoded, seed=1, batch_size=3) as batches:
        first = {step: batches.batch(step) for step in (7, 0, 3, 100)}
        assert all(same(batch, batches.batch(step)) for step, batch in reversed(first.items()))


def test_batches_are_ready_ahead_but_not_beyond_the_end(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[int] = set()
    load = batches_module.batch_indices

    def watched(seed: int, step: int, batch_size: int, size: int) -> list[tuple[int, int]]:
        loaded.add(step)
        return load(seed, step, batch_size, size)

    monkeypatch.setattr(batches_module, "batch_indices", watched)
    with Batches(encoded, seed=1, batch_size=3, ahead=3, end_step=5) as batches:
        batches.batch(0)
        deadline = time.monotonic() + 5
        while loaded != {0, 1, 2, 3} and time.monotonic() < deadline:
            time.sleep(0.01)
        assert loaded == {0, 1, 2, 3}
        batches.batch(3)
        batches.batch(4)
    assert loaded == {0, 1, 2, 3, 4}


def test_closing_ends_the_threads(encoded: Encoded) -> None:
    with Batches(encoded, seed=1, batch_size=3) as batches:
        batches.batch(0)
        assert any(thread.name.startswith("graft-batches") for thread in threading.enumerate())
    assert not any(thread.name.startswith("graft-batches") for thread in threading.enumerate())


def test_an_error_in_a_thread_reaches_the_caller(encoded: Encoded) -> None:
    next(encoded.folder.glob("pictures-*")).write_bytes(b"damaged")
    with Batches(encoded, seed=1, batch_size=10) as batches, pytest.raises(InputError, match="safetensors"):
        batches.batch(0)


def test_held_out_pictures_never_come_into_training(encoded: Encoded) -> None:
    held_out = {sample.digest for sample in encoded.held_out}
    seen = {encoded.train[sample].digest for step in range(20) for sample, _ in batch_indices(0, step, 4, encoded.train_size)}
    assert len(held_out) == 3 and len(seen) == 10 and not seen & held_out


def test_held_out_batches_are_the_same_for_every_training(encoded: Encoded) -> None:
    batch = held_out_batch(encoded, [0, 2])
    assert same(batch, held_out_batch(encoded, [0, 2])) and batch.indices == ((0, 0), (2, 0))
    assert torch.equal(batch.latents, encoded.latents([encoded.held_out[0], encoded.held_out[2]]))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1, "workers": -1}, {"batch_size": 1, "ahead": 0}])
def test_absurd_settings_are_refused(encoded: Encoded, options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Batches(encoded, seed=0, **options)

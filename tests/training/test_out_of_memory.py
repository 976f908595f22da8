"""Memory that runs out in the middle of a training: what was trained is kept, the rest is let go, and the user hears what would fit."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest
import torch
from graft.training import loop
from graft.training.checkpoint import list_checkpoints
from graft.training.listener import Silent
from graft.training.out_of_memory import OutOfMemory, ran_out, release_cached_memory, what_would_fit
from torch import nn

ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 8 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:20] or "MemoryError")
def test_allocators_errors_are_known(error):
    assert ran_out(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyboardInterrupt()])
def test_other_errors_are_not(error):
    assert not ran_out(error)


@pytest.fixture
def full_at(monkeypatch):
    """From so many finished steps on, the loss finds no memory, deep in a layer that holds a tensor of the step."""
    held = []

    def fill(step: int, error: BaseException) -> list[weakref.ref]:
        class Full(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                activations = x * 2
                held.append(weakref.ref(activations))
                raise error

        real, finished = loop.flow_matching_loss, SimpleNamespace(steps=0)

        def loss(predict, x_0, *rest, **more):
            finished.steps += 1
            return real(predict, x_0, *rest, **more) if finished.steps <= step else Full()(x_0)

        monkeypatch.setattr(loop, "flow_matching_loss", loss)
        return held

    return fill


class Watcher(Silent):
    """Remembers the learner without holding it."""

    def begin(self, learner, training) -> None:
        self.seen = [weakref.ref(learner), weakref.ref(learner.trainable.module), *map(weakref.ref, learner.weights.parameters)]


@pytest.mark.parametrize("error", ERRORS[:2], ids=["cuda", "cpu"])
def test_what_was_trained_is_kept_and_everything_else_let_go(tiny_train, tiny_settings, full_at, store, error, monkeypatch):
    settings, watcher = tiny_settings(batch_size=4, evaluate_samples=0), Watcher()
    with monkeypatch.context() as memory:
        memory.setattr(loop, "flow_matching_loss", loop.flow_matching_loss)
        held = full_at(2, error)
        with pytest.raises(OutOfMemory) as caught:
            tiny_train(5, settings, listener=watcher)
        # Held by nothing, though the error with its traceback is still at hand.
        assert held and all(reference() is None for reference in [*held, *watcher.seen])
    text, (run,) = str(caught.value), store.runs()
    assert "the 2 steps that were trained are kept" in text and "`batch_size` 2 with `accumulation` 2" in text and "`checkpointing` on" in text
    assert str(error).splitlines()[0] in text and caught.value.__cause__ is None
    assert [checkpoint.step for checkpoint in list_checkpoints(run.folder)] == [2]


def test_the_next_request_goes_on_from_there_to_the_same_bits(tiny_train, tiny_settings, full_at, monkeypatch, tmp_path):
    settings = tiny_settings(evaluate_samples=0)
    real = loop.flow_matching_loss
    full_at(2, ERRORS[0])
    with pytest.raises(OutOfMemory, match="the 2 steps"):
        tiny_train(4, settings)
    monkeypatch.setattr(loop, "flow_matching_loss", real)
    from graft.training.store import RunStore

    resumed, straight = tiny_train(4, settings), tiny_train(4, settings, store=RunStore(tmp_path / "straight"))
    assert all(torch.equal(tensor, straight.weights()[name]) for name, tensor in resumed.weights().items())


def test_an_error_of_another_kind_passes_as_it_is(tiny_train, tiny_settings, full_at):
    full_at(1, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match") as caught:
        tiny_train(3, tiny_settings(evaluate_samples=0))
    assert not isinstance(caught.value, OutOfMemory)


def test_memory_that_runs_out_before_the_first_step(tiny_train, tiny_settings, full_at):
    full_at(0, ERRORS[0])
    with pytest.raises(OutOfMemory, match=r"no step was finished.*`checkpointing` on in Training Settings \(the same numbers in more time\)"):
        tiny_train(3, tiny_settings(evaluate_samples=0))


def test_remedies_name_values_that_need_less(tiny_settings):
    remedies = what_would_fit(tiny_settings(batch_size=3, accumulation=2, checkpointing=True, compute="fp32"), 512)
    assert remedies[0].startswith("`batch_size` 1 with `accumulation` 6") and remedies[1] == "`compute` bf16"
    assert remedies[2] == "`resolution_px` 384 in place of 512"
    assert not any("resolution" in remedy or "batch" in remedy for remedy in what_would_fit(tiny_settings(batch_size=1), 64))


def test_an_accelerators_cache_is_emptied(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    release_cached_memory(torch.device("cpu"))
    assert emptied == []
    release_cached_memory(torch.device("cuda", 1))
    assert emptied == ["cuda"]

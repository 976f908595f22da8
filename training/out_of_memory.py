"""When memory runs out in the middle of a training: everything is let go, and the user is told what is kept and what would fit."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from .checkpoint import list_checkpoints
from .data.encoded import Encoded
from .errors import StoppedTraining
from .settings import Settings
from .store import Run

# How the allocators of the CPU, CUDA, cuBLAS, cuDNN, MPS and C++ say it where they raise a plain RuntimeError.
_SAYINGS = ("out of memory", "not enough memory", "t allocate memory", "cannot allocate memory", "bad_alloc", "status_alloc_failed")
SMALLER_STEP_PX = 64


class OutOfMemory(StoppedTraining):
    """A training needed more memory than there is. Nothing of it is left in memory; its last checkpoint is kept."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the accelerator or of the machine."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in _SAYINGS)


@contextmanager
def freed_when_memory_runs_out(run: Run, settings: Settings, data: Encoded, device: torch.device, also: Sequence[str] = ()) -> Iterator[None]:
    """Around a training that is called in the with-block; `also` are remedies that come before the others.

    Raises:
        OutOfMemory: in place of the allocator's own error, whose traceback would keep every tensor of the step alive.
    """
    said = ""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        said = let_go(error)
    if said:
        release_cached_memory(device)
        raise OutOfMemory(explanation(said, run, settings, data, device, also)) from None


def let_go(error: BaseException) -> str:
    """Forgets the tensors that the frames of a finished piece of work hold in the traceback of its error; returns the error's first line."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def release_cached_memory(device: torch.device) -> None:
    """Gives back what nobody holds any more: rings of references, and what torch keeps of the accelerator's memory for later."""
    gc.collect()
    empty_cache = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()


def explanation(said: str, run: Run, settings: Settings, data: Encoded, device: torch.device, also: Sequence[str] = ()) -> str:
    """What happened, what is kept, and what would fit, the gentlest remedy first."""
    kept = max((checkpoint.step for checkpoint in list_checkpoints(run.folder)), default=0)
    steps = f"the {kept} steps that were trained are kept" if kept else "no step was finished"
    remedies = "; ".join([*also, *what_would_fit(settings, data.resolution_px, kept)])
    return f"Memory ran out while training on {device} ({said}). It has been given back, and {steps}. What would need less: {remedies}."


def what_would_fit(settings: Settings, resolution_px: int, kept_steps: int = 0) -> list[str]:
    """Remedies in words, those first that change no number of the training."""
    remedies = []
    if not settings.checkpointing:
        goes_on = ", which goes on from the kept steps" if kept_steps else ""
        remedies.append(f"`checkpointing` on in Training Settings (the same numbers in more time{goes_on})")
    if settings.batch_size > 1:
        half = settings.batch_size // 2
        times = -(-settings.batch_size // half) * settings.accumulation
        now = f"now {settings.batch_size} and {settings.accumulation}; as many pictures a step"
        remedies.append(f"`batch_size` {half} with `accumulation` {times} ({now})")
    if settings.precision.compute == "fp32":
        remedies.append("`compute` bf16")
    smaller = resolution_px * 3 // 4 // SMALLER_STEP_PX * SMALLER_STEP_PX
    if smaller >= SMALLER_STEP_PX:
        remedies.append(f"`resolution_px` {smaller} in place of {resolution_px}")
    return [*remedies, "fewer blocks or a lower rank in what is trained", "closing other programs that use the same memory"]

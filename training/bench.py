"""Seconds and memory of our ControlNet training step, beside the same step written the usual way with diffusers' modules.

Both steps have the same sizes, initial weights, dtype, batch and data, and take turns in one process, so that whatever else the machine does
falls on both. Each step's memory is measured alone: on a GPU by the allocator, on a CPU in a process of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from . import __version__
from .bench_sizes import AUTO, BenchSize, random_batch, random_flux, size_named
from .byte_sizes import shown_size
from .data.batches import Batch
from .errors import InputError
from .files.write import require_writable_folder, write_json
from .learner import Learner
from .loop import train_step
from .memory import peak_memory_bytes
from .models.flux import Flux
from .progress import NO_PROGRESS, Progress
from .trainable.base import Conditions

Side = Literal["ours", "diffusers"]
Name = TypeVar("Name", bound=str)
SIDES: tuple[Side, ...] = ("ours", "diffusers")
WARMUP_STEPS, MEMORY_STEPS, FEWEST_REPEATS = 3, 2, 3
Step = Callable[[], float]
"""Takes one training step and gives its loss."""


def run_bench(
    json_path: str | Path | None = None,
    size: str = AUTO,
    repeats: int = 20,
    progress: Progress = NO_PROGRESS,
    checkpointing: bool = False,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Measures both steps and gives the figures (written to `json_path` too): seconds are medians, memory is the peak.

    Args:
        json_path: file for the figures.
        size: a name in bench_sizes.SIZES, or "auto".
        repeats: measured steps of each side, after the warm-up.
        checkpointing: both recompute blocks in the backward pass.
        device: where; the GPU if there is one, else the CPU.

    Raises:
        InputError: diffusers is missing, the size is unknown, too few repeats, the file cannot be written.
    """
    require_diffusers()
    if repeats < FEWEST_REPEATS:
        raise InputError("bench repeats", expected=f"{FEWEST_REPEATS} or more", found=repeats, remedy="20 give a steady median.")
    if json_path is not None:
        require_writable_folder(Path(json_path).parent, "--json")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, sizes = size_named(size, device)
    load = load_average()
    seconds = _seconds_of_both(sizes, device, checkpointing, repeats, progress)
    memory = {side: _memory_of(side, sizes, device, checkpointing) for side in SIDES}
    figures = {**_summary(seconds, memory), **_circumstances(name, sizes, device, checkpointing, repeats, load)}
    if json_path is not None:
        write_json(Path(json_path), figures)
    return figures


def require_diffusers() -> None:
    """Raises InputError naming diffusers if it cannot be imported."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise InputError(
            "bench", expected="diffusers, to compare with", found=f"an error while importing it: {error}", remedy="pip install diffusers"
        ) from error


# ---------------------------------------------------------------- the two steps


@dataclass
class _Repeated:
    """In place of data read from disk: every batch is the same one."""

    content: Batch

    def batch(self, number: int) -> Batch:
        return self.content


def our_step(base: Flux, sizes: BenchSize, device: torch.device, checkpointing: bool) -> Step:
    """The loop's own step."""
    learner = Learner(base, sizes.recipe, sizes.settings(checkpointing), device)
    batches: Any = _Repeated(random_batch(sizes))
    return lambda: train_step(learner, batches).loss


def diffusers_step(base: Flux, sizes: BenchSize, device: torch.device, checkpointing: bool) -> Step:
    """The usual one, from the same initial weights."""
    from .bench_diffusers import DiffusersStep

    dtype = base.img_in.weight.dtype
    network = sizes.recipe.build(base).module.to(device)
    usual = DiffusersStep(base, network, sizes.settings(checkpointing).optimiser, dtype, checkpointing)
    batch = random_batch(sizes)
    return lambda: usual.step(batch.latents, Conditions(batch.text, batch.pooled, batch.hint))


_MAKERS = {"ours": our_step, "diffusers": diffusers_step}


# ---------------------------------------------------------------- seconds


def _seconds_of_both(sizes: BenchSize, device: torch.device, checkpointing: bool, repeats: int, progress: Progress) -> dict[Side, list[float]]:
    """Step by step in turns; who goes first changes each time."""
    base = random_flux(sizes, device)
    steps = {side: _MAKERS[side](base, sizes, device, checkpointing) for side in SIDES}
    return in_turns(steps, device, WARMUP_STEPS, repeats, progress, "pair")


def in_turns(
    steps: Mapping[Name, Callable[[], object]], device: torch.device, warmup: int, repeats: int, progress: Progress, unit: str
) -> dict[Name, list[float]]:  # fmt: skip
    """Seconds of each step by its name, taken in turns; who goes first changes each time, and the first `warmup` turns do not count."""
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    progress.start(warmup + repeats, unit)
    try:
        for number in range(warmup + repeats):
            progress.check_interrupt()
            for name in steps if number % 2 else reversed(list(steps)):
                seconds[name].append(timed(steps[name], device))
            progress.advance(number + 1, **{str(name): taken[-1] for name, taken in seconds.items()})
    finally:
        progress.finish()
    return {name: taken[warmup:] for name, taken in seconds.items()}


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has done all of it."""
    _wait_for(device)
    started = time.perf_counter()
    step()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


# ---------------------------------------------------------------- memory


def _memory_of(side: Side, sizes: BenchSize, device: torch.device, checkpointing: bool) -> int:
    if device.type != "cpu":
        return _peak_of(side, sizes, device, checkpointing)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_of, side, sizes, device, checkpointing).result()


def _peak_of(side: Side, sizes: BenchSize, device: torch.device, checkpointing: bool) -> int:
    """Bytes that a few steps need at most; on a CPU what the process grows by, so that imported libraries do not count."""
    require_diffusers()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory_bytes(device) if device.type == "cpu" else 0
    step = _MAKERS[side](random_flux(sizes, device), sizes, device, checkpointing)
    for _ in range(MEMORY_STEPS):
        step()
    return peak_memory_bytes(device) - before


# ---------------------------------------------------------------- figures


def _summary(seconds: dict[Side, list[float]], memory: dict[Side, int]) -> dict[str, Any]:
    medians = {side: statistics.median(taken) for side, taken in seconds.items()}
    figures: dict[str, Any] = {f"{side}_seconds": medians[side] for side in SIDES}
    figures["ratio"] = medians["ours"] / medians["diffusers"]
    for side in SIDES:
        quartiles = statistics.quantiles(seconds[side], n=4, method="inclusive")
        figures[f"{side}_seconds_quartiles"] = [quartiles[0], quartiles[2]]
        figures[f"{side}_peak_memory_bytes"] = memory[side]
    return figures


def _circumstances(name: str, sizes: BenchSize, device: torch.device, checkpointing: bool, repeats: int, load: float | None) -> dict[str, Any]:
    import diffusers

    return {
        "size": name,
        "sizes": sizes.facts(),
        "checkpointing": checkpointing,
        "repeats": repeats,
        "warmup_steps": WARMUP_STEPS,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average_before": load,
        "versions": {
            "graft": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "diffusers": diffusers.__version__,
        },
    }


def device_name(device: torch.device) -> str:
    """Of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()


def _processor_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """Other work at the start makes the figures doubtful, so it is written beside them; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table with a line about the circumstances."""
    sizes = figures["sizes"]
    rows = [f"| {'our step' if side == 'ours' else 'the same in diffusers'} | {_row(figures, side)} |" for side in SIDES]
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return "\n".join(
        [
            f"{figures['size']}: width {sizes['hidden_size']}, {sizes['double_depth']}+{sizes['single_depth']} blocks, "
            f"{sizes['image_tokens']} image and {sizes['text_tokens']} text tokens, batch {sizes['batch']}, {sizes['compute']}"
            + (", gradient checkpointing" if figures["checkpointing"] else ""),
            "",
            "| | median s/step | quartiles | peak memory |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"Ratio of medians {figures['ratio']:.2f}. {figures['device']}, {figures['threads']} threads, {figures['repeats']} steps each"
            f"{_load_note(figures)}; {versions}.",
        ]
    )


def _row(figures: dict[str, Any], side: str) -> str:
    low, high = figures[f"{side}_seconds_quartiles"]
    memory = figures[f"{side}_peak_memory_bytes"]
    shown = shown_size(memory) if memory else "not told by this system"
    return f"{figures[f'{side}_seconds']:.4g} | {low:.4g} to {high:.4g} | {shown}"


def _load_note(figures: dict[str, Any]) -> str:
    load = figures["load_average_before"]
    return "" if load is None else f", load {load:.1f} before"

"""What a sweep saves: seconds and memory of one step of four LoRAs together, beside four single steps.

Sweep and single steps take turns in one process, from the same initial weights and on the same batch, so that whatever else the machine does falls on
both. Memory is the most that all tensors held at once over building the learners and taking steps, the frozen base included: on a CPU every tensor
is counted (live_tensors.py), on a GPU the allocator tells.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .bench import device_name, in_turns, load_average
from .bench_sizes import AUTO, BenchSize, random_batch, random_flux, size_named
from .byte_sizes import shown_size
from .data.batches import Batch
from .errors import InputError
from .files.write import require_writable_folder, write_json
from .learner import Learner
from .live_tensors import LiveTensors
from .loop import train_step
from .models.flux import Flux
from .progress import NO_PROGRESS, Progress
from .settings import Settings
from .sweep_loop import joint_network, joint_step
from .trainable.lora import LoraRecipe

BATCHES = (1, 4, 16)
LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
RANK = 16
WARMUP_STEPS, MEMORY_STEPS, FEWEST_REPEATS, FEWEST_OF_LARGE = 2, 2, 3, 5
SIDES = ("sweep", "single")
Step = Callable[[], object]


def run_sweep_bench(
    json_path: str | Path | None = None, size: str = AUTO, repeats: int = 20, progress: Progress = NO_PROGRESS, checkpointing: bool = False,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:  # fmt: skip
    """The figures, written to `json_path` too: `sweep_ratio_batch_1` is the median time of the sweep's step by that of four single ones.

    Args:
        size: a name in bench_sizes.SIZES, or "auto": the built-in nano FLUX on a CPU.
        repeats: measured turns at batch 1; larger batches take fewer.
        checkpointing: all recompute blocks in the backward pass.

    Raises:
        InputError: the size is unknown, too few repeats, the file cannot be written.
    """
    if repeats < FEWEST_REPEATS:
        raise InputError("bench repeats", expected=f"{FEWEST_REPEATS} or more", found=repeats, remedy="20 give a steady median.")
    if json_path is not None:
        require_writable_folder(Path(json_path).parent, "--json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, sizes = size_named(size, device)
    measured = {batch: _measured(replace(sizes, batch=batch), repeats, device, checkpointing, progress) for batch in batches}
    figures = {
        **{f"sweep_ratio_batch_{batch}": figures["ratio"] for batch, figures in measured.items()},
        "batches": {str(batch): figures for batch, figures in measured.items()},
        **_circumstances(name, sizes, device, checkpointing),
    }  # fmt: skip
    if json_path is not None:
        write_json(Path(json_path), figures)
    return figures


def _measured(sizes: BenchSize, repeats: int, device: torch.device, checkpointing: bool, progress: Progress) -> dict[str, Any]:
    turns = max(min(repeats, FEWEST_OF_LARGE), repeats // sizes.batch)
    seconds = _seconds(sizes, turns, device, checkpointing, progress)
    memory = {side: _peak_bytes(side, sizes, device, checkpointing) for side in SIDES}
    medians = {side: statistics.median(taken) for side, taken in seconds.items()}
    quartiles = {side: statistics.quantiles(taken, n=4, method="inclusive") for side, taken in seconds.items()}
    return {
        "ratio": medians["sweep"] / medians["single"], "turns": turns,
        "sweep_seconds": medians["sweep"], "four_single_seconds": medians["single"],
        "seconds_quartiles": {side: [found[0], found[2]] for side, found in quartiles.items()},
        "sweep_peak_bytes": memory["sweep"], "single_peak_bytes": memory["single"],
    }  # fmt: skip


# ---------------------------------------------------------------- the two sides


@dataclass
class _Repeated:
    """In place of data read from disk: every batch is the same one."""

    content: Batch

    def batch(self, number: int) -> Batch:
        return self.content


def _settings(sizes: BenchSize, checkpointing: bool, rate: float) -> Settings:
    settings = sizes.settings(checkpointing)
    return replace(settings, optimiser=replace(settings.optimiser, learning_rate=rate))


def _learners(base: Flux, sizes: BenchSize, device: torch.device, checkpointing: bool, rates: Sequence[float]) -> list[Learner]:
    return [Learner(base, LoraRecipe(rank=RANK, alpha=float(RANK)), _settings(sizes, checkpointing, rate), device) for rate in rates]


def _batches(sizes: BenchSize) -> Any:
    return _Repeated(replace(random_batch(sizes), hint=None))


def single_steps(base: Flux, sizes: BenchSize, device: torch.device, checkpointing: bool, rates: Sequence[float] = LEARNING_RATES) -> Step:
    """One step of each, one after another."""
    learners, batches = _learners(base, sizes, device, checkpointing, rates), _batches(sizes)
    return lambda: [train_step(learner, batches) for learner in learners]


def sweep_step(base: Flux, sizes: BenchSize, device: torch.device, checkpointing: bool, rates: Sequence[float] = LEARNING_RATES) -> Step:
    """One step of all together."""
    learners, batches = _learners(base, sizes, device, checkpointing, rates), _batches(sizes)
    joint = joint_network(base, learners)
    return lambda: joint_step(joint, learners, batches)


_MAKERS = {"sweep": sweep_step, "single": single_steps}


# ---------------------------------------------------------------- seconds and memory


def _seconds(sizes: BenchSize, turns: int, device: torch.device, checkpointing: bool, progress: Progress) -> dict[str, list[float]]:
    base = random_flux(sizes, device)
    steps = {side: _MAKERS[side](base, sizes, device, checkpointing) for side in SIDES}
    return in_turns(steps, device, WARMUP_STEPS, turns, progress, "turn")


def _peak_bytes(side: str, sizes: BenchSize, device: torch.device, checkpointing: bool) -> int:
    """Of the sweep, or of one single training."""
    gc.collect()
    if device.type != "cuda":
        with LiveTensors() as memory:
            _take_steps(side, sizes, device, checkpointing)
        return memory.peak_bytes
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _take_steps(side, sizes, device, checkpointing)
    return torch.cuda.max_memory_allocated(device) - before


def _take_steps(side: str, sizes: BenchSize, device: torch.device, checkpointing: bool) -> None:
    rates = LEARNING_RATES if side == "sweep" else LEARNING_RATES[:1]
    step = _MAKERS[side](random_flux(sizes, device), sizes, device, checkpointing, rates)
    for _ in range(MEMORY_STEPS):
        step()


# ---------------------------------------------------------------- figures


def _circumstances(name: str, sizes: BenchSize, device: torch.device, checkpointing: bool) -> dict[str, Any]:
    facts = {key: value for key, value in sizes.facts().items() if key != "batch"}
    return {
        "loras": len(LEARNING_RATES), "rank": RANK, "size": name, "sizes": facts, "checkpointing": checkpointing,
        "device": device_name(device), "threads": torch.get_num_threads(), "torch": str(torch.__version__),
        "load_average_after": load_average(),
    }  # fmt: skip


def describe(figures: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    heads = ("batch", "sweep of 4, s/step", "four single steps, s", "ratio", "memory of the sweep", "of one single training", "ratio")
    rows = [_row(batch, found) for batch, found in figures["batches"].items()]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |", *rows]
    return "\n".join([*lines, "", f"{figures['size']}, rank {figures['rank']}; {figures['device']}, {figures['threads']} threads"])


def _row(batch: str, found: Mapping[str, Any]) -> str:
    sweep, single = found["sweep_peak_bytes"], found["single_peak_bytes"]
    return (
        f"| {batch} | {found['sweep_seconds']:.3f} | {found['four_single_seconds']:.3f} | {found['ratio']:.2f} | "
        f"{shown_size(sweep)} | {shown_size(single)} | {sweep / single:.2f} |"
    )

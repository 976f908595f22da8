"""What the live panel costs a training: processor time of everything that it does beside the loop, as a share of the time that the steps take."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ...training.files.write import require_writable_folder, write_json
from ...training.history import HeldOutRecord, History, StepRecord
from ...training.progress import NO_PROGRESS, Progress
from .board import Board
from .run import Place
from .watch import Watch

STEPS_PER_SECOND, SECONDS = 20, 20
STEPS_BEFORE = 100_000
"""The curve is long already: the worst case for an event."""
LIMIT_SHARE = 0.005


def run_bench_panel(
    json_path: Path | None = None, seconds: float = SECONDS, steps_per_second: float = STEPS_PER_SECOND, progress: Progress = NO_PROGRESS
) -> dict[str, Any]:
    """Takes empty steps at a steady pace, without the panel and with it, and gives the processor time of both (written to `json_path` too).

    The steps wait for their turn and do nothing else. The difference is what the panel takes, in the loop's thread and in its own: no step can be
    slowed by more. The page's own work is done in the browser.

    Raises:
        InputError: the file cannot be written.
    """
    if json_path is not None:
        require_writable_folder(json_path.parent, "--json")
    progress.start(2, "measurement")
    bare = _processor_seconds(None, seconds, steps_per_second)
    progress.advance(1)
    sent: list[int] = []
    with _watched(sent) as watch:
        watched = _processor_seconds(watch, seconds, steps_per_second)
    progress.advance(2)
    share = max(0.0, watched - bare) / seconds
    figures = {
        "share_of_step_time": share, "limit": LIMIT_SHARE, "steps_per_second": steps_per_second, "seconds": seconds,
        "processor_seconds": {"without": bare, "with": watched}, "events": len(sent), "longest_event_bytes": max(sent),
        "machine": platform.machine(), "processors": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
    if json_path is not None:
        write_json(json_path, figures)
    return figures


def describe(figures: dict[str, Any]) -> str:
    """For people."""
    seconds, pace = figures["processor_seconds"], f"{figures['steps_per_second']:g} steps/s (limit {figures['limit']:.1%})"
    return (
        f"The live panel takes {figures['share_of_step_time']:.3%} of the step time at {pace}: {seconds['with']:.3f} s of processor time in "
        f"{figures['seconds']:g} s, {seconds['without']:.3f} s without it; {figures['events']} events of at most "
        f"{figures['longest_event_bytes']} bytes."
    )


def _watched(sent: list[int]) -> Watch:
    """The panel of a node with a long history; `sent` gets the length of each event in the form that a page receives."""

    def send(event: str, data: Any) -> None:
        sent.append(len(json.dumps({"type": event, "data": dict(data)}).encode("utf-8")))

    watch = Watch(send, Place("1", "bench"), SimpleNamespace(able=False), 0, torch.device("cpu"), Board())  # type: ignore[arg-type]
    held_out = tuple(HeldOutRecord(step=step, held_out=0.5, by_time=(0.5,), samples=4) for step in range(0, STEPS_BEFORE, 100))
    watch.run.begin(STEPS_BEFORE, 2 * STEPS_BEFORE, History(tuple(_record(step) for step in range(1, STEPS_BEFORE + 1)), held_out))
    return watch


def _processor_seconds(watch: Watch | None, seconds: float, steps_per_second: float) -> float:
    """Of this process, in so many seconds of steps."""
    began, wall = time.process_time(), time.perf_counter()
    for number in range(1, round(seconds * steps_per_second) + 1):
        if watch is not None:
            watch.step(_record(STEPS_BEFORE + number), dict)
            watch.wishes()
        time.sleep(max(0.0, wall + number / steps_per_second - time.perf_counter()))
    return time.process_time() - began


def _record(step: int) -> StepRecord:
    return StepRecord(step=step, loss=0.123456 + step % 7, learning_rate=1e-3, gradient_norm=1.0, buckets={}, seconds=0.05)

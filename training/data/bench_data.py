"""What the data path costs: memory by the size of the set, pictures per second beside the plain way, and how soon a second start has a batch.

Each measurement runs in a process of its own, so that its peak of memory is its own and no library has been warmed up by another.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from .. import __version__
from ..byte_sizes import shown_size
from ..errors import InputError
from ..files.write import require_free_space, require_writable_folder, write_json
from ..memory import peak_memory_bytes
from ..progress import NO_PROGRESS, Progress
from .batches import Batches
from .bench_plain import BATCH_SIZE, WORKERS, plain_encoding, plain_epoch
from .bench_sets import draw_set, encode_images, encode_text, encode_text_small
from .canny import CannyRecipe
from .encode import encode_dataset
from .encoded import Encoded
from .folder import ImageFolder

FEW_SHARE = 10
"""The set that memory is compared with has a tenth of the pictures."""
SMALL_FILE_BYTES = 3 * 4096
"""What a small picture and its caption take beside their content: whole blocks of the disk, and a file's entry."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BenchSets:
    """Which sets are drawn.

    Raises:
        InputError: too few or too small.
    """

    pictures: int = 6000
    """Large pictures; a tenth of them is measured beside, and is what seconds are measured on."""
    size_px: int = 1024
    """Side of the large pictures."""
    small: int = 100_000
    """Small pictures, for the second start."""
    small_px: int = 64
    """Side of the small pictures."""

    def __post_init__(self) -> None:
        if min(self.pictures // FEW_SHARE, self.small) < BATCH_SIZE:
            expected = f"at least {BATCH_SIZE * FEW_SHARE} large and {BATCH_SIZE} small pictures"
            raise InputError("bench pictures", expected=expected, found=f"{self.pictures} and {self.small}", remedy="Take more.")
        if min(self.size_px, self.small_px) < 32 or self.size_px % 16 or self.small_px % 16:
            raise InputError("bench sizes", expected="multiples of 16 from 32", found=(self.size_px, self.small_px), remedy="1024 and 64 are usual.")

    @property
    def few(self) -> int:
        return self.pictures // FEW_SHARE

    def needed_bytes(self) -> int:
        """Room on the disk at the worst, when one of the sets has been encoded: files, latents, edges and texts; about.

        One set lies there at a time.
        """
        large, small = self.size_px**2 * self.pictures, self.small_px**2 * self.small
        return max(2 * large, 2 * small + SMALL_FILE_BYTES * self.small) + 2**30


def run_data_bench(
    json_path: str | Path | None = None, sets: BenchSets = BenchSets(), folder: Path | None = None, progress: Progress = NO_PROGRESS
) -> dict[str, Any]:  # fmt: skip
    """Draws the sets, measures, removes them, and gives the figures (written to `json_path` too).

    Args:
        json_path: file for the figures.
        sets: how many pictures of what size.
        folder: where the sets and what is encoded of them lie meanwhile; the system's temporary folder if None.
        progress: hears of the drawing.

    Raises:
        InputError: no room on the disk, the file cannot be written, or PIL is missing.
    """
    _require_pil()
    if json_path is not None:
        require_writable_folder(Path(json_path).parent, "--json")
    base = require_writable_folder(folder or tempfile.gettempdir(), "--folder")
    require_free_space(base, sets.needed_bytes(), "--folder")
    base.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="graft-data-bench-", dir=base) as name:
        figures = {**_large(Path(name), sets, progress), **_small(Path(name), sets, progress), **_circumstances(sets, load)}
    if json_path is not None:
        write_json(Path(json_path), figures)
    return figures


def describe(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table with a line about the circumstances."""
    many, few, rates = figures["pictures"], figures["few"], figures["pictures_per_second"]
    peaks = figures["peak_memory_bytes"]
    memory = [f"| {phase} | {shown_size(peaks['few'][phase])} | {shown_size(peaks['many'][phase])} |" for phase in peaks["few"]]
    times = figures["processor_ms_per_picture"]
    speeds = [
        f"| {phase} | {rates['ours'][phase]:.1f} | {rates['plain'][phase]:.1f} | {times['ours'][phase]:.1f} | {times['plain'][phase]:.1f} |"
        for phase in rates["ours"]
    ]
    load = "" if figures["load_average_before"] is None else f", load {figures['load_average_before']:.1f} before"
    return "\n".join(
        [
            f"{many} pictures of {figures['size_px']} px, {figures['small']} of {figures['small_px']} px, {figures['cores']} cores{load}.",
            "", f"| peak memory | {few} pictures | {many} pictures |", "| --- | --- | --- |", *memory,
            "", f"| {few} pictures | a second: ours | PIL and DataLoader | processor ms each: ours | PIL and DataLoader |",
            "| --- | --- | --- | --- | --- |", *speeds,
            "", f"Memory with ten times the pictures: {figures['ram_ratio_6000_to_600']:.3f} times as much. At least "
            f"{figures['speedup_over_plain']:.2f} times as fast as the plain way. A second start with {figures['small']} pictures has "
            f"its first batch after {figures['second_start_seconds']:.2f} s.",
        ]
    )  # fmt: skip


# ---------------------------------------------------------------- the large sets


def _large(base: Path, sets: BenchSets, progress: Progress) -> dict[str, Any]:
    few, many = base / "few", base / "many"
    draw_set(few, sets.few, sets.size_px, progress)
    ours = _measured(few, base / "few-encoded", sets)
    plain = {"encode": _alone(_plain_encode, few, base / "plain", sets.size_px), "load": _alone(_plain_load, few, base / "plain", sets.size_px)}
    for done in (base / "plain", base / "few-encoded"):
        shutil.rmtree(done)
    few.rename(many)  # the first of the large set
    draw_set(many, sets.pictures, sets.size_px, progress, first=sets.few)
    large = _measured(many, base / "many-encoded", sets)
    for done in (base / "many-encoded", many):
        shutil.rmtree(done)
    return _large_figures(sets, ours, large, plain)


def _large_figures(sets: BenchSets, ours: Phases, large: Phases, plain: Phases) -> dict[str, Any]:
    peaks = {size: {phase: measured[phase].peak_bytes for phase in measured} for size, measured in (("few", ours), ("many", large))}
    sides = {"ours": {phase: ours[phase] for phase in plain}, "plain": plain}
    speedups = {phase: plain[phase].seconds / ours[phase].seconds for phase in plain}
    ratios = {phase: peaks["many"][phase] / peaks["few"][phase] for phase in ours}
    return {
        "ram_ratio_6000_to_600": max(ratios.values()),
        "ram_ratios": ratios,
        "speedup_over_plain": min(speedups.values()),
        "speedups": speedups,
        "speedups_in_processor_time": {phase: plain[phase].processor_seconds / ours[phase].processor_seconds for phase in plain},
        "peak_memory_bytes": peaks,
        "pictures_per_second": {side: {phase: sets.few / cost.seconds for phase, cost in costs.items()} for side, costs in sides.items()},
        "processor_ms_per_picture": {
            side: {phase: 1000 * cost.processor_seconds / sets.few for phase, cost in costs.items()} for side, costs in sides.items()
        },
        "seconds_many": {phase: large[phase].seconds for phase in large},
    }  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one phase took."""

    peak_bytes: int
    seconds: float
    processor_seconds: float
    """Of the process and of those that it has started; tells the same on a machine that others use too."""


Phases: TypeAlias = "Mapping[str, Cost]"


def _cost_of(job: Callable[[], Any]) -> Cost:
    seconds, processor = time.perf_counter(), _processor_seconds()
    job()
    return Cost(peak_memory_bytes(torch.device("cpu")), time.perf_counter() - seconds, _processor_seconds() - processor)


def _processor_seconds() -> float:
    return time.process_time() + sum(os.times()[2:4])


def _measured(folder: Path, encoded: Path, sets: BenchSets) -> Phases:
    return {phase: _alone(job, folder, encoded, sets.size_px) for phase, job in (("check", _check), ("encode", _encode), ("load", _load))}


def _check(folder: Path, encoded: Path, size_px: int) -> Cost:
    from .check import check_dataset

    return _cost_of(lambda: check_dataset(_folder(folder, size_px), "bench", encoded))


def _encode(folder: Path, encoded: Path, size_px: int) -> Cost:
    return _cost_of(lambda: _encoded(folder, encoded, size_px))


def _load(folder: Path, encoded: Path, size_px: int) -> Cost:
    data = _encoded(folder, encoded, size_px)
    return _cost_of(lambda: _epoch(data))


def _epoch(data: Encoded) -> None:
    steps = data.train_size // BATCH_SIZE
    with Batches(data, seed=0, batch_size=BATCH_SIZE, workers=WORKERS, end_step=steps) as batches:
        for step in range(steps):
            batches.batch(step)


def _plain_encode(folder: Path, target: Path, size_px: int) -> Cost:
    return _cost_of(lambda: plain_encoding(folder, target, size_px))


def _plain_load(folder: Path, target: Path, size_px: int) -> Cost:
    return _cost_of(lambda: plain_epoch(folder, size_px))


def _encoded(folder: Path, encoded: Path, size_px: int) -> Encoded:
    return encode_dataset(_folder(folder, size_px), encode_images, encode_text, "stand-in", "stand-in", encoded)


def _folder(folder: Path, size_px: int) -> ImageFolder:
    return ImageFolder(folder, resolution_px=size_px, hint=CannyRecipe())


# ---------------------------------------------------------------- the small set


def _small(base: Path, sets: BenchSets, progress: Progress) -> dict[str, Any]:
    folder, encoded = base / "small", base / "small-encoded"
    draw_set(folder, sets.small, sets.small_px, progress)
    first = _alone(_first_batch, folder, encoded, sets.small_px)
    second = _alone(_first_batch, folder, encoded, sets.small_px)
    return {"first_start_seconds": first, "second_start_seconds": second}


def _first_batch(folder: Path, encoded: Path, size_px: int) -> float:
    """Seconds from a description of the data to its first batch; libraries are loaded before."""
    dataset = _folder(folder, size_px)
    started = time.perf_counter()
    data = encode_dataset(dataset, encode_images, encode_text_small, "stand-in", "stand-in", encoded)
    with Batches(data, seed=0, batch_size=BATCH_SIZE, workers=WORKERS, end_step=1) as batches:
        batches.batch(0)
        return time.perf_counter() - started


def _alone(job: Callable[..., T], *arguments: Any) -> T:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(job, *arguments).result()


def _require_pil() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        found = f"an error while importing it: {error}"
        raise InputError("bench", expected="Pillow, to compare with", found=found, remedy="pip install pillow") from error


def _circumstances(sets: BenchSets, load: float | None) -> dict[str, Any]:
    return {
        "pictures": sets.pictures, "few": sets.few, "size_px": sets.size_px, "small": sets.small, "small_px": sets.small_px,
        "batch_size": BATCH_SIZE, "workers": WORKERS, "cores": os.cpu_count(), "load_average_before": load,
        "versions": {"graft": __version__, "python": platform.python_version(), "torch": str(torch.__version__)},
    }  # fmt: skip

"""What `graft runs` and `graft store` print: the training runs that are kept on disk, and the room that they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ...training.catalogue import Entry, catalogue
from ...training.errors import InputError
from ...training.store import RunStore
from ...training.store_size import StoredRun, folder_bytes, prune, shown_size, stored_runs

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
CURVE_CELLS = 24


def describe_runs(folder: Path, blocks: str = BLOCKS) -> str:
    """One line per run, the newest last: name, what was trained, steps, newest held-out loss, the loss as a small curve, size, last use.

    Args:
        blocks: characters for the curve, rising.
    """
    entries = catalogue(RunStore(folder))
    if not entries:
        return f"No runs in {folder}"
    header = f"{'run':<34}{'kind':<24}{'steps':>8}{'held-out':>10}  {'loss':<{CURVE_CELLS}}{'size':>10}  last used"
    return "\n".join([f"Runs in {folder}:", header, *(_line(entry, blocks) for entry in reversed(entries))])


def _line(entry: Entry, blocks: str) -> str:
    held_out = "-" if entry.held_out is None else f"{entry.held_out:.4f}"
    curve = sparkline([record.loss for record in entry.history.steps], blocks)
    size, used = shown_size(entry.stored.size_bytes), _day(entry.stored.used_at)
    return f"{entry.name:<34}{entry.kind[:23]:<24}{entry.steps:>8}{held_out:>10}  {curve:<{CURVE_CELLS}}{size:>10}  {used}"


def sparkline(values: Sequence[float], blocks: str = BLOCKS) -> str:
    """The values as one line of blocks: the mean of each part of them, from the lowest to the highest."""
    count = min(CURVE_CELLS, len(values))
    parts = [values[index * len(values) // count : (index + 1) * len(values) // count] for index in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(blocks[round((value - low) / (high - low or 1) * (len(blocks) - 1))] for value in means)


def printable_blocks(stream: TextIO) -> str:
    """BLOCKS, or plain characters where the terminal cannot show them (Windows' older code pages)."""
    try:
        BLOCKS.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN_BLOCKS
    return BLOCKS


def describe_store(folder: Path, cache: Path, limit_bytes: int | None) -> str:
    """Sizes of runs and cache, the least recently used run first; with a limit it removes runs before, and says which.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError("--folder", expected="a folder of runs", found=folder, remedy="In ComfyUI it is output/graft/runs.")
    store = RunStore(folder)
    removed = [] if limit_bytes is None else prune(store, limit_bytes)
    runs = stored_runs(store)
    total = sum(run.size_bytes for run in runs)
    lines = [f"Removed {run.name} ({shown_size(run.size_bytes)}, last used {_day(run.used_at)})" for run in removed]
    lines += [f"{run.name:<34}{shown_size(run.size_bytes):>12}  last used {_day(run.used_at)}{_remark(run)}" for run in runs]
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    lines.append(f"{count} in {folder}: {shown_size(total)}; encoded data in {cache}: {shown_size(folder_bytes(cache))}.")
    if limit_bytes is not None and total > limit_bytes:
        lines.append(f"That is more than {shown_size(limit_bytes)}: what is left is in use.")
    return "\n".join(lines)


def _remark(run: StoredRun) -> str:
    began = f", goes on from {run.parent}" if run.parent else ""
    return f"{began}{', in use' if run.in_use else ''}"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

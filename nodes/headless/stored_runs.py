"""What `graft runs` and `graft store` print: the training runs that are kept on disk, and the room that they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ...training.byte_sizes import shown_size
from ...training.catalogue import Entry, catalogue
from ...training.clean_up import Kept, Stores, clean_up
from ...training.data.encoded import ENCODED_FOLDER
from ...training.files.header import printable
from ...training.store import RunStore
from ...training.store_size import StoredRun, stored_runs

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
CURVE_CELLS = 24
NAME_CHARACTERS = 32


def describe_runs(folder: Path, blocks: str = BLOCKS) -> str:
    """One line per run, the newest last: name, what was trained, steps, newest held-out loss, the loss as a small curve, size, last use, workflow.

    Args:
        blocks: characters for the curve, rising.
    """
    entries = catalogue(RunStore(folder))
    if not entries:
        return f"No runs in {folder}"
    header = f"{'run':<34}{'kind':<24}{'steps':>8}{'held-out':>10}  {'loss':<{CURVE_CELLS}}{'size':>10}  {'last used':<16}  workflow"
    return "\n".join([f"Runs in {folder}:", header, *(_line(entry, blocks) for entry in reversed(entries))])


def _line(entry: Entry, blocks: str) -> str:
    held_out = "-" if entry.held_out is None else f"{entry.held_out:.4f}"
    curve = sparkline([record.loss for record in entry.history.steps], blocks)
    size, used = shown_size(entry.stored.size_bytes), _day(entry.stored.used_at)
    figures = f"{entry.name:<34}{entry.kind[:23]:<24}{entry.steps:>8}{held_out:>10}  {curve:<{CURVE_CELLS}}{size:>10}"
    return f"{figures}  {used}  {printable(entry.workflow) or '-'}"


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
    """Sizes of runs and encoded data, the least recently used first; with a limit it removes some before, and says which."""
    stores = Stores.at(folder, cache / ENCODED_FOLDER)
    removed = [] if limit_bytes is None else clean_up(stores, limit_bytes)
    runs, data = stored_runs(stores.runs), stores.data.stored()
    lines = [f"Removed {_name(entry)} ({shown_size(entry.size_bytes)}, last used {_day(entry.used_at)})" for entry in removed]
    lines += [_stored_line(run, f", goes on from {run.parent}" if run.parent else "") for run in runs]
    lines += [_stored_line(entry, f", {entry.described}") for entry in data if entry.described]
    alone = [entry for entry in data if not entry.described]
    if alone:
        lines.append(f"{'files of no encoded data set':<34}{shown_size(stores.data.size_bytes(alone)):>12}  {len(alone)} of them")
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    runs_bytes, data_bytes = sum(run.size_bytes for run in runs), stores.data.size_bytes(data)
    lines.append(f"{count} in {folder}: {shown_size(runs_bytes)}; encoded data in {cache}: {shown_size(data_bytes)}.")
    if limit_bytes is not None and runs_bytes + data_bytes > limit_bytes:
        lines.append(f"That is more than {shown_size(limit_bytes)}: what is left is in use, or trainings that fit without the data.")
    return "\n".join(lines)


def _stored_line(entry: Kept, remark: str) -> str:
    used = f"last used {_day(entry.used_at)}{remark}{', in use' if entry.in_use else ''}"
    return f"{_name(entry):<34}{shown_size(entry.size_bytes):>12}  {used}"


def _name(entry: Kept) -> str:
    """Names of files are longer than anybody needs them."""
    return entry.name if isinstance(entry, StoredRun) else entry.name[:NAME_CHARACTERS]


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

"""What `graft runs` and `graft store` print: the training runs that are kept on disk, and the room that they take."""

from __future__ import annotations

import time
from pathlib import Path

from ...training.checkpoint import list_checkpoints
from ...training.errors import InputError
from ...training.store import Run, RunStore
from ...training.store_size import StoredRun, folder_bytes, prune, shown_size, stored_runs

BYTES_PER_MB = 1e6


def describe_runs(folder: Path) -> str:
    """One line per run, the newest last: key, steps, last loss, size, when it was last written."""
    runs = sorted(RunStore(folder).runs(), key=_written_at)
    if not runs:
        return f"No runs in {folder}"
    header = f"{'run':<34}{'steps':>9}{'loss':>10}{'size MB':>10}  last written"
    return "\n".join([f"Runs in {folder}:", header, *map(_line, runs)])


def _line(run: Run) -> str:
    checkpoints, records = list_checkpoints(run.folder), run.history.read().steps
    steps = max((checkpoint.step for checkpoint in checkpoints), default=0)
    loss = f"{records[-1].loss:.4f}" if records else "-"
    size = folder_bytes(run.folder) / BYTES_PER_MB
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(_written_at(run)))
    return f"{run.folder.name:<34}{steps:>9}{loss:>10}{size:>10.1f}  {written}"


def _written_at(run: Run) -> float:
    return run.folder.stat().st_mtime


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
    lines.append(f"{len(runs)} runs in {folder} take {shown_size(total)}; encoded data in {cache} takes {shown_size(folder_bytes(cache))}.")
    if limit_bytes is not None and total > limit_bytes:
        lines.append(f"That is more than {shown_size(limit_bytes)}: what is left is in use.")
    return "\n".join(lines)


def _remark(run: StoredRun) -> str:
    began = f", goes on from {run.parent}" if run.parent else ""
    return f"{began}{', in use' if run.in_use else ''}"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

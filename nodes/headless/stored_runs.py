"""What `graft runs` prints: the training runs that are kept on disk."""

from __future__ import annotations

import time
from pathlib import Path

from ...training.checkpoint import list_checkpoints
from ...training.store import Run, RunStore

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
    size = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()) / BYTES_PER_MB
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(_written_at(run)))
    return f"{run.folder.name:<34}{steps:>9}{loss:>10}{size:>10.1f}  {written}"


def _written_at(run: Run) -> float:
    return run.folder.stat().st_mtime

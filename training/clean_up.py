"""The limit on what is kept: trainings and encoded data together, never what is in use.

Encoded data go first, those used longest ago before others: they can be made again. A training that is gone is lost:
none goes to make room for data that are in use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .byte_sizes import shown_size
from .data.stored_data import DataStore, StoredData
from .store import RunStore
from .store_size import LIMIT_VARIABLE, StoredRun, next_to_go, remove_leftovers, remove_stored, stored_runs

Kept: TypeAlias = "StoredRun | StoredData"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stores:
    """Everything that is kept between runs of a graph."""

    runs: RunStore
    data: DataStore

    @classmethod
    def at(cls, runs_folder: Path, encoded_folder: Path) -> Stores:
        """Folders need not exist."""
        return cls(RunStore(runs_folder), DataStore(encoded_folder))


def clean_up(stores: Stores, limit_bytes: int) -> list[Kept]:
    """Removes encoded data, then runs, until the rest takes at most `limit_bytes`, and returns what was removed.

    Of both kinds what was used longest ago goes first. A run goes only while runs alone take more than the limit, and after those that began from
    it. What is in use stays, even if it alone takes more.
    """
    runs, data, removed = stored_runs(stores.runs), stores.data.stored(), list[Kept]()
    while total_bytes(stores, runs, data) > limit_bytes:
        chosen = _next(runs, data, limit_bytes)
        if chosen is None:
            break
        if isinstance(chosen, StoredRun):
            runs.remove(chosen)
            gone = remove_stored(chosen, stores.runs.folder)
        else:
            data.remove(chosen)
            gone = stores.data.remove(chosen, data)
        removed += [chosen] if gone else []
    remove_leftovers(stores.runs.folder)
    return removed


def total_bytes(stores: Stores, runs: Sequence[StoredRun], data: Sequence[StoredData]) -> int:
    """What they take together."""
    return sum(run.size_bytes for run in runs) + stores.data.size_bytes(data)


def _next(runs: Sequence[StoredRun], data: Sequence[StoredData], limit_bytes: int) -> Kept | None:
    """What is to go; None if all the rest has to stay."""
    if free := next((entry for entry in data if not entry.in_use), None):
        return free
    return next_to_go(runs) if sum(run.size_bytes for run in runs) > limit_bytes else None


def keep_within(stores: Stores, limit_bytes: int | None) -> None:
    """Cleans up to the limit (None: there is none) and reports what goes."""
    for entry in [] if limit_bytes is None else clean_up(stores, limit_bytes):
        used = time.strftime("%Y-%m-%d", time.localtime(entry.used_at))
        kind = "training" if isinstance(entry, StoredRun) else "encoded data"
        _log.info(
            "Graft removed the stored %s %s (%s, last used %s) to keep within %s (set %s to change that)",
            kind, entry.name, shown_size(entry.size_bytes), used, shown_size(limit_bytes or 0), LIMIT_VARIABLE,
        )  # fmt: skip

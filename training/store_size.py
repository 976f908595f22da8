"""How much room the runs take, and clean-up: the least recently used give way, never one that is in use."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .byte_sizes import parsed_size
from .errors import InputError
from .files.write import PART_BEGINNING
from .in_use import USED_FILE, names_in_use
from .lock import is_held, locked
from .state import HISTORY_FILE, LOCK_FILE, RUN_FILE
from .store import KEY_DIGITS, Run, RunStore

_log = logging.getLogger(__name__)
LIMIT_VARIABLE = "GRAFT_STORE_LIMIT"
DEFAULT_LIMIT_BYTES = 200 * 10**9


@dataclass(frozen=True)
class StoredRun:
    """One run of the store, as clean-up sees it."""

    folder: Path
    size_bytes: int
    used_at: float
    """Seconds since the epoch."""
    in_use: bool
    """A living process trains it, has trained it or has given it on; or one that began from it is in use."""
    parent: str | None
    """The name of the run that it began from."""

    @property
    def name(self) -> str:
        return self.folder.name


def stored_runs(store: RunStore) -> list[StoredRun]:
    """All runs, the least recently used first."""
    found = [_described(run) for run in store.runs()]
    used = _with_parents(names_in_use(store.folder) | {run.name for run in found if run.in_use}, found)
    known = [StoredRun(run.folder, run.size_bytes, run.used_at, run.name in used, run.parent) for run in found]
    return sorted(known, key=lambda run: (run.used_at, run.name))


def next_to_go(runs: Sequence[StoredRun]) -> StoredRun | None:
    """The first that is not in use and from which none of the others began; None if there is none."""
    parents = {run.parent for run in runs}
    return next((run for run in runs if not run.in_use and run.name not in parents), None)


def remove_run(store: RunStore, name: str) -> None:
    """Removes one run for good.

    Raises:
        InputError: there is none of that name, it is in use, or another run began from it.
    """
    runs = stored_runs(store)
    found = next((run for run in runs if run.name == name), None)
    if found is None:
        raise InputError("run", expected="the name of a run in the store", found=name[:64], remedy="List the runs again.")
    children = [run.name for run in runs if run.parent == name]
    if found.in_use or children:
        why = f"one from which {children[0]} began" if children else "one that is in use"
        remedy = "Remove that one first." if children else "Restart ComfyUI: what it has trained or given on since its start stays."
        raise InputError(f"run {name}", expected="a run that nothing needs", found=why, remedy=remedy)
    if not remove_stored(found, store.folder):
        raise InputError(f"run {name}", expected="a folder that can be removed", found="one that is open elsewhere", remedy="Try again later.")


def limit_from_environment() -> int | None:
    """The limit that GRAFT_STORE_LIMIT sets ("500GB"; "0" or "none" for no limit), or the default of 200 GB.

    Raises:
        InputError: it is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT_BYTES
    return None if text.lower() == "none" else parsed_size(text, LIMIT_VARIABLE) or None


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take; one that vanishes meanwhile counts nothing."""
    return sum(_file_bytes(path) for path in folder.rglob("*"))


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _described(run: Run) -> StoredRun:
    return StoredRun(run.folder, folder_bytes(run.folder), _used_at(run.folder), is_held(run.folder / LOCK_FILE), _parent(run.folder))


def _used_at(folder: Path) -> float:
    times = [path.stat().st_mtime for name in (USED_FILE, HISTORY_FILE, RUN_FILE) if (path := folder / name).exists()]
    return max(times, default=0.0)


def _parent(folder: Path) -> str | None:
    try:
        parent = json.loads((folder / RUN_FILE).read_text("utf-8"))["parent"]
        return str(parent["run_key"])[:KEY_DIGITS] if parent else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _with_parents(names: Iterable[str], runs: Iterable[StoredRun]) -> set[str]:
    """These, and all that they began from."""
    parents, found, todo = {run.name: run.parent for run in runs}, set[str](), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [parent for parent in [parents.get(name)] if parent]
    return found


def remove_stored(run: StoredRun, store_folder: Path) -> bool:
    """Removes a run that is not in use; False if it could not be, which is logged.

    Renames it away first, so that a half-removed run is never found; under its lock where a folder with an open file can be renamed.
    """
    aside, lock = store_folder / f"{PART_BEGINNING}{secrets.token_hex(8)}", run.folder / LOCK_FILE
    try:
        with locked(lock, f"run {run.name}"):
            if os.name != "nt":
                os.replace(run.folder, aside)
        if os.name == "nt":
            os.replace(run.folder, aside)
    except (InputError, OSError) as error:
        _log.warning("the stored training %s could not be removed: %s", run.name, error)
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def remove_leftovers(store_folder: Path) -> None:
    """What a clean-up that was killed had renamed away."""
    for path in store_folder.glob(f"{PART_BEGINNING}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)

"""Which runs are in use: each process keeps a note beside the runs, locked until it ends, so that none is ever stale.

<store>/.in_use/<process>-<random>      the names of the runs that this process has trained or given on, one per line
<store>/<run>/used                      touched at each use: its time orders the runs for clean-up

Folders of encoded data have such notes too, with the names of files (data/stored_data.py).
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from .lock import held_for_good, is_held

_log = logging.getLogger(__name__)
NOTES_FOLDER, USED_FILE = ".in_use", "used"


@dataclass(frozen=True)
class _Note:
    path: Path
    process: int
    handle: int
    names: set[str] = field(default_factory=set)
    """What it says already."""


class _Notes:
    """This process's notes, one per store. Locks belong to the process, so its notes do, too."""

    def __init__(self) -> None:
        self._notes: dict[Path, _Note] = {}
        self._guard = Lock()

    def add(self, store_folder: Path, names: Iterable[str]) -> None:
        with self._guard:
            note = self._notes.get(store_folder)
            earlier: set[str] = set()
            # Begun anew in a process that was forked from its writer, and where somebody has removed the note or the store meanwhile.
            if note is None or note.process != os.getpid() or not note.path.exists():
                earlier = note.names if note is not None and note.process == os.getpid() else earlier
                note = self._notes[store_folder] = _begin(store_folder / NOTES_FOLDER)
            new = [name for name in dict.fromkeys((*earlier, *names)) if name not in note.names]
            if new:
                os.write(note.handle, "".join(f"{name}\n" for name in new).encode("utf-8"))
                note.names.update(new)


def _begin(folder: Path) -> _Note:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
    return _Note(path, os.getpid(), held_for_good(path))


_NOTES = _Notes()


def mark_used(store_folder: Path, names: Iterable[str]) -> None:
    """Protects runs, by their folders' names, until this process ends. A store that may only be read needs no protection."""
    listed = list(names)
    protect(store_folder, listed)
    for name in listed:
        with suppress(OSError):
            (store_folder / name / USED_FILE).touch()


def protect(folder: Path, names: Iterable[str]) -> None:
    """Protects what has these names in a folder until this process ends. A folder that may only be read needs no protection."""
    try:
        _NOTES.add(folder.absolute(), names)
    except OSError as error:
        _log.debug("what is used in %s could not be noted: %s", folder, error)


def names_in_use(store_folder: Path) -> set[str]:
    """The names of what living processes use in a folder, this one included; notes of dead ones are removed."""
    found: set[str] = set()
    folder = store_folder / NOTES_FOLDER
    for note in folder.iterdir() if folder.is_dir() else ():
        if is_held(note):
            with suppress(OSError):
                found |= set(note.read_text("utf-8").split())
        else:
            with suppress(OSError):
                note.unlink()
    return found

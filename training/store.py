"""Runs on disk. A run is a folder under the key of its inputs; steps are not in the key: its checkpoints lie inside.

<store>/<key>/run.json            what it was made from, for people
              losses.jsonl        what it measured
              step_00000200/      weights, optimiser, ema (safetensors) and state.json with checksums
              lock                who trains it now
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import Checkpoint, Facts, checkpoint_at, list_checkpoints, remove_checkpoint, remove_leftovers, write_checkpoint
from .files.write import PART_BEGINNING, require_free_space, require_writable_folder, write_json
from .history import HistoryFile
from .in_use import mark_used
from .lock import locked
from .state import HISTORY_FILE, LOCK_FILE, RUN_FILE, State

_log = logging.getLogger(__name__)
_SUBJECT = "folder of runs"
# Enough of the key to be unique, short enough for Windows' limit on the length of paths.
KEY_DIGITS = 32
CHECKPOINTS_OF_SPACE = 2


class Run:
    """One run's folder.

    Args:
        workflow: what run.json is to say of where it came from.
    """

    def __init__(self, folder: Path, workflow: str = "") -> None:
        self.folder, self._workflow = folder, workflow
        self.history = HistoryFile(folder / HISTORY_FILE)

    @contextmanager
    def training(self) -> Iterator[Run]:
        """Holds the run for writing.

        Raises:
            InputError: another process trains it.
        """
        with locked(self.folder / LOCK_FILE, f"run {self.folder.name}"):
            remove_leftovers(self.folder)
            yield self

    def describe(self, inputs: Mapping[str, Any]) -> None:
        """Writes run.json, once: the workflow that it names is the one that began the run."""
        if not (self.folder / RUN_FILE).exists():
            write_json(self.folder / RUN_FILE, {**inputs, **({"workflow": self._workflow} if self._workflow else {})})

    def checkpoint(self, step: int) -> Checkpoint | None:
        """The checkpoint after exactly `step` steps, if it is there and looks whole; a damaged one is reported and passed over.

        Only sizes are looked at: checksums of gigabytes are compared where they are read.
        """
        checkpoint = checkpoint_at(self.folder, step)
        return _passed(checkpoint, checkpoint.looks_whole()) if checkpoint.path.is_dir() else None

    def latest_at_most(self, step: int) -> Checkpoint | None:
        """The whole checkpoint with the most steps that has no more than `step`; damaged ones are reported and passed over."""
        candidates = [checkpoint for checkpoint in list_checkpoints(self.folder) if checkpoint.step <= step]
        return next((checkpoint for checkpoint in reversed(candidates) if _passed(checkpoint, checkpoint.is_whole())), None)

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Facts, keep: int) -> Checkpoint:
        """Writes a checkpoint, then removes the oldest beyond `keep` of those that nobody asked for; this one is never among them.

        Raises:
            InputError: the disk is full or may not be written; what was there stays.
        """
        self.history.flush()
        checkpoint = write_checkpoint(self.folder, step, parts, facts)
        self._prune(keep, checkpoint)
        return checkpoint

    def _prune(self, keep: int, newest: Checkpoint) -> None:
        others = [entry for entry in list_checkpoints(self.folder) if entry.step != newest.step and not entry.pinned]
        for checkpoint in others[: max(len(others) - (keep - 1), 0)]:
            try:
                remove_checkpoint(checkpoint)
            except OSError as error:  # Windows renames no folder in which a file is open; the next checkpoint tries again
                _log.warning("the old checkpoint %s could not be removed and is kept for now: %s", checkpoint.path, error)


class RunStore:
    """The folder in which runs lie.

    Args:
        workflow: the name of the workflow that asks for runs, noted in those that it begins; no part of any key.
    """

    def __init__(self, folder: str | Path, workflow: str = "") -> None:
        self.folder, self._workflow = Path(folder), workflow

    def run(self, key: str) -> Run:
        """The run of that key, which may not exist yet."""
        return Run(self.folder / key[:KEY_DIGITS], self._workflow)

    def runs(self) -> list[Run]:
        """All that exist."""
        if not self.folder.is_dir():
            return []
        paths = (path for path in sorted(self.folder.iterdir()) if not path.name.startswith(PART_BEGINNING))
        return [Run(path) for path in paths if (path / RUN_FILE).is_file()]

    def use(self, state: State) -> None:
        """Notes that this process uses a state and those that it began from, which protects their runs from clean-up (store_size.py)."""
        mark_used(self.folder, [run_key[:KEY_DIGITS] for run_key, _ in state.lineage])

    def require_room(self, checkpoint_bytes: int) -> None:
        """Checks before any work that checkpoints can be written: one beside the one before it.

        Raises:
            InputError: the folder may not be written, or the disk has no room.
        """
        require_writable_folder(self.folder, _SUBJECT)
        require_free_space(self.folder, CHECKPOINTS_OF_SPACE * checkpoint_bytes, _SUBJECT)


def _passed(checkpoint: Checkpoint, whole: bool) -> Checkpoint | None:
    if whole:
        return checkpoint
    _log.warning("checkpoint %s is damaged and was passed over; training goes on from the one before it", checkpoint.path)
    return None

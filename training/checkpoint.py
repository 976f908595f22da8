"""One checkpoint: a folder `step_00000200` that appears whole or not at all and knows the checksums of its files."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import InputError
from .files.digest import KnownDigests, sha256_of
from .files.tensors import read_tensors
from .files.write import PART_BEGINNING, explained, flush_folder, write_json, write_safetensors

WEIGHTS, OPTIMISER, EMA = "weights", "optimiser", "ema"
STATE_FILE, PINNED_FILE, DAMAGED_FILE = "state.json", "pinned", "damaged"
_DIGESTS = KnownDigests()
Facts = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
_NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint in `path`, which may be damaged until it was looked at."""

    path: Path
    step: int

    @property
    def pinned(self) -> bool:
        """Whether a Train Steps asked for just this one: then it is never removed to make room."""
        return (self.path / PINNED_FILE).exists()

    def pin(self) -> None:
        """Keeps it for good. In a folder that may only be read there is nothing to fear, and nothing is done."""
        if not self.pinned:
            with suppress(OSError):
                (self.path / PINNED_FILE).touch()

    def facts(self) -> dict[str, Any]:
        """What was noted with it: step, why it was saved, checksums, versions.

        Raises:
            InputError: the note is missing or damaged.
        """
        try:
            facts = json.loads((self.path / STATE_FILE).read_text("utf-8"))
            of_this_step = facts["step"] == self.step and all(entry["sha256"] for entry in facts["files"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(self.path, f"{STATE_FILE} is missing or damaged") from error
        if not of_this_step:
            raise _damaged(self.path, f"{STATE_FILE} belongs to another checkpoint")
        return facts

    def require_whole(self, *parts: str) -> None:
        """Compares files (all if none is named) with their checksums; one that was found whole is read again only if it has changed since.

        Raises:
            InputError: a file is missing, or its bytes are not those that were written. The checkpoint is marked then and found no more.
        """
        files = self.facts()["files"]
        self._require_sizes(files, parts or tuple(files))
        for part in parts or tuple(files):
            path = self.path / f"{part}.safetensors"
            if _DIGESTS.sha256_of(path) != files[part]["sha256"]:
                self._mark_damaged()
                raise _damaged(self.path, f"the bytes of {path.name} are not those that were written")

    def is_whole(self, *parts: str) -> bool:
        try:
            self.require_whole(*parts)
        except InputError:
            return False
        return True

    def looks_whole(self) -> bool:
        """Whether everything is there in the right size and nobody found it damaged; what its files hold is looked at when they are read."""
        try:
            files = self.facts()["files"]
            self._require_sizes(files, tuple(files))
        except InputError:
            return False
        return not (self.path / DAMAGED_FILE).exists()

    def _require_sizes(self, files: Mapping[str, Any], parts: tuple[str, ...]) -> None:
        for part in parts:
            path = self.path / f"{part}.safetensors"
            if part not in files or not path.is_file() or path.stat().st_size != files[part]["bytes"]:
                raise _damaged(self.path, f"{path.name} is missing or has another size")

    def _mark_damaged(self) -> None:
        with suppress(OSError):
            (self.path / DAMAGED_FILE).touch()

    def has(self, part: str) -> bool:
        return part in self.facts()["files"]

    def read(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, on the CPU.

        Raises:
            InputError: it is damaged.
        """
        self.require_whole(part)
        return read_tensors(self.path / f"{part}.safetensors")


def list_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """All in a run's folder, rising by step."""
    if not run_folder.is_dir():
        return []
    found = [(match, path) for path in run_folder.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()]
    return sorted((Checkpoint(path, int(match[1])) for match, path in found), key=lambda checkpoint: checkpoint.step)


def checkpoint_at(run_folder: Path, step: int) -> Checkpoint:
    """Where the checkpoint after `step` steps lies or would lie."""
    return Checkpoint(run_folder / f"step_{step:08d}", step)


def write_checkpoint(run_folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Facts) -> Checkpoint:
    """Writes all parts aside, then renames the folder to its place; one that is there already (damaged) gives way.

    A function as `facts` is asked when the parts are written, so that it can tell how long that took.

    Raises:
        InputError: the disk is full or may not be written; nothing is left behind, and what was there stays.
    """
    target, aside = checkpoint_at(run_folder, step), _aside(run_folder)
    try:
        aside.mkdir(parents=True)
        for part, tensors in parts.items():
            write_safetensors(aside / f"{part}.safetensors", tensors)
        files = {part: _file_facts(aside / f"{part}.safetensors") for part in parts}
        noted = facts() if callable(facts) else facts
        write_json(aside / STATE_FILE, {"step": step, **noted, "files": files})
        _move_into_place(aside, target.path)
    except OSError as error:
        raise explained(target.path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def remove_checkpoint(checkpoint: Checkpoint) -> None:
    """Renames it away first, so that a half-removed one is never taken for a whole one."""
    aside = _aside(checkpoint.path.parent)
    os.replace(checkpoint.path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(run_folder: Path) -> None:
    """Removes what a killed process was writing; only for the one who holds the run's lock."""
    for path in run_folder.glob(f"{PART_BEGINNING}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _move_into_place(aside: Path, target: Path) -> None:
    if target.exists():
        was_pinned = (target / PINNED_FILE).exists()
        remove_checkpoint(Checkpoint(target, 0))
        if was_pinned:
            (aside / PINNED_FILE).touch()
    os.replace(aside, target)
    flush_folder(target.parent)


def _aside(run_folder: Path) -> Path:
    return run_folder / f"{PART_BEGINNING}{secrets.token_hex(8)}"


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _damaged(path: Path, what: str) -> InputError:
    remedy = "Run the workflow again: training goes on from the checkpoint before it."
    return InputError(f"checkpoint {path}", expected="the files as they were written", found=what, remedy=remedy)

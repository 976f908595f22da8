"""Making rows once: what lies in a folder is found by the rows' keys, whoever made it and for whichever data set; only the rest is made.

So a changed picture is encoded alone, an interrupted encoding goes on where it was, and two processes at once leave each other's files be: a
file's name follows from its rows, it appears whole or not at all, and one that is there is never written again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import InputError
from ..files.write import PART_BEGINNING, require_free_space, write_safetensors
from ..in_use import protect
from ..progress import Progress
from .keys import KeyPart, content_key
from .shards import KEY_BYTES, Report, Rows, Shard, ShardPlan, is_whole, keys_in, with_checksums

LEFTOVER_AGE_S = 24 * 3600
SHARD_ENDING = ".safetensors"
Make: TypeAlias = "Callable[[ShardPlan, Report], Shard | None]"
"""Gives one shard, or None if it cannot be had, which the maker has noted; reports the number of its rows that are done."""
_SETUP_DIGITS = 12


@dataclass(frozen=True)
class Shelf:
    """A folder in which shards are made and found again."""

    folder: Path
    progress: Progress

    def rows(
        self, kind: str, contents: Sequence[KeyPart], rows_per_shard: int, make: Make, unit: str, *setup: KeyPart,
        groups: Sequence[Hashable] | None = None,
    ) -> Rows:  # fmt: skip
        """Rows of one kind; those that are missing are made, and finished shards stay if this is interrupted.

        Args:
            kind: beginning of the files' names.
            contents: what each row is made of; with `setup` this is what it is known by. Equal contents are made once.
            rows_per_shard: rows in a file, at most.
            make: gives one shard.
            unit: name of one row, for the progress bar.
            setup: everything else that the rows depend on.
            groups: for each row, what rows of one file have in common (their size); None: all do.

        Raises:
            InputError: the disk is full or cannot be written; nothing half-written is left.
        """
        keys = _row_keys(kind, contents, setup)
        while True:
            search = _Search(self.folder, f"{kind}-{content_key(kind, *setup)[:_SETUP_DIGITS]}-", keys)
            search.find()
            if groups is None:
                search.adopt(kind, contents, rows_per_shard, setup)
            plans = search.plans(rows_per_shard, groups)
            protect(self.folder, [*search.names, *(plan.name for plan in plans)])
            if search.is_there():  # another process's clean-up may have come before the protection
                break
        if plans:
            self._make_all(plans, search, make, unit)
        return search.rows(rows_per_shard)

    def _make_all(self, plans: Sequence[ShardPlan], search: _Search, make: Make, unit: str) -> None:
        rows_left = sum(len(plan.rows) for plan in plans)
        self.progress.start(rows_left, unit)
        counter = _Counter(self.progress)
        try:
            with _writer() as write:
                for plan in plans:
                    shard = make(plan, counter.report)
                    if shard is not None:
                        write(partial(self._write, plan, shard, search, rows_left))
                    counter.finish_shard(len(plan.rows))
                    rows_left -= len(plan.rows)
        finally:
            self.progress.finish()

    def _write(self, plan: ShardPlan, shard: Shard, search: _Search, rows_left: int) -> None:
        tensors, metadata = shard
        path, keys = self.folder / plan.name, [search.keys[row] for row in plan.rows]
        if not is_whole(path):
            shard_bytes = sum(tensor.nbytes for tensor in tensors.values())
            require_free_space(self.folder, shard_bytes // len(plan.rows) * rows_left, "folder for encoded data")
            try:
                write_safetensors(path, with_checksums(tensors, keys), metadata)
            except (InputError, OSError):  # on Windows a file that another process has just put there and reads cannot be replaced
                if not is_whole(path):
                    raise
        search.add(plan.name, keys)


class _Search:
    """Which of the wanted rows lie in which file.

    Args:
        folder: where to look.
        beginning: of the names of the files that may hold them.
        keys: of the wanted rows.
    """

    def __init__(self, folder: Path, beginning: str, keys: list[bytes]) -> None:
        self._folder, self._beginning, self.keys = folder, beginning, keys
        self._wanted: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            self._wanted.setdefault(key, []).append(row)
        self.names: list[str] = []
        """Of the files that hold any of the rows."""
        self._file = np.full(len(keys), -1, np.int32)
        self._place = np.zeros(len(keys), np.int32)

    def find(self) -> None:
        for path in sorted(self._folder.glob(f"{self._beginning}*.safetensors")):
            self.add(path.name, keys_in(path) or ())

    def is_there(self) -> bool:
        """Whether all files in which rows were found still are."""
        return all((self._folder / name).is_file() for name in self.names)

    def add(self, name: str, keys: Sequence[bytes]) -> None:
        """A file with rows of these keys; rows that are known already stay where they were found."""
        number = len(self.names)
        for place, key in enumerate(keys):
            rows = [row for row in self._wanted.get(key, ()) if self._file[row] < 0]
            self._file[rows], self._place[rows] = number, place
            if rows and number == len(self.names):
                self.names.append(name)

    def adopt(self, kind: str, contents: Sequence[KeyPart], rows_per_shard: int, setup: Sequence[KeyPart]) -> None:
        """Files from before rows had keys, which were named by all that they hold."""
        if not next(self._folder.glob(f"{kind}-{'[0-9a-f]' * 40}.safetensors"), None):
            return
        for first in range(0, len(contents), rows_per_shard):
            part = list(contents[first : first + rows_per_shard])
            name = f"{kind}-{content_key(kind, part, *setup)[:40]}.safetensors"
            if is_whole(self._folder / name):
                self.add(name, self.keys[first : first + len(part)])

    def plans(self, rows_per_shard: int, groups: Sequence[Hashable] | None) -> list[ShardPlan]:
        """Files for the rows that are missing: one row for each key, in the order of the rows, rows of one group together."""
        by_group: dict[Hashable, list[int]] = {}
        for rows in self._wanted.values():
            if self._file[rows[0]] < 0:
                by_group.setdefault(groups[rows[0]] if groups else None, []).append(rows[0])
        parts = [
            tuple(missing[first : first + rows_per_shard])
            for missing in by_group.values()
            for first in range(0, len(missing), rows_per_shard)
        ]
        return [ShardPlan(self._name([self.keys[row] for row in part]), part) for part in parts]

    def rows(self, rows_per_shard: int) -> Rows:
        """The handle; rows that could not be made are absent, which the maker has noted."""
        stride = max(rows_per_shard, int(self._place.max(initial=0)) + 1)
        return Rows(self._folder, tuple(self.names), stride, self._file * np.int32(stride) + self._place)

    def _name(self, keys: Sequence[bytes]) -> str:
        return f"{self._beginning}{hashlib.sha256(b''.join(keys)).hexdigest()[:28]}.safetensors"


@dataclass
class _Counter:
    """Adds up the rows of several shards."""

    progress: Progress
    finished_rows: int = 0

    def report(self, rows: int) -> None:
        self.progress.check_interrupt()
        self.progress.advance(self.finished_rows + rows)

    def finish_shard(self, rows: int) -> None:
        self.finished_rows += rows
        self.progress.advance(self.finished_rows)


@contextmanager
def _writer() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Writes one shard in a thread while the next is made; what was given is written even if the rest is interrupted."""
    waiting: list[Future[None]] = []

    def write(job: Callable[[], None]) -> None:
        while waiting:
            waiting.pop().result()
        waiting.append(pool.submit(job))

    with ThreadPoolExecutor(1, thread_name_prefix="graft-write") as pool:
        try:
            yield write
        except BaseException:
            with suppress(InputError, OSError):  # the first error is the one to hear of
                for job in waiting:
                    job.result()
            raise
        for job in waiting:
            job.result()


def remove_leftovers(folder: Path) -> None:
    """Removes unfinished files that a killed process left behind; younger ones may belong to another process that is at work."""
    for path in folder.glob(f"{PART_BEGINNING}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                path.unlink()


def _row_keys(kind: str, contents: Sequence[KeyPart], setup: Sequence[KeyPart]) -> list[bytes]:
    beginning = hashlib.sha256(json.dumps([kind, *setup], allow_nan=False).encode("ascii"))
    keys = []
    for content in contents:
        digest = beginning.copy()
        digest.update(json.dumps(content, allow_nan=False).encode("ascii"))
        keys.append(digest.digest()[:KEY_BYTES])
    return keys

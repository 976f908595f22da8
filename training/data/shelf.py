"""Making rows once: what lies in a folder is found by the rows' keys, whoever made it and for whichever data set; only the rest is made.

So a changed picture is encoded alone, an interrupted encoding goes on where it was, and two processes at once leave each other's files be: a
file's name follows from its rows, it appears whole or not at all, and one that is there is never written again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
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
MakeTogether: TypeAlias = "Callable[[Sequence[ShardPlan], Report], Generator[Mapping[str, Shard] | None, None, None]]"
"""Gives for each plan in turn a shard of each of its kinds, or None as above; reports rows of the plan that is being made."""
_SETUP_DIGITS = 12


@dataclass(frozen=True)
class Kind:
    """One kind of rows, and what each is known by."""

    name: str
    """The beginning of its files' names."""
    contents: Sequence[KeyPart]
    """What each row is made of. Equal contents are made once."""
    setup: tuple[KeyPart, ...] = ()
    """Everything else that the rows depend on."""


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
            kind: the kind's name.
            contents: what each row is made of.
            rows_per_shard: rows in a file, at most.
            make: gives one shard.
            unit: name of one row, for the progress bar.
            setup: everything else that the rows depend on.
            groups: for each row, what rows of one file have in common (their size); None: all do.

        Raises:
            InputError: the disk is full or cannot be written; nothing half-written is left.
        """

        def each(plans: Sequence[ShardPlan], report: Report) -> Generator[Mapping[str, Shard] | None, None, None]:
            for plan in plans:
                shard = make(plan, report)
                yield None if shard is None else {kind: shard}

        return self.together([Kind(kind, contents, setup)], rows_per_shard, each, unit, groups)[kind]

    def together(
        self, kinds: Sequence[Kind], rows_per_shard: int, make: MakeTogether, unit: str, groups: Sequence[Hashable] | None = None
    ) -> dict[str, Rows]:
        """Rows of several kinds that are made of the same things at once, by the kinds' names; of each row only those kinds that are missing.

        Args and Raises: as `rows`; all kinds have as many rows.
        """
        searches = {kind.name: _Search(self.folder, kind) for kind in kinds}
        while True:
            for search in searches.values():
                search.find()
            plans = _plans(searches, rows_per_shard, groups)
            protect(self.folder, [name for search in searches.values() for name in search.names] + _names(plans, searches))
            if all(search.is_there() for search in searches.values()):  # another process's clean-up may have come before the protection
                break
        if plans:
            self._make_all(plans, searches, make, unit)
        return {name: search.rows(rows_per_shard) for name, search in searches.items()}

    def _make_all(self, plans: Sequence[ShardPlan], searches: Mapping[str, _Search], make: MakeTogether, unit: str) -> None:
        self.progress.start(sum(len(plan.rows) for plan in plans), unit)
        rows_left = Counter({kind: sum(len(plan.rows) for plan in plans if kind in plan.kinds) for kind in searches})
        counter = _Counter(self.progress)
        try:
            with _writer() as write, closing(make(plans, counter.report)) as made:
                for plan, shards in zip(plans, made, strict=True):
                    if shards is not None:
                        write(partial(self._write, plan, shards, searches, dict(rows_left)))
                    counter.finish_shard(len(plan.rows))
                    rows_left.subtract(dict.fromkeys(plan.kinds, len(plan.rows)))
        finally:
            self.progress.finish()

    def _write(self, plan: ShardPlan, shards: Mapping[str, Shard], searches: Mapping[str, _Search], rows_left: Mapping[str, int]) -> None:
        sizes_bytes = {kind: sum(tensor.nbytes for tensor in tensors.values()) for kind, (tensors, _) in shards.items()}
        needed_bytes = sum(size // len(plan.rows) * rows_left[kind] for kind, size in sizes_bytes.items())
        require_free_space(self.folder, needed_bytes, "folder for encoded data")
        for kind, (tensors, metadata) in shards.items():
            search = searches[kind]
            name, keys = search.name(plan.rows), [search.keys[row] for row in plan.rows]
            path = self.folder / name
            if not is_whole(path):
                try:
                    write_safetensors(path, with_checksums(tensors, keys), metadata)
                except (InputError, OSError):  # on Windows a file that another process has just put there and reads cannot be replaced
                    if not is_whole(path):
                        raise
            search.add(name, keys)


def _plans(searches: Mapping[str, _Search], rows_per_shard: int, groups: Sequence[Hashable] | None) -> list[ShardPlan]:
    """Files for what is missing, in the order of the rows: those of one group, of which the same kinds are missing, together."""
    missing: dict[int, list[str]] = {}
    for kind, search in searches.items():
        for row in search.missing():
            missing.setdefault(row, []).append(kind)
    alike: dict[Hashable, list[int]] = {}
    for row in sorted(missing):
        alike.setdefault((groups[row] if groups else None, tuple(missing[row])), []).append(row)
    return [
        ShardPlan(tuple(rows[first : first + rows_per_shard]), tuple(missing[rows[0]]))
        for rows in alike.values()
        for first in range(0, len(rows), rows_per_shard)
    ]


def _names(plans: Sequence[ShardPlan], searches: Mapping[str, _Search]) -> list[str]:
    return [searches[kind].name(plan.rows) for plan in plans for kind in plan.kinds]


class _Search:
    """Which of the wanted rows lie in which file.

    Args:
        folder: where to look.
        kind: of the rows.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._folder, self.keys = folder, _row_keys(kind)
        self._beginning = f"{kind.name}-{content_key(kind.name, *kind.setup)[:_SETUP_DIGITS]}-"
        self._wanted: dict[bytes, list[int]] = {}
        for row, key in enumerate(self.keys):
            self._wanted.setdefault(key, []).append(row)

    def find(self) -> None:
        """Looks at the files that are there."""
        self.names: list[str] = []
        """Of the files that hold any of the rows."""
        self._file = np.full(len(self.keys), -1, np.int32)
        self._place = np.zeros(len(self.keys), np.int32)
        for path in sorted(self._folder.glob(f"{self._beginning}*.safetensors")):
            self.add(path.name, keys_in(path) or ())

    def is_there(self) -> bool:
        """Whether all files in which rows were found still are."""
        return all((self._folder / name).is_file() for name in self.names)

    def missing(self) -> list[int]:
        """The first row of each key that no file holds."""
        return [rows[0] for rows in self._wanted.values() if self._file[rows[0]] < 0]

    def add(self, name: str, keys: Sequence[bytes]) -> None:
        """A file with rows of these keys; rows that are known already stay where they were found."""
        number = len(self.names)
        for place, key in enumerate(keys):
            rows = [row for row in self._wanted.get(key, ()) if self._file[row] < 0]
            self._file[rows], self._place[rows] = number, place
            if rows and number == len(self.names):
                self.names.append(name)

    def rows(self, rows_per_shard: int) -> Rows:
        """The handle; rows that could not be made are absent, which the maker has noted."""
        stride = max(rows_per_shard, int(self._place.max(initial=0)) + 1)
        return Rows(self._folder, tuple(self.names), stride, self._file * np.int32(stride) + self._place)

    def name(self, rows: Sequence[int]) -> str:
        """Of the file that holds exactly these rows."""
        return f"{self._beginning}{hashlib.sha256(b''.join(self.keys[row] for row in rows)).hexdigest()[:28]}.safetensors"


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


def _row_keys(kind: Kind) -> list[bytes]:
    beginning = hashlib.sha256(json.dumps([kind.name, *kind.setup], allow_nan=False).encode("ascii"))
    keys = []
    for content in kind.contents:
        digest = beginning.copy()
        digest.update(json.dumps(content, allow_nan=False).encode("ascii"))
        keys.append(digest.digest()[:KEY_BYTES])
    return keys

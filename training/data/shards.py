"""Rows of tensors on disk: safetensors files named by the key of what they hold, made once and found again.

A shard holds a fixed number of consecutive rows, so row i lies in shard i // n at place i % n. Its name is a hash of everything
that its content depends on: whoever asks for the same content again, after an interruption or from another data set, finds it.
Rows are read with plain seeks: no mapped memory, no open files, any number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files.header import Header, read_header
from ..files.tensors import TORCH_DTYPES, read_bytes
from ..files.write import PART_BEGINNING, require_free_space, write_safetensors
from ..progress import Progress
from .keys import KeyPart, content_key

SHARD_ROWS_LIMIT = 256
SHARD_TARGET_BYTES = 64 * 2**20
ENCODE_BATCH = 16
LEFTOVER_AGE_S = 24 * 3600

Shard = tuple[Mapping[str, Tensor], Mapping[str, str]]
"""What a file holds: tensors whose first dimension is the row, and metadata."""
Report = Callable[[int], None]
"""Told how many rows of a shard are done; raises if the user has asked to stop."""


@dataclass(frozen=True)
class ShardPlan:
    """One file to be: its name and its rows [first_row, end_row)."""

    name: str
    first_row: int
    end_row: int

    @property
    def rows(self) -> range:
        return range(self.first_row, self.end_row)


@dataclass(frozen=True)
class Rows:
    """Rows that lie in shards of a folder."""

    folder: Path
    names: tuple[str, ...]
    rows_per_shard: int
    _headers: dict[str, Header] = field(default_factory=dict, compare=False, repr=False)

    def read(self, tensor: str, row: int) -> Tensor:
        """Row `row` of a tensor, in memory of its own; only its bytes are read."""
        header = self.header(row // self.rows_per_shard)
        info = header.tensors[tensor]
        row_bytes = info.size_bytes // info.shape[0]
        with header.path.open("rb") as file:
            data = read_bytes(file, header, info.start + row % self.rows_per_shard * row_bytes, row_bytes)
        return data.view(TORCH_DTYPES[info.dtype]).reshape(info.shape[1:])

    def stack(self, tensor: str, rows: Sequence[int]) -> Tensor:
        """The rows of a tensor, in the order asked for, [len(rows), ...]."""
        return torch.stack([self.read(tensor, row) for row in rows])

    def header(self, shard: int) -> Header:
        """The checked header of shard number `shard`, read once."""
        name = self.names[shard]
        if name not in self._headers:
            self._headers[name] = read_header(self.folder / name)
        return self._headers[name]

    def sizes_bytes(self) -> list[int]:
        """The files' sizes, by which a later call sees at a glance whether they are all there and whole.

        Raises:
            OSError: one of them is gone.
        """
        return [(self.folder / name).stat().st_size for name in self.names]


@dataclass(frozen=True)
class Shelf:
    """A folder in which shards are made and found again."""

    folder: Path
    progress: Progress

    def rows(
        self, kind: str, contents: Sequence[KeyPart], rows_per_shard: int, make: Callable[[ShardPlan, Report], Shard | None],
        unit: str, *setup: KeyPart,
    ) -> Rows:  # fmt: skip
        """Rows of one kind; shards that are missing are made, and those that are finished stay if this is interrupted.

        Args:
            kind: beginning of the files' names.
            contents: what each row is made of; with `setup` this is what the files are named by.
            rows_per_shard: rows in every file but the last.
            make: gives one shard, or None if it cannot be had, which the maker has noted; reports the number of its rows that are done.
            unit: name of one row, for the progress bar.
            setup: everything else that the rows depend on.

        Raises:
            InputError: the disk is full or cannot be written; nothing half-written is left.
        """
        plans = _plan(kind, contents, rows_per_shard, setup)
        missing = [plan for plan in plans if not _is_whole(self.folder / plan.name)]
        if missing:
            self._make_all(missing, make, unit)
        return Rows(self.folder, tuple(plan.name for plan in plans), rows_per_shard)

    def _make_all(self, plans: Sequence[ShardPlan], make: Callable[[ShardPlan, Report], Shard | None], unit: str) -> None:
        rows_left = sum(len(plan.rows) for plan in plans)
        self.progress.start(rows_left, unit)
        counter = _Counter(self.progress)
        try:
            for plan in plans:
                shard = make(plan, counter.report)
                if shard is not None:
                    self._write(plan, shard, rows_left)
                counter.finish_shard(len(plan.rows))
                rows_left -= len(plan.rows)
        finally:
            self.progress.finish()

    def _write(self, plan: ShardPlan, shard: Shard, rows_left: int) -> None:
        tensors, metadata = shard
        shard_bytes = sum(tensor.nbytes for tensor in tensors.values())
        require_free_space(self.folder, shard_bytes // len(plan.rows) * rows_left, "folder for encoded data")
        write_safetensors(self.folder / plan.name, tensors, metadata)


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


def remove_leftovers(folder: Path) -> None:
    """Removes unfinished files that a killed process left behind; younger ones may belong to another process that is at work."""
    for path in folder.glob(f"{PART_BEGINNING}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                path.unlink()


def rows_for(row_bytes: int) -> int:
    """Rows per shard: a power of two, at most SHARD_ROWS_LIMIT, near SHARD_TARGET_BYTES, so that making one takes bounded memory."""
    fitting = max(SHARD_TARGET_BYTES // max(row_bytes, 1), 1)
    return min(2 ** int(math.log2(fitting)), SHARD_ROWS_LIMIT)


def batches_of(plan: ShardPlan, report: Report) -> Iterator[range]:
    """The rows of a shard in batches for an encoder; reports each when the next is asked for."""
    for first in range(plan.first_row, plan.end_row, ENCODE_BATCH):
        end = min(first + ENCODE_BATCH, plan.end_row)
        yield range(first, end)
        report(end - plan.first_row)


def _plan(kind: str, contents: Sequence[KeyPart], rows_per_shard: int, setup: Sequence[KeyPart]) -> list[ShardPlan]:
    plans = []
    for first in range(0, len(contents), rows_per_shard):
        part = list(contents[first : first + rows_per_shard])
        plans.append(ShardPlan(f"{kind}-{content_key(kind, part, *setup)[:40]}.safetensors", first, first + len(part)))
    return plans


def _is_whole(path: Path) -> bool:
    try:
        read_header(path)
    except InputError:
        return False
    return True

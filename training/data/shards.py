"""Rows of tensors on disk: safetensors files that say which rows they hold, and by a checksum whether each is still what was written.

A row is known by a key, a hash of everything that it depends on; where it lies is nobody's business but the handle's. Rows are read with plain
seeks: no mapped memory, no open files, any number of threads, and a memory of headers that does not grow with the number of files.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files.header import Header, read_header
from ..files.tensors import TORCH_DTYPES, read_tensor
from .pages import fresh

SHARD_ROWS_LIMIT = 256
SHARD_TARGET_BYTES = 64 * 2**20
ROW_KEYS = "row keys"
KEY_BYTES = 16
_CHECKSUMS = "checksums of "
_HEADERS_KEPT = 512

Shard: TypeAlias = "tuple[Mapping[str, Tensor], Mapping[str, str]]"
"""What a file holds: tensors whose first dimension is the row, and metadata."""
Report: TypeAlias = "Callable[[int], None]"
"""Told how many rows of a shard are done; raises if the user has asked to stop."""


class DamagedShardError(InputError):
    """A file holds something else than what was written. It has been removed: whoever encodes again makes its rows anew, and no others."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            str(path), expected="what was written to it", found="other bytes: a checksum differs",
            remedy="The file has been removed; queue again, and its part is encoded anew. If it happens again, test the disk and the memory.",
        )  # fmt: skip


def vanished(path: Path, error: OSError) -> InputError:
    """What is said where a file of encoded data can no longer be read."""
    remedy = "Is the disk still there, or was the cache emptied? Queue again: what is missing is encoded anew, and the training goes on."
    return InputError(str(path), expected="the encoded data that was there", found=f"none ({error.strerror})", remedy=remedy)


@dataclass(frozen=True)
class ShardPlan:
    """Files to be: which rows of the whole they will hold, all of one size, and of which kinds they are."""

    rows: tuple[int, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class _Opened:
    """The checked header of a file with the checksums of its rows."""

    header: Header
    checksums: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that lie in shards of a folder: four bytes each."""

    folder: Path
    names: tuple[str, ...]
    stride: int
    """At least the number of rows in any of the files."""
    places: np.ndarray
    """int32 [rows]: file number * stride + place in the file."""
    _opened: OrderedDict[int, _Opened] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        same_files = (self.folder, self.names, self.stride) == (other.folder, other.names, other.stride)
        return same_files and np.array_equal(self.places, other.places)

    def __hash__(self) -> int:
        return hash((self.folder, self.names, self.stride))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, tensor: str, row: int) -> Tensor:
        """Row `row` of a tensor, in memory of its own; only its bytes are read.

        Raises:
            DamagedShardError: it is no longer what was written.
            InputError: the file is gone or no safetensors file any more.
        """
        return self.stack(tensor, [row])[0]

    def stack(self, tensor: str, rows: Sequence[int]) -> Tensor:
        """The rows of a tensor, of one size, in the order asked for, [len(rows), ...]; raises what `read` raises."""
        info = self._open(int(self.places[rows[0]]) // self.stride).header.tensors[tensor]
        result = fresh((len(rows), *info.shape[1:]), TORCH_DTYPES[info.dtype])
        for place, row in enumerate(rows):
            self._fill(result[place].reshape(-1).view(torch.uint8), tensor, row)
        return result

    def _fill(self, target: Tensor, tensor: str, row: int) -> None:
        """Reads one row into memory that is there, uint8 [bytes of a row]."""
        shard, place = divmod(int(self.places[row]), self.stride)
        opened = self._open(shard)
        info, header = opened.header.tensors[tensor], opened.header
        assert info.size_bytes == info.shape[0] * len(target), f"row {row} of {tensor} has another size than the rows before it"
        try:
            with header.path.open("rb", buffering=0) as file:
                file.seek(header.data_start + info.start + place * len(target))
                is_whole = _read_all(file, target.numpy().data) == len(target)
        except OSError as error:
            raise vanished(header.path, error) from error
        if not is_whole or (tensor in opened.checksums and zlib.crc32(target.numpy().data) != int(opened.checksums[tensor][place])):
            raise self._damaged(shard)

    def tensors(self, row: int) -> list[str]:
        """Names of the tensors that hold a row, without those that only describe it."""
        names = self._open(int(self.places[row]) // self.stride).header.tensors
        return [name for name in names if name != ROW_KEYS and not name.startswith(_CHECKSUMS)]

    def header(self, shard: int) -> Header:
        """The checked header of file number `shard`."""
        return self._open(shard).header

    def place_of(self, row: int) -> tuple[int, int]:
        """In which file, and where in it, a row lies."""
        shard, place = divmod(int(self.places[row]), self.stride)
        return shard, place

    def _open(self, shard: int) -> _Opened:
        with self._lock:
            if shard in self._opened:
                self._opened.move_to_end(shard)
                return self._opened[shard]
        opened = _open(self.folder / self.names[shard])
        with self._lock:
            self._opened[shard] = opened
            if len(self._opened) > _HEADERS_KEPT:
                self._opened.popitem(last=False)
        return opened

    def _damaged(self, shard: int) -> DamagedShardError:
        path = self.folder / self.names[shard]
        with self._lock:
            self._opened.pop(shard, None)
        with suppress(OSError):
            path.unlink()
        return DamagedShardError(path)


def with_checksums(tensors: Mapping[str, Tensor], keys: Sequence[bytes]) -> dict[str, Tensor]:
    """The tensors of a shard, with the keys of its rows and a CRC-32 of each row of each tensor."""
    checksums = {_CHECKSUMS + name: torch.tensor([_checksum(row) for row in tensor], dtype=torch.int64) for name, tensor in tensors.items()}
    row_keys = torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES).copy())
    return {**tensors, **checksums, ROW_KEYS: row_keys}


def keys_in(path: Path) -> list[bytes] | None:
    """The keys of the rows of a shard; None if there is none, if it is damaged, or if it was written before rows had keys."""
    try:
        header = read_header(path)
        if ROW_KEYS not in header.tensors:
            return None
        with path.open("rb") as file:
            data = read_tensor(file, header, ROW_KEYS).numpy().tobytes()
    except (InputError, OSError):
        return None
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def is_whole(path: Path) -> bool:
    """Whether a file lies there whose header is in order and fits its size."""
    try:
        read_header(path)
    except (InputError, OSError):
        return False
    return True


def rows_for(row_bytes: int) -> int:
    """Rows per shard: a power of two, at most SHARD_ROWS_LIMIT, near SHARD_TARGET_BYTES, so that making one takes bounded memory."""
    fitting = max(SHARD_TARGET_BYTES // max(row_bytes, 1), 1)
    return min(2 ** int(math.log2(fitting)), SHARD_ROWS_LIMIT)


def batches_of(plan: ShardPlan, report: Report, size: int) -> Iterator[Sequence[int]]:
    """The rows of a shard in batches for an encoder; reports each when the next is asked for."""
    for first in range(0, len(plan.rows), size):
        yield plan.rows[first : first + size]
        report(min(first + size, len(plan.rows)))


def _open(path: Path) -> _Opened:
    header = read_header(path)
    names = [name for name in header.tensors if name.startswith(_CHECKSUMS)]
    with path.open("rb") as file:
        return _Opened(header, {name.removeprefix(_CHECKSUMS): read_tensor(file, header, name).numpy() for name in names})


def _read_all(file: RawIOBase, memory: memoryview) -> int:
    """Bytes that were there; the system may give a large piece in several."""
    done = 0
    while done < len(memory) and (count := file.readinto(memory[done:])):
        done += count
    return done


def _checksum(row: Tensor) -> int:
    return zlib.crc32(row.contiguous().reshape(-1).view(torch.uint8).numpy().data)

"""The index of an encoded data set: one small file in place of a look into every shard, of which a few bytes a sample are held in memory.

Names, digests and captions stay on disk and are read with the samples that are asked for; where rows lie, and which sample has which text, is in
arrays of whole numbers. The file carries a checksum of all of it: a damaged index is made again, not believed.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files.header import Header, read_header
from ..files.tensors import CHUNK_BYTES, dtype_name, read_bytes, read_tensor, tensor_bytes
from ..files.write import lay_out, write_safetensors
from .shards import vanished

_CHUNK_ENTRIES = 1024
_META, _CHECKSUM = "index", "checksum"
_IN_MEMORY = ("row", "text ends", "text rows")


@dataclass(frozen=True)
class EncodedSample:
    """One picture with its caption, and where its tensors lie."""

    name: str
    digest: str
    caption: str
    row: int
    """Of its plain view; those of its other views follow."""
    text_row: int


@dataclass(frozen=True)
class Entry:
    """What the index keeps of one sample."""

    name: str
    digest: str
    row: int
    text_rows: Sequence[int]
    """Of its caption, or of the texts of which each epoch draws one."""
    group: int = 0
    """Number of its size."""
    rate: float = 1.0
    """Times per epoch."""


class IndexFile:
    """The samples of an index, read when asked for. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Raises:
        InputError: no index, or a damaged one.
        """
        self._header, self._state, self._lock = read_header(path), _state(path), threading.Lock()
        self.meta: dict[str, Any] = _meta(self._header)
        with path.open("rb") as file:
            _require_checksum(file, self._header)
            self._arrays = {name: read_tensor(file, self._header, name).numpy() for name in self._header.tensors if self._is_small(name)}

    def __len__(self) -> int:
        return len(self._arrays["row"])

    def array(self, name: str) -> np.ndarray | None:
        """One of the arrays that are held in memory; None if the index has none of that name."""
        return self._arrays.get(name)

    def required(self, name: str) -> np.ndarray:
        """As `array`, of an array that every index has.

        Raises:
            KeyError: this one has not.
        """
        return self._arrays[name]

    def text_rows(self, entry: int) -> np.ndarray:
        """The rows of a sample's texts."""
        ends = self._arrays["text ends"]
        return self._arrays["text rows"][int(ends[entry - 1]) if entry else 0 : int(ends[entry])]

    def samples(self, entries: Sequence[int] | np.ndarray) -> list[EncodedSample]:
        """Samples by their numbers, each with its first text."""
        with self._opened() as (file, header):
            return [self._sample(file, header, int(entry)) for entry in entries]

    def caption(self, text_row: int) -> str:
        """A text by its row."""
        with self._opened() as (file, header):
            return _text(file, header, "captions", text_row)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Header]]:
        """Raises:
        InputError: the index is gone.
        """
        try:
            header = self._fresh_header()
            with header.path.open("rb") as file:
                yield file, header
        except OSError as error:
            raise vanished(self._header.path, error) from error

    def _sample(self, file: Any, header: Header, entry: int) -> EncodedSample:
        text_row = int(self.text_rows(entry)[0])
        digest = _part(file, header, "digests", entry * 32, 32).numpy().tobytes().hex()
        caption = _text(file, header, "captions", text_row)
        return EncodedSample(_text(file, header, "names", entry), digest, caption, int(self._arrays["row"][entry]), text_row)

    def _is_small(self, name: str) -> bool:
        return name in _IN_MEMORY or name.startswith(("places of ", "part ", "rate", "group"))

    def _fresh_header(self) -> Header:
        """Another process may have written the same index anew, with rows in other places; what is read from it here has not changed."""
        path = self._header.path
        with self._lock:
            state = _state(path)
            if state != self._state:
                self._header, self._state = read_header(path), state
            return self._header


class SampleTable(Sequence[EncodedSample]):
    """Some of the samples of an index, as a sequence; nothing of them is held."""

    def __init__(self, index: IndexFile, entries: np.ndarray) -> None:
        self._index, self.entries = index, entries

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, place: int) -> EncodedSample: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[EncodedSample, ...]: ...

    def __getitem__(self, place: int | slice) -> EncodedSample | tuple[EncodedSample, ...]:
        if isinstance(place, slice):
            return tuple(self._index.samples(self.entries[place]))
        return self._index.samples([self.entries[place]])[0]

    def __iter__(self) -> Iterator[EncodedSample]:
        for first in range(0, len(self), _CHUNK_ENTRIES):
            yield from self._index.samples(self.entries[first : first + _CHUNK_ENTRIES])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleTable):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(len(self))


def write_index(path: Path, meta: Mapping[str, Any], entries: Sequence[Entry], captions: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an index.

    Args:
        path: of the file.
        meta: plain values that go with it.
        entries: the samples.
        captions: texts by their rows.
        arrays: further arrays that are to be held in memory, named `places of <part>` or `part <name>`.
    """
    names, name_ends = _blob([entry.name for entry in entries])
    texts, text_ends = _blob(captions)
    columns: dict[str, np.ndarray] = {
        "names": names, "names ends": name_ends, "captions": texts, "captions ends": text_ends,
        "digests": np.frombuffer(bytes.fromhex("".join(entry.digest for entry in entries)), np.uint8),
        "row": np.array([entry.row for entry in entries], np.int32),
        "text ends": np.cumsum([len(entry.text_rows) for entry in entries], dtype=np.int32),
        "text rows": np.array([row for entry in entries for row in entry.text_rows], np.int32),
        **arrays,
    }  # fmt: skip
    if any(entry.group for entry in entries):
        columns["group"] = np.array([entry.group for entry in entries], np.int16)
    if any(entry.rate != 1 for entry in entries):
        columns["rate"] = np.array([entry.rate for entry in entries], np.float32)
    tensors = {name: _tensor(column) for name, column in columns.items()}
    text = json.dumps(meta, ensure_ascii=True, separators=(",", ":"))
    write_safetensors(path, tensors, {_META: text, _CHECKSUM: str(_checksum_of(tensors, text))})


def _tensor(column: np.ndarray) -> Tensor:
    """In memory of its own; an empty array of numpy has strides that torch cannot view as bytes."""
    own = torch.from_numpy(np.ascontiguousarray(column).copy())
    return own if column.size else torch.zeros(column.shape, dtype=own.dtype)


def _blob(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    data = b"".join(parts)
    return np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8), np.cumsum([len(part) for part in parts], dtype=np.int64)


def _text(file: Any, header: Header, blob: str, number: int) -> str:
    ends = _part(file, header, f"{blob} ends", max(number - 1, 0) * 8, 8 if number == 0 else 16).view(torch.int64).tolist()
    first, end = (0, ends[0]) if number == 0 else ends
    return _part(file, header, blob, first, end - first).numpy().tobytes().decode("utf-8", "surrogatepass")


def _part(file: Any, header: Header, name: str, start: int, size_bytes: int) -> Tensor:
    return read_bytes(file, header, header.tensors[name].start + start, size_bytes)


@dataclass(frozen=True)
class IndexFacts:
    """What an index's header tells of it."""

    samples: int
    resolution_px: int
    shards: frozenset[str]
    """Names of the files that hold its rows."""


def shard_names(meta: Mapping[str, Any]) -> frozenset[str]:
    """The files that hold an index's rows. Raises KeyError, ValueError, TypeError or AttributeError where it is none."""
    return frozenset(str(name) for _, names, _ in meta["parts"].values() for name in names)


def index_facts(header: Header) -> IndexFacts:
    """Raises:
    InputError: it is no index.
    """
    meta = _meta(header)
    try:
        return IndexFacts(header.tensors["row"].shape[0], int(meta["resolution_px"]), shard_names(meta))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(header.path) from error


def _meta(header: Header) -> dict[str, Any]:
    try:
        meta = json.loads(header.metadata[_META])
    except (KeyError, ValueError) as error:
        raise _damaged(header.path) from error
    if not isinstance(meta, dict):
        raise _damaged(header.path)
    return meta


def _checksum_of(tensors: Mapping[str, Tensor], text: str) -> int:
    """Of the text and all data in the order in which they lie in the file."""
    order = lay_out({name: (dtype_name(name, tensor), tuple(tensor.shape)) for name, tensor in tensors.items()})
    checksum = zlib.crc32(text.encode("ascii"))
    for name in order:
        checksum = zlib.crc32(tensor_bytes(tensors[name]), checksum)
    return checksum


def _require_checksum(file: Any, header: Header) -> None:
    checksum = zlib.crc32(header.metadata[_META].encode("ascii"))
    end = max((info.end for info in header.tensors.values()), default=0)
    for start in range(0, end, CHUNK_BYTES):
        checksum = zlib.crc32(read_bytes(file, header, start, min(CHUNK_BYTES, end - start)).numpy().data, checksum)
    if header.metadata.get(_CHECKSUM) != str(checksum):
        raise _damaged(header.path)


def _damaged(path: Path) -> InputError:
    return InputError(str(path), expected="an index of encoded data", found="something else", remedy="Encode again: it is made anew.")


def _state(path: Path) -> tuple[int, int, int]:
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns

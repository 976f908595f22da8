"""What a safetensors file says it holds: names, dtypes, shapes and places, read from its header alone and trusted in nothing.

The format: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data, which the
tensors must cover exactly, without gap or overlap (https://github.com/huggingface/safetensors#format). No torch here: a command
that only looks at a file should not wait for it.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 100_000_000
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
_FOREIGN_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a PyTorch pickle archive (.ckpt, .pt, .bin)"),
    (b"\x80\x02", "a Python pickle (.ckpt, .pt, .bin)"),
    (b"\x80\x03", "a Python pickle (.ckpt, .pt, .bin)"),
    (b"\x80\x04", "a Python pickle (.ckpt, .pt, .bin)"),
    (b"\x80\x05", "a Python pickle (.ckpt, .pt, .bin)"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer: the real file was never downloaded"),
    (b"<!doctype html", "a web page, probably saved in place of a download that needs a login"),
    (b"<html", "a web page, probably saved in place of a download that needs a login"),
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: safetensors dtype name, shape, and the bytes [start, end) that it takes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """A checked header. `data_start` is where offset 0 lies in the file; `tensors` are in the file's own order of names."""

    path: Path
    size_bytes: int
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self.tensors.items()}


def read_header(path: str | Path) -> Header:
    """Reads and checks the header of a safetensors file, without touching its data.

    Raises:
        InputError: the file is missing, a folder, unreadable, another format, or its header is damaged or hostile.
    """
    path = require_file(path)
    size_bytes = path.stat().st_size
    text = _header_text(path, size_bytes)
    tensors, metadata = _parse(path, text)
    data_start = LENGTH_BYTES + len(text)
    _require_exact_cover(path, tensors, size_bytes - data_start)
    return Header(path, size_bytes, tensors, metadata, data_start)


def require_file(path: str | Path) -> Path:
    """The path, if a readable file lies there.

    Raises:
        InputError: nothing is there, or a folder, or it may not be read.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(str(path), expected="one safetensors file", found="a folder", remedy=_folder_remedy(path))
    if not os.path.isfile(path):
        raise InputError(str(path), expected="a safetensors file", found="no such file", remedy="Check the path.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(str(path), expected="a readable file", found=error.strerror, remedy="Check its permissions.") from error
    return path


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a packed tensor of this dtype and shape; None if its bits do not fill whole bytes."""
    size_bytes, rest = divmod(math.prod(shape) * DTYPE_BITS[dtype], 8)
    return None if rest else size_bytes


def printable(name: str, limit: int = 200) -> str:
    """A name out of a file, safe to show in a terminal: no control characters, not endless."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= limit else text[:limit] + "..."


def _folder_remedy(path: Path) -> str:
    inside = sorted(child.name for child in path.iterdir() if child.suffix == ".safetensors")
    if not inside:
        return "Name a .safetensors file."
    return f"Name one of the files inside it, e.g. {printable(inside[0])}."


def _header_text(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        beginning = file.read(64)
        # A header's length may begin with the very bytes of another format, so these count only where no JSON follows.
        if beginning[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
            _require_no_other_format(path, beginning)
            found = f"bytes that begin with {beginning[:16]!r}" if beginning else "an empty file"
            raise _damaged(path, f"{LENGTH_BYTES} bytes of length and a JSON header", found)
        (length,) = struct.unpack("<Q", beginning[:LENGTH_BYTES])
        _require_sane_length(path, length, size_bytes)
        file.seek(LENGTH_BYTES)
        return file.read(length)


def _require_no_other_format(path: Path, beginning: bytes) -> None:
    for magic, name in _FOREIGN_BEGINNINGS:
        if beginning.lower().startswith(magic.lower()):
            remedy = "Pickles can run code and are never loaded: ask for a safetensors edition of this file." if "ickle" in name else (
                "Download or export the model as safetensors.")
            raise InputError(str(path), expected="a safetensors file", found=name, remedy=remedy)


def _require_sane_length(path: Path, length: int, size_bytes: int) -> None:
    if length > HEADER_LIMIT_BYTES:
        raise _damaged(path, f"a header of at most {HEADER_LIMIT_BYTES:,} bytes", f"a header length of {length:,}")
    if length < 2 or LENGTH_BYTES + length > size_bytes:
        raise _damaged(path, f"a header that fits in the file's {size_bytes:,} bytes", f"a header length of {length:,}")


def _parse(path: Path, text: bytes) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "a JSON header", f"text that cannot be read ({printable(str(error))})") from error
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    return {name: _tensor_info(path, name, entry) for name, entry in entries.items()}, metadata


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("the same name twice")
    return result


def _metadata(path: Path, entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise _damaged(path, "metadata that maps text to text", printable(repr(entry)))
    return entry


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    _require_text(path, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"dtype, shape and data_offsets for {printable(name)!r}", printable(repr(entry)))
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _damaged(path, "a known dtype", f"{printable(repr(dtype))} for {printable(name)!r}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _damaged(path, "whole numbers from 0", f"shape {shape!r:.80}, data_offsets {offsets!r:.80} for {printable(name)!r}")
    info = TensorInfo(dtype, tuple(shape), *offsets)
    if info.size_bytes != bytes_of(dtype, info.shape):
        raise _damaged(path, f"offsets that match {dtype} {list(info.shape)}", f"[{info.start}, {info.end}) for {printable(name)!r}")
    return info


def _require_text(path: Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _damaged(path, "names in Unicode", f"a half character in {printable(name)!r}") from error


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _require_exact_cover(path: Path, tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != position:
            fault = "overlaps another tensor" if info.start < position else "leaves a gap before it"
            raise _damaged(path, f"{printable(name)!r} to start at byte {position}", f"{info.start}: it {fault}")
        position = info.end
    if position > data_bytes:
        raise _damaged(path, f"{position:,} bytes of data", f"{data_bytes:,}: the file is cut off")
    if position < data_bytes:
        raise _damaged(path, f"{position:,} bytes of data", f"{data_bytes:,}: there is data that no tensor names")


def _damaged(path: Path, expected: str, found: str) -> InputError:
    return InputError(str(path), expected=expected, found=found, remedy="The file is damaged or not safetensors: download it again.")

"""Writing files that appear whole or not at all: written aside in the same folder, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..byte_sizes import shown_size
from ..errors import InputError
from .header import LENGTH_BYTES, TensorInfo, bytes_of
from .tensors import dtype_name, tensor_bytes

# Files left by a killed process carry this beginning; whoever owns a folder may remove them.
PART_BEGINNING = ".graft-part-"
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replaced_when_complete(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same suffix), which takes the place of `path` when the block ends without an error.

    Folders on the way are made. On any error, an interrupt included, nothing changes at `path`.

    Raises:
        InputError: the disk is full, or the folder or file may not be written.
    """
    path = Path(path)
    aside = path.with_name(f"{PART_BEGINNING}{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _flush(aside)
        os.replace(aside, path)
        flush_folder(path.parent)
    except OSError as error:
        raise explained(path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors to one safetensors file, atomically. The same content always gives the same bytes.

    Raises:
        InputError: a dtype that safetensors cannot hold, or the file cannot be written.
    """
    infos = lay_out({name: (dtype_name(name, tensor), tuple(tensor.shape)) for name, tensor in tensors.items()})
    with replaced_when_complete(path) as aside, aside.open("wb") as file:
        file.write(header_bytes(infos, metadata or {}))
        for name in infos:
            file.write(tensor_bytes(tensors[name]))


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON in UTF-8, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes bytes to a file, atomically."""
    with replaced_when_complete(path) as aside:
        aside.write_bytes(data)


def write_plain(path: str | Path, data: bytes) -> None:
    """Writes bytes straight to a file: for many small files that can be made again and count only once another file says so.

    Raises:
        InputError: the disk is full, or the file may not be written; a part of it may be there then.
    """
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise explained(Path(path), error) from error


def lay_out(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, TensorInfo]:
    """Places for tensors given as {name: (dtype, shape)}: wide dtypes first, so that all lie aligned, then by name."""
    infos: dict[str, TensorInfo] = {}
    position = 0
    for name, (dtype, shape) in sorted(entries.items(), key=lambda item: (-(bytes_of(item[1][0], (1,)) or 0), item[0])):
        size_bytes = bytes_of(dtype, shape)
        assert size_bytes is not None, f"{name}: {dtype} {shape} does not fill whole bytes"
        infos[name] = TensorInfo(dtype, shape, position, position + size_bytes)
        position += size_bytes
    return infos


def header_bytes(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a safetensors file: length and JSON, padded with spaces to a multiple of 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for name, info in infos.items():
        entries[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [info.start, info.end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def require_writable_folder(path: str | Path, input_name: str) -> Path:
    """The folder's path, if files can be written there (it may not exist yet); leaves nothing behind.

    Raises:
        InputError: a file lies in the way, or the folder, or the nearest one above it, may not be written.
    """
    path = Path(path)
    nearest = _nearest_existing(path)
    if not nearest.is_dir():
        raise InputError(input_name, expected="a folder", found=f"the file {nearest}", remedy="Choose another folder.")
    probe = nearest / f"{PART_BEGINNING}{secrets.token_hex(8)}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        found = f"{path}, where {nearest} cannot be written ({error.strerror})"
        raise InputError(input_name, expected="a folder that can be written", found=found, remedy="Choose another folder.") from error
    return path


def require_free_space(folder: str | Path, size_bytes: int, input_name: str) -> None:
    """Checks that the disk under a folder (which may not exist yet) has room for `size_bytes` more.

    Raises:
        InputError: it has not.
    """
    nearest = _nearest_existing(Path(folder))
    free_bytes = shutil.disk_usage(nearest).free
    if free_bytes < size_bytes:
        raise InputError(
            input_name, expected=f"{shown_size(size_bytes)} free in {nearest}", found=f"{shown_size(free_bytes)}",
            remedy="Free some space or choose a folder on another disk.",
        )  # fmt: skip


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if os.path.exists(candidate))


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Makes the rename itself outlast a power cut; Windows can neither open nor flush a folder."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explained(path: Path, error: OSError) -> Exception:
    """What to raise in place of an error of the file system: an InputError for a full disk or a missing right, else the error itself."""
    if error.errno in _DISK_FULL:
        return InputError(str(path), expected="room on the disk", found=error.strerror, remedy="Free some space; nothing was changed.")
    if error.errno in _NOT_ALLOWED or isinstance(error, (NotADirectoryError, FileExistsError)):
        remedy = "Choose another folder, or close the program that has the file open."
        return InputError(str(path), expected="a file that can be written", found=error.strerror, remedy=remedy)
    return error

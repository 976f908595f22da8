"""A fingerprint of weights: equal if and only if names, shapes, dtypes and bytes are. For a file it is remembered."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .header import Header, read_header
from .tensors import CHUNK_BYTES, dtype_name, read_bytes, tensor_bytes
from .write import write_json

_log = logging.getLogger(__name__)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over the tensors in order of name: name, dtype, shape, bytes, each with its length before it."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        data = tensor_bytes(tensor)
        digest.update(_introduction(name, dtype_name(name, tensor), tuple(tensor.shape), data.nbytes))
        digest.update(data)
    return digest.hexdigest()


def file_fingerprint(path: str | Path, cache_folder: str | Path, progress: Progress = NO_PROGRESS) -> str:
    """`fingerprint` of all tensors of a safetensors file, in constant memory; remembered by path, size and modification time.

    Raises:
        InputError: the file is missing or damaged.
    """
    header = read_header(path)
    facts = {"path": str(header.path.resolve()), "size_bytes": header.size_bytes}
    return remembered_under(Path(cache_folder) / f"{_identity(header)}.json", facts, lambda: _digest_file(header, progress))


def remembered_under(note: Path, facts: Mapping[str, Any], make: Callable[[], str]) -> str:
    """The fingerprint that the file `note` keeps; made, and kept there beside `facts` about it, if there is none or it is damaged."""
    remembered = _remembered(note)
    if remembered is None:
        remembered = make()
        _remember(note, facts, remembered)
    return remembered


def _introduction(name: str, dtype: str, shape: tuple[int, ...], size_bytes: int) -> bytes:
    text = json.dumps([name, dtype, list(shape), size_bytes]).encode("ascii")
    return len(text).to_bytes(8, "little") + text


def _digest_file(header: Header, progress: Progress) -> str:
    digest = hashlib.sha256()
    progress.start(len(header.tensors), "tensor")
    try:
        with header.path.open("rb") as file:
            for done, name in enumerate(sorted(header.tensors), start=1):
                info = header.tensors[name]
                digest.update(_introduction(name, info.dtype, info.shape, info.size_bytes))
                for start in range(info.start, info.end, CHUNK_BYTES):
                    progress.check_interrupt()
                    digest.update(tensor_bytes(read_bytes(file, header, start, min(CHUNK_BYTES, info.end - start))))
                progress.advance(done)
    finally:
        progress.finish()
    return digest.hexdigest()


def _identity(header: Header) -> str:
    state = header.path.stat()
    text = json.dumps([str(header.path.resolve()), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:40]


def _remembered(note: Path) -> str | None:
    try:
        value = json.loads(note.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not remembered, or damaged: it is computed again
    return value if isinstance(value, str) and len(value) == 64 else None


def _remember(note: Path, facts: Mapping[str, Any], value: str) -> None:
    try:
        write_json(note, {**facts, "fingerprint": value})
    except (InputError, OSError, UnicodeEncodeError) as error:
        _log.warning("the fingerprint of %s could not be remembered and will be computed again next time: %s", dict(facts), error)

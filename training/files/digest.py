"""The checksum of a file's bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .tensors import CHUNK_BYTES


def sha256_of(path: str | Path) -> str:
    """SHA-256 in hexadecimal, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

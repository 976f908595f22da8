"""The checksum of a file's bytes, and remembering it within the process."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

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


class Stamp(NamedTuple):
    """What tells, without reading it, that a file is the one that was read before."""

    path: str
    size_bytes: int
    modified_ns: int


SETTLED_NS = 2_000_000_000
"""A file that was written less than this ago may be written again without its time showing it: clocks of file systems are coarse."""
REMEMBERED_LIMIT = 200_000


class KnownDigests:
    """Digests of files that have not changed since they were read, for as long as the process lives."""

    def __init__(self) -> None:
        self._digests: dict[Stamp, str] = {}

    def recall(self, stamp: Stamp) -> str | None:
        return self._digests.get(stamp)

    def remember(self, stamp: Stamp, digest: str) -> None:
        """`stamp` is from before the file was read; a file that is not settled yet is not remembered."""
        if time.time_ns() - stamp.modified_ns < SETTLED_NS:
            return
        if len(self._digests) >= REMEMBERED_LIMIT:
            self._digests.clear()
        self._digests[stamp] = digest

    def sha256_of(self, path: str | Path) -> str:
        """As the function `sha256_of`, read only if the file is new or has changed.

        Raises:
            OSError: the file cannot be read.
        """
        stamp = stamp_of(path)
        digest = self.recall(stamp)
        if digest is None:
            digest = sha256_of(path)
            self.remember(stamp, digest)
        return digest


def stamp_of(path: str | Path) -> Stamp:
    """
    Raises:
        OSError: there is no such file.
    """
    state = os.stat(path)
    return Stamp(os.path.abspath(path), state.st_size, state.st_mtime_ns)

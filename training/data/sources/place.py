"""Where the bytes of a picture or a caption lie. Small values: whoever holds a million of them holds no picture."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...files.digest import Stamp, stamp_of
from ..picture import FILE_LIMIT_BYTES, decode_picture, read_file
from ..picture_header import UnreadablePictureError, VanishedPictureError


class Place(Protocol):
    """Where one picture lies."""

    def picture(self, digest: str) -> np.ndarray:
        """The upright picture in its own size, uint8 RGB [H, W, 3].

        Args:
            digest: SHA-256 that the picture is known by.

        Raises:
            VanishedPictureError: it cannot be read any more, or is no longer the one that was scanned.
            UnreadablePictureError: it cannot be decoded.
        """


class BytesPlace:
    """A place whose content is a file of its own, or a part of one."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The last part of its name, for messages."""
        raise NotImplementedError

    def read(self) -> bytes:
        """Raises:
        UnreadablePictureError: it cannot be opened, or is larger than FILE_LIMIT_BYTES.
        """
        raise NotImplementedError

    def stamp(self) -> Stamp:
        """What tells without reading that the content is the same as before.

        Raises:
            OSError: it is gone.
        """
        raise NotImplementedError

    def picture(self, digest: str) -> np.ndarray:
        """As `Place.picture`."""
        return decode_picture(self.whole(digest))

    def whole(self, digest: str) -> bytes:
        """The bytes that are known by this SHA-256.

        Raises:
            VanishedPictureError: they cannot be read, or are others by now.
        """
        try:
            data = self.read()
        except UnreadablePictureError as error:
            raise VanishedPictureError(str(error)) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise VanishedPictureError("was changed while it was in use")
        return data


@dataclass(frozen=True, slots=True)
class FilePlace(BytesPlace):
    """A file of its own."""

    path: str

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def read(self) -> bytes:
        return read_file(Path(self.path))

    def stamp(self) -> Stamp:
        return stamp_of(self.path)


@dataclass(frozen=True, slots=True)
class PartPlace(BytesPlace):
    """Consecutive bytes of a larger file: a member of a tar archive that is not compressed."""

    path: str
    start_bytes: int
    size_bytes: int
    member: str

    @property
    def name(self) -> str:
        return f"{os.path.basename(self.path)}/{self.member}"

    def read(self) -> bytes:
        if self.size_bytes > FILE_LIMIT_BYTES:
            raise UnreadablePictureError(f"is larger than {FILE_LIMIT_BYTES:,} bytes")
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start_bytes)
                data = file.read(self.size_bytes)
        except OSError as error:
            raise UnreadablePictureError(f"cannot be opened ({error.strerror})") from error
        if len(data) < self.size_bytes:
            raise UnreadablePictureError("is truncated: the archive ends inside it")
        return data

    def stamp(self) -> Stamp:
        whole = stamp_of(self.path)
        return Stamp(f"{whole.path}#{self.start_bytes}+{self.size_bytes}", whole.size_bytes, whole.modified_ns)

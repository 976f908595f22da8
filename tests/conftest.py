"""What tests of all rooms need."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def spoil_png() -> Callable[[Path], None]:
    """Makes a PNG one that is whole by its chunks and checksums, and whose pixels cannot be unpacked."""

    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        place = data.index(b"IDAT")
        end = place + 4 + int.from_bytes(data[place - 4 : place], "big")
        data[place + 4 : end] = bytes(value ^ 85 for value in data[place + 4 : end])
        data[end : end + 4] = zlib.crc32(bytes(data[place:end])).to_bytes(4, "big")
        path.write_bytes(bytes(data))

    return spoil

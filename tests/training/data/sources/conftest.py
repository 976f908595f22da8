"""Pictures in every layout, written by Pillow, tarfile and csv themselves, and one way to look at what a source gives."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from graft.training.data.known import KnownFiles
from graft.training.data.picture_set import PictureSet
from graft.training.data.sources.record import Source
from PIL import Image

Draw = Callable[..., Image.Image]


class Seen:
    """What a source gives: captions by name, problems by name, and the samples themselves."""

    def __init__(self, source: Source, **settings: object) -> None:
        found = list(PictureSet(source=source, resolution_px=32, **settings).look(KnownFiles()))  # type: ignore[arg-type]
        self.samples = {entry.name: entry for entry in found if hasattr(entry, "digest")}
        self.captions = {name: sample.caption for name, sample in self.samples.items()}
        self.problems = {entry.name: entry.what for entry in found if not hasattr(entry, "digest")}


@pytest.fixture
def look() -> Callable[..., Seen]:
    return Seen


@pytest.fixture
def png(draw_picture: Draw) -> Callable[..., bytes]:
    """The bytes of a picture of its own for every number."""

    def make(number: int, **size: int) -> bytes:
        buffer = io.BytesIO()
        draw_picture(number, **size).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file under the test's folder, folders on the way included."""

    def make(name: str, data: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        return path

    return make

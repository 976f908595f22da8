"""How encoding tells what it does and is stopped, and the memory that it uses again meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graft.training.data.encode_pass import to_pixels
from graft.training.data.folder import ImageFolder
from graft.training.data.sources.scan import look_at

MakeFolder = Callable[..., Path]
RESOLUTION_PX = 32


@pytest.fixture
def dataset(make_folder: MakeFolder) -> ImageFolder:
    return ImageFolder(make_folder(11), resolution_px=RESOLUTION_PX, held_out=3)


def test_pixels_are_the_picture_in_memory_that_was_there() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    pixels = np.full((2, 3, 24, 16), 7.0, np.float32)
    to_pixels(picture, pixels[1])
    assert torch.equal(torch.from_numpy(pixels[1]), torch.from_numpy(picture).permute(2, 0, 1).float() / 255) and (pixels[0] == 7).all()


def test_cancelling_through_the_progress_interface(dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    class Cancels:
        calls, finished = 0, False

        def start(self, total: int, unit: str) -> None: ...
        def advance(self, done: int, **values: float) -> None: ...

        def finish(self) -> None:
            self.finished = True

        def check_interrupt(self) -> None:
            self.calls += 1
            if self.calls > 2:  # one of them after the scan
                raise KeyboardInterrupt

    listener = Cancels()
    with pytest.raises(KeyboardInterrupt):
        encoders.encode(dataset, tmp_path / "encoded", progress=listener)
    assert listener.finished and len(list((tmp_path / "encoded").glob("*.safetensors"))) == 3  # colours, latents and edges of one shard


def test_a_scan_is_shown_can_be_cancelled_and_is_not_begun_again(make_folder: MakeFolder, encoders: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder = make_folder(9)
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # written long ago
    monkeypatch.setattr("graft.training.data.sources.scan.LOOKED_AT_TOGETHER", 4)
    looked: list[str] = []
    monkeypatch.setattr("graft.training.data.sources.scan.look_at", lambda data: looked.append(len(data)) or look_at(data))

    class Stops:
        def __init__(self, checks: int) -> None:
            self.checks, self.shown = checks, []

        def start(self, total: int, unit: str) -> None:
            self.shown.append((total, unit))

        def advance(self, done: int, **values: float) -> None:
            self.shown.append(done)

        def finish(self) -> None:
            self.shown.append("finished")

        def check_interrupt(self) -> None:
            self.checks -= 1
            if self.checks < 0:
                raise KeyboardInterrupt

    listener = Stops(checks=1)
    with pytest.raises(KeyboardInterrupt):
        encoders.encode(ImageFolder(folder, resolution_px=RESOLUTION_PX), tmp_path / "encoded", progress=listener)
    assert listener.shown == [(9, "picture"), 4, "finished"] and len(looked) == 8 and encoders.pictures == 0
    encoders.encode(ImageFolder(folder, resolution_px=RESOLUTION_PX), tmp_path / "encoded")
    assert len(looked) == 9 and encoders.pictures == 9


def test_progress_counts_every_row_of_every_part(dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    class Listens:
        def __init__(self) -> None:
            self.parts: list[list[Any]] = []

        def start(self, total: int, unit: str) -> None:
            self.parts.append([unit, total, 0])

        def advance(self, done: int, **values: float) -> None:
            assert self.parts[-1][2] <= done <= self.parts[-1][1]
            self.parts[-1][2] = done

        def finish(self) -> None: ...
        def check_interrupt(self) -> None: ...

    listener = Listens()
    encoders.encode(dataset, tmp_path / "encoded", progress=listener)
    assert [part[:2] for part in listener.parts] == [["picture", 11], ["picture", 11], ["caption", 1], ["caption", 11]]
    assert all(total == done for _, total, done in listener.parts)

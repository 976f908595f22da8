"""One pass over pictures: each is read once for all that is made of it, ahead of the autoencoder, and no more of them than fit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from graft.training.data import encode_pass
from graft.training.data.dataset import Problem
from graft.training.data.encode_latents import Autoencoder
from graft.training.data.encode_pass import Drawn, Latents, PicturePass, unreadable_rows
from graft.training.data.shards import Rows
from graft.training.data.shelf import Kind, Shelf
from graft.training.flux_space import LatentSpace
from graft.training.progress import NO_PROGRESS

SIDE_PX = 16
ROWS_PER_SHARD = 4


class Colours:
    """A picture is of one colour, that of its number; its second view is darker by 100."""

    views = 2

    def __init__(self, count: int, bad: Sequence[int] = ()) -> None:
        self.count, self.bad, self.reads, self.lock = count, bad, [], threading.Lock()
        self.skips = True

    def size_of(self, row: int) -> tuple[int, int]:
        return SIDE_PX, SIDE_PX

    def name_of(self, row: int) -> str:
        return str(row // 2)

    def read(self, rows: Sequence[int]) -> list[np.ndarray] | Problem:
        with self.lock:
            self.reads.append(rows[0] // 2)
        if rows[0] // 2 in self.bad:
            return Problem(self.name_of(rows[0]), "is torn")
        return [np.full((SIDE_PX, SIDE_PX, 3), 101 + row // 2 - 100 * (row % 2), np.uint8) for row in rows]

    def note(self, problems: Sequence[Problem]) -> bool:
        return not self.skips


def colour(_: int, picture: np.ndarray) -> np.ndarray:
    return picture[0, 0]


def brighter(_: int, picture: np.ndarray, variant: int) -> np.ndarray:
    return picture + np.uint8(variant)


def run(source: Colours, folder: Path, encode: Callable[[torch.Tensor], torch.Tensor] | None = None, variants: int = 3) -> dict[str, Rows]:
    autoencoder = Autoencoder(encode or (lambda pixels: torch.nn.functional.avg_pool2d(pixels, 8) * 255), "means", LatentSpace(0.0, 1.0))
    contents = list(range(2 * source.count))
    outputs = [
        Drawn(Kind("drawn", contents), "drawn", colour), Latents(Kind("plain", contents), "plain"),
        Latents(Kind("several", contents), "several", brighter, variants),
    ]  # fmt: skip
    return PicturePass(source, outputs, autoencoder).rows(Shelf(folder, NO_PROGRESS), ROWS_PER_SHARD, "picture", None)


def wanted(row: int) -> int:
    return 101 + row // 2 - 100 * (row % 2)


def test_every_picture_is_read_once_for_everything_and_all_its_views(tmp_path: Path) -> None:
    source = Colours(7)
    rows = run(source, tmp_path)
    assert sorted(source.reads) == list(range(7))
    for row in range(14):
        assert rows["drawn"].read("drawn", row).tolist() == [wanted(row)] * 3
        assert rows["plain"].read("plain", row).round().int().unique().tolist() == [wanted(row)]
        several = rows["several"].read("several", row)
        assert several.shape == (3, 3, 2, 2) and [int(one.mean().round()) for one in several] == [wanted(row) + variant for variant in range(3)]
    assert run(source, tmp_path) and len(source.reads) == 7, "all of it lies there"


def test_all_views_of_a_picture_are_made_of_one_reading_however_much_is_encoded_of_each(tmp_path: Path) -> None:
    source = Colours(4)
    rows = run(source, tmp_path, variants=20)
    assert sorted(source.reads) == [0, 1, 2, 3] and rows["several"].read("several", 7).shape == (20, 3, 2, 2)


def test_only_what_is_missing_is_made_of_a_picture(tmp_path: Path) -> None:
    source, encoded = Colours(2), []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return torch.nn.functional.avg_pool2d(pixels, 8)

    run(source, tmp_path, encode)
    for path in tmp_path.glob("plain-*"):
        path.unlink()
    encoded.clear()
    run(source, tmp_path, encode)
    assert sum(encoded) == 4 and len(source.reads) == 4
    for path in tmp_path.glob("drawn-*"):
        path.unlink()
    run(source, tmp_path, encode)
    assert sum(encoded) == 4 and len(source.reads) == 6


def test_a_picture_that_cannot_be_read_is_black_and_said_to_be(tmp_path: Path) -> None:
    rows = run(Colours(5, bad=[3]), tmp_path)
    assert [int(rows["drawn"].read("drawn", row)[0]) for row in range(10)] == [0 if row // 2 == 3 else wanted(row) for row in range(10)]
    for each in rows.values():
        assert unreadable_rows(each) == {each.place_of(6): "is torn", each.place_of(7): "is torn"}


def test_from_the_first_that_spoils_all_the_rest_is_only_looked_at(tmp_path: Path) -> None:
    source, encoded = Colours(9, bad=[2, 8]), []
    source.skips = False

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return torch.nn.functional.avg_pool2d(pixels, 8)

    run(source, tmp_path, encode)
    assert sorted(source.reads) == list(range(9)) and sum(encoded) == 4 * (1 + 3), "the first shard has no bad picture"
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_threads_read_across_the_ends_of_shards_while_the_autoencoder_works(tmp_path: Path) -> None:
    source, seen = Colours(12), []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        ends = time.monotonic() + 5
        while len(source.reads) < 3 and time.monotonic() < ends:  # the first shard holds two pictures
            time.sleep(0.005)
        seen.append(len(source.reads))
        return torch.nn.functional.avg_pool2d(pixels, 8)

    run(source, tmp_path, encode)
    assert seen[0] >= 3


def test_what_waits_for_the_autoencoder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_row = 4 * 4 * 3 * SIDE_PX * SIDE_PX  # encoded four times
    monkeypatch.setattr(encode_pass, "AHEAD_BYTES", 4 * one_row)
    monkeypatch.setattr(encode_pass, "worker_count", lambda: 64)
    source, most = Colours(20), []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(0.03)
        most.append(len(source.reads) - 2 * len(most))
        return torch.nn.functional.avg_pool2d(pixels, 8)

    run(source, tmp_path, encode)
    assert max(most) <= 2 * 2, "two pictures make a batch: one is at work and one waits"


def test_an_error_of_the_autoencoder_ends_the_threads(tmp_path: Path) -> None:
    source = Colours(200)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path, encode)
    assert len(source.reads) < 40 and not [thread for thread in threading.enumerate() if thread.name.startswith("graft-pictures")]

"""Rows are made once for all data sets and processes, single rows when single pictures change, and what was damaged on the disk is made again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graft.training.data.folder import ImageFolder
from graft.training.data.shards import _HEADERS_KEPT, DamagedShardError, Rows, Shard, ShardPlan, keys_in
from graft.training.data.shelf import Kind, Shelf
from graft.training.errors import InputError
from graft.training.progress import NO_PROGRESS

MakeFolder = Callable[..., Path]


class Numbers:
    """Makes rows of numbers; remembers which."""

    def __init__(self, folder: Path) -> None:
        self.shelf, self.made = Shelf(folder, NO_PROGRESS), []

    def rows(self, contents: list[int], groups: list[int] | None = None) -> Rows:
        def make(plan: ShardPlan, report: Callable[[int], None]) -> Shard:
            self.made.append([contents[row] for row in plan.rows])
            return {"numbers": torch.tensor([[float(contents[row])] * 3 for row in plan.rows])}, {}

        return self.shelf.rows("numbers", contents, 4, make, "number", "setup", groups=groups)


def values(rows: Rows) -> list[float]:
    return [float(rows.read("numbers", row)[0]) for row in range(len(rows))]


def test_only_what_is_missing_is_made_wherever_it_stands(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path)
    assert values(numbers.rows([1, 2, 3, 4, 5])) == [1, 2, 3, 4, 5] and numbers.made == [[1, 2, 3, 4], [5]]
    assert values(numbers.rows([9, 5, 4, 8, 1])) == [9, 5, 4, 8, 1] and numbers.made[2:] == [[9, 8]]
    assert values(numbers.rows([8, 9, 2])) == [8, 9, 2] and len(numbers.made) == 3


def test_the_same_content_is_made_once(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path)
    assert values(numbers.rows([7, 7, 3, 7])) == [7, 7, 3, 7] and numbers.made == [[7, 3]]


def test_rows_of_one_file_are_of_one_group(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path)
    assert values(numbers.rows([1, 2, 3, 4, 5, 6], groups=[0, 1, 0, 1, 0, 0])) == [1, 2, 3, 4, 5, 6]
    assert numbers.made == [[1, 3, 5, 6], [2, 4]]


def test_a_flipped_bit_is_noticed_and_its_file_removed_and_made_again(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path)
    rows = numbers.rows([1, 2, 3, 4, 5])
    path = tmp_path / rows.names[0]
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(3).tobytes())] ^= 1
    path.write_bytes(data)
    assert [float(rows.read("numbers", row)[0]) for row in (0, 1, 3, 4)] == [1, 2, 4, 5]
    with pytest.raises(DamagedShardError, match="checksum"):
        rows.read("numbers", 2)
    assert not path.exists()
    assert values(numbers.rows([1, 2, 3, 4, 5])) == [1, 2, 3, 4, 5] and numbers.made[2:] == [[1, 2, 3, 4]]


@pytest.mark.parametrize("content", [b"", b"damaged", b"{}" * 50])
def test_files_that_are_none_are_passed_over_and_replaced(tmp_path: Path, content: bytes) -> None:
    numbers = Numbers(tmp_path)
    (tmp_path / numbers.rows([1, 2]).names[0]).write_bytes(content)
    assert values(numbers.rows([1, 2])) == [1, 2] and numbers.made == [[1, 2], [1, 2]]


def test_the_memory_of_headers_has_an_end(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path)
    rows = numbers.rows(list(range(12)))
    many = Rows(rows.folder, rows.names * 300, rows.stride, np.arange(900 * rows.stride, dtype=np.int32)[:: rows.stride])
    assert [float(many.read("numbers", row)[0]) for row in range(900)] == [0.0, 4.0, 8.0] * 300
    assert len(many._opened) == _HEADERS_KEPT < 900


def test_two_at_once_do_not_spoil_one_another(make_folder: MakeFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    dataset, results = ImageFolder(make_folder(13), resolution_px=32, held_out=2), []
    together = threading.Barrier(2)

    def encode() -> None:
        together.wait()
        results.append(encoders.encode(dataset, tmp_path / "encoded"))

    threads = [threading.Thread(target=encode) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = encoders.encode(dataset, tmp_path / "elsewhere")
    assert len(results) == 2 and results[0].key == results[1].key == alone.key
    for encoded in results:
        assert torch.equal(encoded.latents(list(encoded.train)), alone.latents(list(alone.train)))
    assert not list((tmp_path / "encoded").glob(".graft-part-*"))


def test_a_changed_or_added_picture_is_encoded_alone(
    make_folder: MakeFolder, draw_picture: Callable[[int], Any], encoders: Any, tmp_path: Path, small_shards: int
) -> None:
    dataset = ImageFolder(make_folder(11), resolution_px=32)
    encoders.encode(dataset, tmp_path / "encoded")
    draw_picture(77).save(dataset.path / "0003.png")
    draw_picture(78).save(dataset.path / "0000 before all others.png")
    (dataset.path / "0000 before all others.txt").write_text("new", "utf-8")
    encoders.captions.clear()
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 11 + 2 and encoders.captions == ["new"]
    fresh = encoders.encode(dataset, tmp_path / "elsewhere")
    assert torch.equal(encoded.latents(list(encoded.train)), fresh.latents(list(fresh.train)))
    assert torch.equal(encoded.text(list(encoded.train))[0], fresh.text(list(fresh.train))[0])


def test_what_is_made_together_is_found_and_made_again_apart(tmp_path: Path) -> None:
    asked: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def make(plans: Any, report: Callable[[int], None]) -> Any:
        for plan in plans:
            asked.append((plan.rows, plan.kinds))
            report(len(plan.rows))
            yield {kind: ({"numbers": torch.tensor([[float(row)] * 3 for row in plan.rows])}, {"of": kind}) for kind in plan.kinds}

    def rows(*setups: str, count: int = 5) -> dict[str, Rows]:
        kinds = [Kind(name, list(range(count)), (setup,)) for name, setup in zip(("squares", "roots"), setups, strict=True)]
        return Shelf(tmp_path, NO_PROGRESS).together(kinds, 4, make, "number")

    first = rows("a", "a")
    assert asked == [((0, 1, 2, 3), ("squares", "roots")), ((4,), ("squares", "roots"))] and [*map(values, first.values())] == [[0, 1, 2, 3, 4]] * 2
    asked.clear()
    assert {*rows("a", "b")["squares"].names} == {*first["squares"].names} and asked == [((0, 1, 2, 3), ("roots",)), ((4,), ("roots",))]
    asked.clear()
    (tmp_path / first["squares"].names[1]).unlink()
    assert values(rows("a", "a", count=6)["squares"]) == [0, 1, 2, 3, 4, 5] and asked == [((4,), ("squares",)), ((5,), ("squares", "roots"))]


def test_room_is_asked_for_what_is_missing_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(plans: Any, report: Callable[[int], None]) -> Any:
        for plan in plans:
            sizes = {"large": 1000, "small": 10}
            yield {kind: ({"numbers": torch.zeros(len(plan.rows), sizes[kind], dtype=torch.uint8)}, {}) for kind in plan.kinds}

    def rows(large: list[int], small: list[int]) -> None:
        Shelf(tmp_path, NO_PROGRESS).together([Kind("large", large), Kind("small", small)], 4, make, "number")

    asked: list[int] = []
    rows(list(range(1, 9)), [0] * 8)
    monkeypatch.setattr("graft.training.data.shelf.require_free_space", lambda folder, needed_bytes, name: asked.append(needed_bytes))
    rows([9, *range(1, 9)], list(range(10, 19)))  # of the first row both are missing, of the others the small ones
    assert asked == [1000 + 9 * 10, 8 * 10, 4 * 10]


def test_verifying_reads_everything_and_finds_damage(make_folder: MakeFolder, encoders: Any, tmp_path: Path) -> None:
    dataset = ImageFolder(make_folder(5), resolution_px=32)
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    assert encoded.verify() == 5 + 5 + 5 + 1 + 5  # colours, latents, edges, the empty text, texts
    damage(next((tmp_path / "encoded").glob("text-*")))
    with pytest.raises(DamagedShardError):
        encoded.verify()
    assert encoders.encode(dataset, tmp_path / "encoded").verify() == 21


def damage(path: Path) -> None:
    """One bit of the widest tensor's middle; the header and the rows' keys stay."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + (len(data) - start) // 2] ^= 4
    path.write_bytes(data)


def test_keys_tell_rows_of_other_setups_apart(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path)
    first = numbers.rows([1, 2])

    def make(plan: ShardPlan, report: Callable[[int], None]) -> Shard:
        return {"numbers": torch.zeros(len(plan.rows), 3)}, {}

    other = numbers.shelf.rows("numbers", [1, 2], 4, make, "number", "another setup")
    assert set(keys_in(tmp_path / first.names[0]) or ()).isdisjoint(keys_in(tmp_path / other.names[0]) or ())
    assert values(first) == [1, 2] and values(other) == [0, 0]


def test_a_full_disk_while_another_shard_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match="free"):
        Numbers(tmp_path).rows(list(range(40)))
    assert os.listdir(tmp_path) == [".in_use"]  # the note of what this process uses

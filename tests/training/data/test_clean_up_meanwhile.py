"""Clean-up by another process while this one finds, makes or indexes encoded data: what it needs stays, or is seen to be gone and is made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from graft.training import in_use
from graft.training.data import encoded as encoded_module
from graft.training.data import shelf as shelf_module
from graft.training.data import stored_data
from graft.training.data.encoded import load_index
from graft.training.data.folder import ImageFolder
from graft.training.data.shards import Shard, ShardPlan
from graft.training.data.shelf import Shelf
from graft.training.data.stored_data import DataStore
from graft.training.in_use import names_in_use, protect
from graft.training.progress import NO_PROGRESS

MakeFolder = Callable[..., Path]


def forget() -> None:
    """As if this process had ended."""
    for note in in_use._NOTES._notes.values():
        os.close(note.handle)
    in_use._NOTES._notes.clear()


@pytest.fixture
def folder(make_folder: MakeFolder, encoders: Any, tmp_path: Path) -> Path:
    """One encoded data set that nobody uses."""
    encoders.encode(ImageFolder(make_folder(2), resolution_px=32), tmp_path / "encoded")
    forget()
    return tmp_path / "encoded"


def index_in(folder: Path) -> Path:
    return next(folder.glob("encoded-*"))


def test_shards_stay_that_were_noted_while_their_index_went(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = DataStore(folder).stored()
    shards, index = entry.files - {entry.name}, index_in(folder)

    def used(_: Path) -> set[str]:
        return set() if index.exists() else {next(iter(shards))}

    monkeypatch.setattr(stored_data, "names_in_use", used)
    assert DataStore(folder).remove(entry, [])
    assert {path.name for path in folder.glob("*.safetensors")} == {next(iter(shards))} and len(shards) > 2


def test_an_index_that_went_before_it_was_protected_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_in(folder)
    key = index.stem.removeprefix("encoded-")
    found = load_index(folder, key)
    assert found is not None and found.train_size == 2
    monkeypatch.setattr(encoded_module, "protect", lambda *_: index.unlink())
    assert load_index(folder, key) is None


def test_an_index_is_protected_before_it_is_written(
    make_folder: MakeFolder, encoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, noted = encoded_module.write_index, []

    def listen(path: Path, *rest: Any) -> None:
        noted.append(path.name in names_in_use(path.parent))
        write(path, *rest)

    monkeypatch.setattr(encoded_module, "write_index", listen)
    encoders.encode(ImageFolder(make_folder(2), resolution_px=32), tmp_path / "encoded")
    assert noted == [True]


def test_rows_whose_file_went_before_it_was_protected_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(plan: ShardPlan, report: Callable[[int], None]) -> Shard:
        made.append(len(plan.rows))
        return {"numbers": torch.tensor([[float(row)] for row in plan.rows])}, {}

    def rows() -> Any:
        return Shelf(tmp_path, NO_PROGRESS).rows("numbers", ["a", "b"], 4, make, "number")

    path = tmp_path / rows().names[0]

    def too_late(where: Path, names: Iterable[str]) -> None:
        path.unlink(missing_ok=True)
        protect(where, names)

    monkeypatch.setattr(shelf_module, "protect", too_late)
    found = rows()
    assert made == [2, 2] and [float(found.read("numbers", row)[0]) for row in (0, 1)] == [0.0, 1.0]

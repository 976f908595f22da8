"""Clean-up of encoded data: what nothing has used for longest goes, alone or beside trainings; what any process uses stays, and shared shards do."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graft.nodes.headless.stored_runs import describe_store
from graft.training import in_use
from graft.training.clean_up import Stores, clean_up, keep_within
from graft.training.data.encoded import Encoded
from graft.training.data.folder import ImageFolder
from graft.training.data.image_batch import store_image_batch
from graft.training.data.stored_data import StoredData
from graft.training.in_use import USED_FILE
from graft.training.store_size import stored_runs

MakeFolder = Callable[..., Path]
HOLDER = """
import sys
from pathlib import Path
from graft.training.in_use import protect
protect(Path(sys.argv[1]), [sys.argv[2]])
print("noted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores.at(tmp_path / "runs", tmp_path / "cache" / "encoded")


@pytest.fixture
def forget() -> Callable[[], None]:
    """As if this process had ended: what it used is free."""

    def end() -> None:
        for note in in_use._NOTES._notes.values():
            os.close(note.handle)
        in_use._NOTES._notes.clear()

    return end


@pytest.fixture
def sets(make_folder: MakeFolder, stores: Stores, encoders: Any, small_shards: int, forget: Callable[[], None]) -> dict[str, Encoded]:
    """Two data sets without a picture in common, of which the older is a month old, and a third with half the pictures of each."""
    folders = {"old": make_folder(8, "old"), "new": make_folder(4, "new"), "mixed": make_folder(0, "mixed")}
    for number in range(4):  # make_folder draws the same pictures by number: give those of the new set other ones
        other = folders["old"] / f"{number + 4:04}"
        shutil.move(other.with_suffix(".png"), folders["new"] / f"{number:04}.png")
        shutil.move(other.with_suffix(".txt"), folders["new"] / f"{number:04}.txt")
    for name, number in (("old", 0), ("old", 1), ("new", 2), ("new", 3)):
        for ending in ("png", "txt"):
            shutil.copy(folders[name] / f"{number:04}.{ending}", folders["mixed"] / f"{number:04}.{ending}")
    made = {name: encoders.encode(ImageFolder(folder, resolution_px=32), stores.data.folder) for name, folder in folders.items()}
    for days, name in ((30, "old"), (1, "new"), (2, "mixed")):
        index = index_of(made[name])
        os.utime(index, (index.stat().st_mtime - 86400 * days,) * 2)
    forget()
    return made


def index_of(encoded: Encoded) -> Path:
    return encoded.index._header.path


def names(stores: Stores) -> list[str]:
    return [entry.name for entry in stores.data.stored() if entry.described]


def taken(stores: Stores) -> int:
    return sum(path.stat().st_size for path in stores.data.folder.glob("*.safetensors"))


def test_data_sets_are_listed_with_all_that_they_need(sets: dict[str, Encoded], stores: Stores) -> None:
    listed = stores.data.stored()
    assert [entry.name for entry in listed] == [index_of(sets[name]).name for name in ("old", "mixed", "new")]
    assert [entry.described for entry in listed] == ["4 pictures at 32 px"] * 3 and not any(entry.in_use for entry in listed)
    shards = {name for rows in sets["old"].parts.values() for name in rows.names}
    assert listed[0].files == shards | {listed[0].name}
    assert listed[0].size_bytes == sum((stores.data.folder / name).stat().st_size for name in listed[0].files)
    assert stores.data.size_bytes(listed) == taken(stores) < sum(entry.size_bytes for entry in listed)


def test_the_least_recently_used_goes_and_shared_shards_stay(sets: dict[str, Encoded], stores: Stores, encoders: Any) -> None:
    before = taken(stores)
    gone = clean_up(stores, before - 1)
    assert [entry.name for entry in gone] == [index_of(sets["old"]).name] and taken(stores) < before
    for name in ("mixed", "new"):
        assert sets[name].verify() > 0  # every row is still read
    encoders.pictures = 0
    again = encoders.encode(ImageFolder(stores.data.folder.parents[1] / "old", resolution_px=32), stores.data.folder)
    assert again.verify() > 0 and again.train_size == 4 and encoders.pictures == 0  # the mixed set has kept the shard


def test_nothing_is_left_of_what_nobody_uses(sets: dict[str, Encoded], stores: Stores) -> None:
    assert len(clean_up(stores, 0)) == 3 and taken(stores) == 0
    assert not list(stores.data.folder.glob("unchanged-*"))


def test_what_was_found_or_encoded_stays_while_the_process_lives(sets: dict[str, Encoded], stores: Stores, encoders: Any) -> None:
    folder = stores.data.folder.parents[1] / "old"
    found = encoders.encode(ImageFolder(folder, resolution_px=32), stores.data.folder)  # nothing is encoded: it is there
    assert names(stores)[-1] == index_of(found).name  # and is now the most recently used
    assert [entry.name for entry in clean_up(stores, 0)] == [index_of(sets[name]).name for name in ("mixed", "new")]
    assert found.verify() > 0 and names(stores) == [index_of(found).name] and stores.data.stored()[0].in_use


@pytest.mark.slow
def test_shards_that_another_process_needs_stay_until_it_ends(sets: dict[str, Encoded], stores: Stores) -> None:
    shard = sets["old"].parts["latents"].names[0]
    command = [sys.executable, "-c", HOLDER, str(stores.data.folder), shard]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "noted\n"
        assert len(clean_up(stores, 0)) == 3
        assert [path.name for path in stores.data.folder.glob("*.safetensors")] == [shard] and stores.data.stored()[0].in_use
    finally:
        holder.kill()
        holder.communicate()
    assert [entry.name for entry in clean_up(stores, 0)] == [shard] and taken(stores) == 0


def test_pictures_of_a_graph_and_interrupted_encodings_are_cleared_too(
    stores: Stores, encoders: Any, small_shards: int, make_folder: MakeFolder, forget: Callable[[], None]
) -> None:
    batch = store_image_batch([torch.rand(3, 32, 32, 3)], ["a"], stores.data.folder, resolution_px=32, hint=ImageFolder(Path("x")).hint)
    assert len(stores.data.stored()) == 1 and clean_up(stores, 0) == []  # the batch is in use
    assert batch.read(batch.samples[0]).shape == (32, 32, 3)
    encoders.fail_after_pictures = 4
    with pytest.raises(KeyboardInterrupt):
        encoders.encode(ImageFolder(make_folder(9), resolution_px=32), stores.data.folder)
    forget()
    left = stores.data.stored()
    assert len(left) > 2 and all(isinstance(entry, StoredData) and not entry.described for entry in left)
    assert len(clean_up(stores, 0)) == len(left) and taken(stores) == 0


def add_run(stores: Stores, name: str, size_bytes: int, used_at: float) -> None:
    folder = stores.runs.folder / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"parent": None}))
    (folder / "weights.safetensors").write_bytes(b"x" * size_bytes)
    (folder / USED_FILE).touch()
    for path in (folder / "run.json", folder / USED_FILE):
        os.utime(path, (used_at, used_at))


def test_trainings_and_encoded_data_share_the_limit_and_data_that_can_be_made_again_go_first(
    sets: dict[str, Encoded], stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    times = {name: index_of(sets[name]).stat().st_mtime for name in sets}
    for name, used_at in (("oldest", times["old"] - 10), ("between", times["old"] + 10), ("newest", times["new"] + 10)):
        add_run(stores, name, 5000, used_at)
    whole = taken(stores) + sum(path.stat().st_size for path in stores.runs.folder.rglob("*") if path.is_file())
    with caplog.at_level(logging.INFO):
        keep_within(stores, None)
        keep_within(stores, whole)
        assert not caplog.text
        keep_within(stores, whole - 1)
        assert "removed the stored encoded data encoded-" in caplog.text and "stored training" not in caplog.text
        assert names(stores) == [index_of(sets[name]).name for name in ("mixed", "new")], "the one used longest ago went, and no older training"
        keep_within(stores, 11_000)
        assert "removed the stored training oldest" in caplog.text and "between" not in caplog.text
    assert names(stores) == []
    text = describe_store(stores.runs.folder, stores.data.folder.parent, 0)
    assert "Removed between" in text and "Removed newest" in text and "0 runs in" in text and "encoded data in" in text


def test_no_training_goes_to_make_room_for_data_in_use(sets: dict[str, Encoded], stores: Stores, encoders: Any) -> None:
    encoders.encode(ImageFolder(stores.data.folder.parents[1] / "new", resolution_px=32), stores.data.folder)
    for name, used_at in (("older", 10.0), ("newer", 20.0)):
        add_run(stores, name, 2500, used_at)
    in_use = next(entry for entry in stores.data.stored() if entry.in_use)
    assert in_use.size_bytes > 5_500, "the data alone take more than the limit"
    clean_up(stores, 5_500)
    assert names(stores) == [in_use.name] and sorted(run.name for run in stored_runs(stores.runs)) == ["newer", "older"]
    assert "trainings that fit without the data" in describe_store(stores.runs.folder, stores.data.folder.parent, 5_500)
    assert [entry.name for entry in clean_up(stores, 3_000)] == ["older"], "trainings alone take more"


def test_the_list_names_data_sets_and_what_is_in_use(sets: dict[str, Encoded], stores: Stores, encoders: Any) -> None:
    stores.runs.folder.mkdir()
    encoders.encode(ImageFolder(stores.data.folder.parents[1] / "new", resolution_px=32), stores.data.folder)
    lines = describe_store(stores.runs.folder, stores.data.folder.parent, None).splitlines()
    assert [("4 pictures at 32 px" in line, line.endswith("in use")) for line in lines[:3]] == [(True, False), (True, False), (True, True)]
    assert lines[0].startswith(index_of(sets["old"]).name[:32]) and len(lines) == 4 and lines[3].startswith("0 runs in")


def test_an_index_that_cannot_be_read_stands_for_itself(sets: dict[str, Encoded], stores: Stores) -> None:
    index_of(sets["old"]).write_bytes(b"damaged")
    listed = stores.data.stored()
    assert len(names(stores)) == 2 and any(entry.name == index_of(sets["old"]).name and not entry.described for entry in listed)
    assert len(clean_up(stores, 0)) == len(listed) and taken(stores) == 0

"""Clean-up of the store: the least recently used go, what is in use stays, whoever uses it."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from graft.training import lock
from graft.training.clean_up import Stores, clean_up, keep_within
from graft.training.errors import InputError
from graft.training.in_use import NOTES_FOLDER, USED_FILE, mark_used, names_in_use
from graft.training.lock import locked
from graft.training.store import RunStore
from graft.training.store_size import DEFAULT_LIMIT_BYTES, StoredRun, limit_from_environment, stored_runs

HOLDER = """
import sys
from pathlib import Path
from graft.training.in_use import mark_used
mark_used(Path(sys.argv[1]), [sys.argv[2]])
print("marked", flush=True)
sys.stdin.read()
"""


def stores(store: RunStore) -> Stores:
    """Without encoded data: data/test_stored_data.py has those."""
    return Stores.at(store.folder, store.folder / "cache" / "encoded")


def prune(store: RunStore, limit_bytes: int) -> list[StoredRun]:
    return clean_up(stores(store), limit_bytes)  # type: ignore[return-value]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def add(store: RunStore):
    """A run of so many bytes, last used at a time, begun from another."""

    def make(name: str, size_bytes: int, used_at: float, parent: str | None = None) -> Path:
        folder = store.folder / name
        (folder / "step_00000001").mkdir(parents=True)
        text = json.dumps({"parent": {"run_key": parent, "step": 1} if parent else None})
        (folder / "run.json").write_text(text)
        (folder / "step_00000001" / "weights.safetensors").write_bytes(b"x" * (size_bytes - len(text)))
        (folder / USED_FILE).touch()
        for path in (folder / "run.json", folder / USED_FILE):
            os.utime(path, (used_at, used_at))
        return folder

    return make


def names(store: RunStore) -> list[str]:
    return [run.name for run in stored_runs(store)]


def test_the_least_recently_used_go_first_and_only_as_many_as_needed(store, add):
    for name, used_at in (("b", 20.0), ("a", 30.0), ("c", 10.0)):
        add(name, 1000, used_at)
    assert names(store) == ["c", "b", "a"] and {run.size_bytes for run in stored_runs(store)} == {1000}
    assert [run.name for run in prune(store, 2000)] == ["c"]
    assert prune(store, 2000) == [] and names(store) == ["b", "a"]
    assert [run.name for run in prune(store, 0)] == ["b", "a"] and not list(store.folder.glob(".graft-part-*"))


def test_a_run_goes_after_those_that_began_from_it(store, add):
    add("parent", 1000, 10.0)
    add("child", 1000, 20.0, parent="parent")
    add("other", 1000, 30.0)
    assert [run.name for run in prune(store, 2000)] == ["child"]
    assert [run.name for run in prune(store, 1000)] == ["parent"]


def test_what_is_being_trained_stays_with_what_it_began_from(store, add):
    add("parent", 1000, 10.0)
    child = add("child", 1000, 20.0, parent="parent")
    add("other", 1000, 30.0)
    with locked(child / "lock", "child"):
        assert [run.name for run in prune(store, 0)] == ["other"]
    assert names(store) == ["parent", "child"]


def test_what_this_process_has_used_stays(store, add):
    add("mine", 1000, 10.0)
    add("old", 1000, 20.0)
    mark_used(store.folder, ["mine"])
    assert names_in_use(store.folder) == {"mine"} and names(store) == ["old", "mine"]  # using it made it the newest
    assert [run.name for run in prune(store, 0)] == ["old"]


def test_what_another_process_uses_stays_until_it_ends(store, add):
    add("theirs", 1000, 10.0)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.folder), "theirs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "marked\n"
        assert prune(store, 0) == [] and stored_runs(store)[0].in_use
    finally:
        holder.kill()
        holder.communicate()
    assert [run.name for run in prune(store, 0)] == ["theirs"]
    assert not list((store.folder / NOTES_FOLDER).iterdir())  # the dead process's note is gone, too


def test_a_note_that_somebody_removed_is_written_again_with_all_that_it_said(store, add):
    mark_used(store.folder, ["first"])
    for note in (store.folder / NOTES_FOLDER).iterdir():
        note.unlink()
    mark_used(store.folder, ["second"])
    assert names_in_use(store.folder) == {"first", "second"}


def test_a_note_is_locked_although_somebody_looks_at_it_just_then(store, monkeypatch):
    """Whoever looks whether a note is held holds it for a moment."""
    once, real = [BlockingIOError(errno.EAGAIN, "held")], lock._lock

    def busy(handle: int) -> None:
        if once:
            raise once.pop()
        real(handle)

    monkeypatch.setattr(lock, "_lock", busy)
    mark_used(store.folder, ["mine"])
    assert not once and names_in_use(store.folder) == {"mine"}


def test_a_half_removed_run_is_no_run_and_is_removed(store, add):
    folder = add("a", 1000, 10.0)
    folder.rename(folder.with_name(".graft-part-0123"))
    assert names(store) == [] and prune(store, 10**9) == [] and not list(store.folder.glob(".graft-part-*"))


def test_a_training_protects_itself_and_what_it_began_from(tiny_train, tiny_settings, store):
    settings = tiny_settings(evaluate_samples=0)
    first = tiny_train(1, settings, store=store)
    second = tiny_train(1, tiny_settings(evaluate_samples=0, learning_rate=1e-3), store=store, previous=first)
    assert names_in_use(store.folder) == {first.folder.name, second.folder.name}
    assert prune(store, 0) == [] and all(run.in_use for run in stored_runs(store))


def test_what_is_removed_is_reported(store, add, caplog):
    add("old", 1000, 0.0)
    add("new", 1000, 10.0)
    with caplog.at_level(logging.INFO):
        keep_within(stores(store), None)
        assert len(names(store)) == 2
        keep_within(stores(store), 1500)
    assert "removed the stored training old (1.00 kB, last used 1970-01-01)" in caplog.text and names(store) == ["new"]


def test_the_limit(monkeypatch):
    monkeypatch.delenv("GRAFT_STORE_LIMIT", raising=False)
    assert limit_from_environment() == DEFAULT_LIMIT_BYTES
    for text, limit in (("none", None), ("0", None), ("3GB", 3 * 10**9)):
        monkeypatch.setenv("GRAFT_STORE_LIMIT", text)
        assert limit_from_environment() == limit
    monkeypatch.setenv("GRAFT_STORE_LIMIT", "a lot")
    with pytest.raises(InputError, match="GRAFT_STORE_LIMIT: expected a size"):
        limit_from_environment()


def test_the_command(store, add, capsys):
    from graft.nodes.headless.cli import main

    add("old", 1_000_000, 0.0)
    add("new", 1_000_000, 10.0, parent="old")
    assert main(["store", "--folder", str(store.folder)]) == 0
    listed = capsys.readouterr().out
    assert "2 runs in" in listed and ": 2.00 MB;" in listed and "goes on from old" in listed
    assert main(["store", "--folder", str(store.folder), "--prune", "1MB"]) == 0
    assert "Removed new (1.00 MB" in capsys.readouterr().out and names(store) == ["old"]
    assert main(["store", "--folder", str(store.folder / "nowhere")]) == 2
    assert main(["store", "--folder", str(store.folder), "--prune", "lots"]) == 2

"""Runs on disk: whole or not at all, damage noticed, the right ones kept, one writer."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from graft.training import store as store_module
from graft.training.checkpoint import list_checkpoints, write_checkpoint
from graft.training.errors import InputError
from graft.training.files import digest
from graft.training.files import write as write_module
from graft.training.history import HeldOutRecord, History, HistoryFile, StepRecord
from graft.training.lock import locked
from graft.training.store import Run, RunStore

PARTS = {"weights": {"a": torch.arange(6.0).view(2, 3)}, "optimiser": {"a:step": torch.tensor(3.0)}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).run("0123456789abcdef" * 4)


def steps_of(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(run.folder)]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def record(step: int, loss: float = 0.5) -> StepRecord:
    return StepRecord(step=step, loss=loss, learning_rate=1e-3, gradient_norm=1.0, buckets={3: (0.5, 1)}, seconds=0.25)


def test_a_checkpoint_comes_back_as_it_was(run):
    run.save(200, PARTS, {"why": "end"}, keep=1)
    checkpoint = run.checkpoint(200)
    assert checkpoint.path.name == "step_00000200" and torch.equal(checkpoint.read("weights")["a"], PARTS["weights"]["a"])
    assert checkpoint.has("optimiser") and not checkpoint.has("ema") and checkpoint.facts()["why"] == "end"


def test_facts_that_are_a_function_are_asked_when_the_tensors_are_written(run):
    def facts():
        return {"written": sorted(path.name for path in run.folder.glob("*/*.safetensors"))}

    assert run.save(1, PARTS, facts, keep=1).facts()["written"] == ["optimiser.safetensors", "weights.safetensors"]


def test_the_latest_at_most(run):
    for step in (100, 200, 300):
        run.save(step, PARTS, {}, keep=9)
    assert [run.latest_at_most(step) and run.latest_at_most(step).step for step in (99, 100, 250, 999)] == [None, 100, 200, 300]


@pytest.mark.parametrize("file", ["weights.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(run, caplog, file, how):
    for step in (100, 200):
        run.save(step, PARTS, {}, keep=9)
    path = run.folder / "step_00000200" / file
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        damage(path)
    assert run.latest_at_most(200).step == 100 and run.checkpoint(200) is None
    assert "step_00000200 is damaged" in caplog.text


def test_reading_a_damaged_part_says_what_to_do(run):
    checkpoint = run.save(5, PARTS, {}, keep=1)
    damage(checkpoint.path / "weights.safetensors")
    with pytest.raises(InputError, match="Run the workflow again"):
        checkpoint.read("weights")


def test_what_is_found_damaged_when_it_is_read_is_found_no_more(run):
    checkpoint = run.save(5, PARTS, {}, keep=1)
    damage(checkpoint.path / "weights.safetensors")
    assert run.checkpoint(5) == checkpoint, "its sizes are right, and its bytes are not looked at yet"
    with pytest.raises(InputError, match="not those that were written"):
        checkpoint.read("weights")
    assert run.checkpoint(5) is None
    run.save(5, PARTS, {}, keep=1)
    assert run.checkpoint(5) == checkpoint and checkpoint.is_whole(), "a new one took its place"


def test_a_checkpoint_is_hashed_once_while_it_stays_as_it_is(run, monkeypatch):
    checkpoint, hashed, real = run.save(5, PARTS, {}, keep=1), [], digest.sha256_of
    monkeypatch.setattr(digest, "sha256_of", lambda path: (hashed.append(Path(path).stem), real(path))[1])
    for path in checkpoint.path.iterdir():
        os.utime(path, (1e9, 1e9))  # written long ago
    assert run.checkpoint(5) and hashed == []
    assert run.latest_at_most(5) and checkpoint.read("weights") and run.latest_at_most(5)
    assert sorted(hashed) == ["optimiser", "weights"]
    os.utime(checkpoint.path / "weights.safetensors", (1e9, 2e9))
    checkpoint.read("weights")
    assert hashed[2:] == ["weights"]


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a")
    known = digest.KnownDigests()
    known.sha256_of(path)
    assert known.recall(digest.stamp_of(path)) is None


def test_a_damaged_checkpoint_gives_way_to_a_new_one_and_stays_pinned(run):
    run.save(5, PARTS, {}, keep=1).pin()
    damage(run.folder / "step_00000005" / "weights.safetensors")
    run.save(5, PARTS, {}, keep=1)
    assert run.checkpoint(5).pinned


def test_keeps_the_newest_and_whatever_was_asked_for(run):
    for step in range(1, 7):
        checkpoint = run.save(step, PARTS, {}, keep=2)
        if step in (1, 3):
            checkpoint.pin()
    assert steps_of(run) == [1, 3, 5, 6]


def test_never_removes_what_it_has_just_written(run):
    for step in (10, 20):
        run.save(step, PARTS, {}, keep=2)
    run.save(5, PARTS, {}, keep=1)  # another branch, from an earlier state
    assert steps_of(run) == [5]


def test_an_old_checkpoint_that_is_held_open_is_kept_until_the_next(run, monkeypatch, caplog):
    """Windows renames no folder in which a file is open; a training must not end by that."""
    run.save(1, PARTS, {}, keep=1)
    real = os.replace

    def held(source, target):
        if Path(source).name == "step_00000001":
            raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used by another process")
        real(source, target)

    monkeypatch.setattr("graft.training.checkpoint.os.replace", held)
    assert run.save(2, PARTS, {}, keep=1).step == 2 and steps_of(run) == [1, 2]
    assert "step_00000001 could not be removed" in caplog.text
    monkeypatch.undo()
    run.save(3, PARTS, {}, keep=1)
    assert steps_of(run) == [3]


def test_a_full_disk_leaves_nothing_half_written(run, monkeypatch):
    run.save(100, PARTS, {}, keep=1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write_module.os, "fsync", full)
    with pytest.raises(InputError, match="room on the disk"):
        write_checkpoint(run.folder, 200, PARTS, {})
    monkeypatch.undo()
    assert steps_of(run) == [100] and run.latest_at_most(200).step == 100
    assert [path.name for path in run.folder.iterdir() if path.name != "losses.jsonl"] == ["step_00000100"]


def test_no_room_for_two_checkpoints_is_said_before_any_work(tmp_path):
    with pytest.raises(InputError, match="folder of runs") as caught:
        RunStore(tmp_path).require_room(10**18)
    assert caught.value.expected.startswith("2,000,000 TB free in ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match="folder of runs"):
        RunStore(tmp_path / "file" / "runs").require_room(1)
    with pytest.raises(InputError), RunStore(tmp_path / "file").run("0" * 64).training():
        pass


def test_leftovers_of_a_killed_process_are_removed_by_the_next(run):
    run.save(100, PARTS, {}, keep=1)
    leftover = run.folder / f"{write_module.PART_BEGINNING}0123"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    (run.folder / f"{write_module.PART_BEGINNING}4567.json").write_bytes(b"half")
    with run.training():
        assert sorted(path.name for path in run.folder.iterdir() if path.name.startswith(".")) == []
    assert steps_of(run) == [100]


def test_one_writer_at_a_time_and_the_holder_is_named(run):
    with run.training(), pytest.raises(InputError, match=f"process {os.getpid()}"), run.training():
        pass
    with run.training():
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import fcntl, os, signal, sys; handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "fcntl.flock(handle, fcntl.LOCK_EX); os.write(handle, b'{\"process\": 1}'); print('held', flush=True); signal.pause()"
    )
    if os.name == "nt":
        pytest.skip("signals")
    with subprocess.Popen([sys.executable, "-S", "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(InputError, match="nobody else"), locked(path, "run"):
            pass
        holder.kill()
    with locked(path, "run"):
        pass


def test_a_file_system_without_locks_warns_and_goes_on(tmp_path, monkeypatch, caplog):
    def none(handle: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("graft.training.lock._lock", none)
    with locked(tmp_path / "lock", "run"):
        assert "cannot be locked" in caplog.text


def test_the_store_lists_its_runs(tmp_path):
    own = RunStore(tmp_path / "runs")
    assert own.runs() == []
    for key in ("b" * 64, "a" * 64):
        own.run(key).describe({"run_key": key})
    assert [run.folder.name for run in own.runs()] == ["a" * store_module.KEY_DIGITS, "b" * store_module.KEY_DIGITS]


def test_a_workflow_is_noted_once_and_in_no_key(tmp_path):
    named, other = RunStore(tmp_path, "first"), RunStore(tmp_path, "second")
    named.run("c" * 64).describe({"run_key": "c" * 64})
    other.run("c" * 64).describe({"run_key": "c" * 64})
    assert json.loads((named.run("c" * 64).folder / "run.json").read_text("utf-8")) == {"run_key": "c" * 64, "workflow": "first"}
    assert named.run("d" * 64).folder == other.run("d" * 64).folder


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_by_the_history_too():
    with pytest.raises(InputError, match="room on the disk"):
        HistoryFile(Path("/dev/full")).append(record(1))


def test_a_checkpoint_in_a_folder_that_may_only_be_read_is_found(run, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    checkpoint = run.save(5, PARTS, {}, keep=1)
    monkeypatch.setattr(Path, "touch", refused)
    checkpoint.pin()
    assert run.checkpoint(5) == checkpoint and not checkpoint.pinned


def test_held_out_losses_are_compared_over_the_same_number_of_pictures():
    records = [HeldOutRecord(step=step, held_out=0.5, by_time=(0.5,), samples=samples) for step, samples in [(0, 32), (100, 8), (200, 8)]]
    assert [entry.step for entry in History((), tuple(records)).comparable_held_out] == [100, 200]
    assert History().comparable_held_out == ()


def test_history_survives_a_torn_line_and_repeated_steps(tmp_path):
    file = HistoryFile(tmp_path / "losses.jsonl")
    assert file.read() == History()
    file.append(record(1))
    file.append(HeldOutRecord(step=1, held_out=0.7, by_time=(0.6, 0.8), samples=3))
    with file.path.open("ab") as torn:
        torn.write(b'{"step":2,"loss":0.')
    file.append(record(2, loss=0.4))
    file.append(record(2, loss=0.3))
    history = file.read()
    assert [(entry.step, entry.loss) for entry in history.steps] == [(1, 0.5), (2, 0.3)]
    assert history.steps[0].buckets == {3: (0.5, 1)} and history.seconds == 0.5
    assert history.held_out == (HeldOutRecord(step=1, held_out=0.7, by_time=(0.6, 0.8), samples=3),)
    assert history.up_to(1).followed_by(history.after(1)) == history

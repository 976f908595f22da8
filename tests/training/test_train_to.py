"""Requests for steps: exactly once, in any order, across interruptions, bit for bit."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from graft.training.checkpoint import list_checkpoints
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.listener import Silent
from graft.training.progress import NO_PROGRESS
from graft.training.settings import OptimiserSettings, ScheduleSettings
from graft.training.store import RunStore
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.controlnet import ControlNetRecipe

VICTIM = Path(__file__).with_name("killed_training.py")


def assert_same(left, right) -> None:
    """The same bits in every file, and the same losses from the first step on."""
    for part in ("weights", "optimiser", "ema"):
        assert left.checkpoint.has(part) == right.checkpoint.has(part)
        if left.checkpoint.has(part):
            assert fingerprint(left.checkpoint.read(part)) == fingerprint(right.checkpoint.read(part)), part
    assert losses(left) == losses(right)


def losses(state) -> list[tuple[int, float]]:
    return [(record.step, record.loss) for record in state.history().steps]


def steps_on_disk(state) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(state.folder)]


@pytest.fixture
def elsewhere(tmp_path) -> RunStore:
    return RunStore(tmp_path / "elsewhere")


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """The steps that were really trained."""
    from graft.training import loop

    taken, real = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda learner, *rest: (taken.append(learner.step + 1), real(learner, *rest))[1])
    return taken


def test_three_and_three_steps_are_six_bit_for_bit(tiny_train, tiny_settings, elsewhere, counted):
    settings = tiny_settings(ema_decay=0.9)  # the horizon, 5, lies within the second half
    straight = tiny_train(6, settings, store=elsewhere)
    half = tiny_train(3, settings)
    chained = tiny_train(3, settings, previous=half)
    assert chained.step == straight.step == 6 and chained.folder == half.folder and chained.lineage == ((half.run_key, 6),)
    assert counted == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    assert_same(chained, straight)
    assert [record.learning_rate for record in chained.history().steps[-2:]] == pytest.approx([6.5e-4, 2e-4])  # 2e-3 * 0.325, then the last value


def test_what_is_on_disk_is_found_and_raising_the_steps_trains_only_the_rest(tiny_train, counted, tiny_data, caplog):
    caplog.set_level(logging.INFO)
    first = tiny_train(2)
    assert not caplog.text
    assert tiny_train(2) == first and counted == [1, 2] and "2 steps of this training are kept already" in caplog.text
    more = tiny_train(3)
    assert "goes on from step 2, which is kept" in caplog.text
    assert more.run_key == first.run_key and more.key != first.key and counted == [1, 2, 3]
    assert tiny_train(2) == first and counted == [1, 2, 3], "the shorter one is still there"


def test_a_state_that_is_found_needs_no_base_in_memory(tiny_train, tiny_base):
    first = tiny_train(1)

    class Absent:
        fingerprint, name = tiny_base.fingerprint, tiny_base.name

        @property
        def model(self):
            raise AssertionError("the base was loaded for nothing")

    assert tiny_train(1, base=Absent()) == first


def test_fewer_steps_than_on_disk_start_from_the_checkpoint_before(tiny_train, tiny_settings, counted, elsewhere):
    tiny_train(1)
    tiny_train(4)
    middle = tiny_train(3)
    assert counted == [1, 2, 3, 4, 2, 3] and steps_on_disk(middle) == [1, 3, 4]
    assert_same(middle, tiny_train(3, store=elsewhere))


@pytest.mark.parametrize("what", ["base", "recipe", "data", "settings"])
def test_any_change_of_what_goes_in_trains_anew(what, tiny_train, tiny_base, tiny_data, tiny_settings, counted):
    first = tiny_train(1)
    changes = {
        "base": {"base": LoadedBase(tiny_base.model, "0" * 64)},
        "recipe": {"recipe": ControlNetRecipe(layout="xlabs", double_depth=1, seed=2)},
        "data": {"data": replace(tiny_data, key="another")},
        "settings": {"settings": tiny_settings(seed=8)},
    }
    assert tiny_train(1, **changes[what]).run_key != first.run_key and counted == [1, 1]
    assert tiny_train(1, tiny_settings(checkpointing=True, evaluate_every=9, keep_checkpoints=5)) == first and counted == [1, 1]


def test_two_branches_from_one_state_are_right_in_either_order(tiny_train, tiny_settings, elsewhere):
    slow = tiny_settings(optimiser=OptimiserSettings(learning_rate=1e-4))

    def grow(store, order):
        trunk = tiny_train(2, store=store)
        made = {name: tiny_train(2, settings, store=store, previous=trunk) for name, settings in order}
        return trunk, made["same"], made["slow"]

    trunk, same, other = grow(elsewhere, [("same", tiny_settings()), ("slow", slow)])
    _, same_again, other_again = grow(RunStore(elsewhere.folder.parent / "third"), [("slow", slow), ("same", tiny_settings())])
    assert_same(same, same_again)
    assert_same(other, other_again)
    assert same.run_key == trunk.run_key and other.run_key != trunk.run_key and other.step == same.step == 4
    assert other.lineage == ((trunk.run_key, 2), (other.run_key, 4)) and other.parent == trunk
    assert losses(other)[:2] == losses(trunk) and [step for step, _ in losses(other)] == [1, 2, 3, 4]
    assert other.history().steps[2].learning_rate == pytest.approx(1e-4)  # the step goes on counting: warm-up is over
    assert other.initial_fingerprint == trunk.initial_fingerprint


def test_a_child_run_begins_with_its_parent_s_weights_and_goes_on_when_interrupted(tiny_train, tiny_settings, stop_at, elsewhere):
    trunk, other = tiny_train(2), tiny_settings(seed=8)
    stop = stop_at(3)
    with pytest.raises(stop.Stop):
        tiny_train(3, other, previous=trunk, progress=stop)
    resumed = tiny_train(3, other, previous=trunk)
    straight = tiny_train(3, other, previous=tiny_train(2, store=elsewhere), store=elsewhere)
    assert_same(resumed, straight)


def test_a_previous_state_of_something_else_is_refused(tiny_train, recipe):
    trunk = tiny_train(1)
    with pytest.raises(InputError, match="previous state") as caught:
        tiny_train(1, recipe=replace(recipe, single_depth=1), previous=trunk)
    assert "single_blocks.0" in caught.value.found


def test_an_interrupt_saves_and_the_next_run_goes_on_bit_for_bit(tiny_train, stop_at, counted, elsewhere):
    straight = tiny_train(4, store=elsewhere)
    counted.clear()
    stop = stop_at(3)
    with pytest.raises(stop.Stop):
        tiny_train(4, progress=stop)
    assert counted == [1, 2, 3, 4], "the fourth was begun"
    resumed = tiny_train(4)
    assert counted == [1, 2, 3, 4, 4] and steps_on_disk(resumed) == [3, 4] and not resumed.partial
    assert resumed.checkpoint.path.parent.joinpath("step_00000003/state.json").read_text("utf-8").count('"interrupted"') == 1
    assert_same(resumed, straight)


def test_an_interrupt_before_the_first_step_leaves_no_checkpoint(tiny_train, stop_at, store):
    stop = stop_at(0)
    with pytest.raises(stop.Stop):
        tiny_train(2, progress=stop)
    assert list_checkpoints(store.runs()[0].folder) == []


def test_what_stops_while_weights_change_is_not_saved(tiny_train, monkeypatch, store):
    """Ctrl-C may come between two tensors of the optimiser's step: neither the old state nor the new one is there then."""
    from graft.training.weights import TrainedWeights

    published = TrainedWeights.publish

    def interrupted(self):
        if store.runs() and len(store.runs()[0].history.read().steps) == 2:
            raise KeyboardInterrupt
        published(self)

    monkeypatch.setattr(TrainedWeights, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_train(4)
    assert list_checkpoints(store.runs()[0].folder) == []


def test_a_full_disk_stops_the_training_and_the_last_checkpoint_stays(tiny_train, tiny_settings, monkeypatch, caplog, store):
    from graft.training import store as store_module

    real, written = store_module.write_checkpoint, []

    def full_after_one(folder, step, *rest):
        if written:
            raise InputError("disk", expected="room on the disk", found="none", remedy="Free some.")
        written.append(step)
        return real(folder, step, *rest)

    monkeypatch.setattr(store_module, "write_checkpoint", full_after_one)
    with pytest.raises(InputError, match="room on the disk"):
        tiny_train(4, tiny_settings(checkpoint_every=1))
    assert written == [1] and store.runs()[0].latest_at_most(9).step == 1 and "up to step 2, could not be saved" in caplog.text
    monkeypatch.undo()
    assert tiny_train(4).step == 4


def test_checkpoints_on_the_way_are_kept_in_number_and_ends_for_good(tiny_train, tiny_settings):
    settings = tiny_settings(checkpoint_every=1, keep_checkpoints=2)
    tiny_train(2, settings)
    state = tiny_train(6, settings)
    assert steps_on_disk(state) == [2, 5, 6]


def test_a_damaged_end_is_trained_again_from_the_checkpoint_before(tiny_train, tiny_settings, counted, caplog):
    settings = tiny_settings(checkpoint_every=2)
    state = tiny_train(3, settings)
    exact = fingerprint(state.weights())
    path = state.checkpoint.path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    again = tiny_train(3, settings)
    assert counted == [1, 2, 3, 3] and "damaged" in caplog.text and fingerprint(again.weights()) == exact


def test_a_run_that_another_process_trains_is_refused(tiny_train, store):
    state = tiny_train(1)
    with store.run(state.run_key).training(), pytest.raises(InputError, match="nobody else"):
        tiny_train(2)
    with store.run(state.run_key).training():
        assert tiny_train(1) == state, "what is finished can be used meanwhile"


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_are_refused(tiny_train, store, steps):
    with pytest.raises(InputError, match="steps"):
        tiny_train(steps)
    assert not store.folder.exists()


def test_the_wall_time_counts_everything_through_all_sittings(tiny_train, tiny_settings, stop_at, monkeypatch):
    """Clock: every look at it is one second later. So a sitting's time is the looks between, steps' own among them."""
    from graft.training import loop

    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))

    def seconds(state):
        return state.checkpoint.facts()["train_seconds"]

    stop = stop_at(1)
    with pytest.raises(stop.Stop):
        tiny_train(2, progress=stop)
    resumed = tiny_train(2)
    child = tiny_train(1, tiny_settings(seed=8), previous=resumed)
    first = resumed.checkpoint.path.parent / "step_00000001" / "state.json"
    early = json.loads(first.read_text("utf-8"))["train_seconds"]
    # Looks of a sitting of one step: at the beginning, twice in the step, at the checkpoint; the interrupted one began a second step.
    assert (early, seconds(resumed), seconds(child)) == (4.0, 7.0, 10.0)


def test_data_that_does_not_fit_is_refused_before_any_work(tiny_train, tiny_data_in, store, tmp_path, counted):
    pixels = tiny_data_in(tmp_path / "pictures", "pixels")
    with pytest.raises(InputError, match="hints as latents; found hints: pixels"):
        tiny_train(1, recipe=ControlNetRecipe(layout="instantx", double_depth=1), data=pixels)
    with pytest.raises(InputError, match="text tokens of width 8; found text tokens of width 24"):
        tiny_train(1, data=_with_wide_text(pixels))
    assert counted == [] and not store.folder.exists()


def _with_wide_text(data):
    class WideText(type(data)):
        def text(self, samples):
            tokens, pooled = super().text(samples)
            return tokens.repeat(1, 1, 3), pooled

    return WideText(**vars(data))


def test_a_folder_that_cannot_be_written_is_refused_before_training(tiny_train, tmp_path, counted):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match="folder of runs"):
        tiny_train(1, store=RunStore(tmp_path / "file"))
    assert counted == []


def test_steps_beyond_the_horizon_are_told_before_they_are_trained(tiny_train, tiny_settings, caplog):
    falls = ScheduleSettings(shape="linear", horizon_steps=2, final_fraction=0.25)
    settings = replace(tiny_settings(), schedule=falls)
    rate = settings.optimiser.learning_rate
    state = tiny_train(2, settings)
    assert "horizon" not in caplog.text
    tiny_train(3, settings)
    told = f"1 of the 1 steps to train lie beyond the schedule's horizon of 2 steps: they train at its last learning rate, {rate / 4:.3g}."
    assert told in caplog.text
    tiny_train(3, settings, previous=state)  # one of them is kept
    assert "2 of the 2 steps" in caplog.text
    caplog.clear()
    tiny_train(4, replace(settings, schedule=replace(falls, shape="constant")))
    assert "horizon" not in caplog.text


def test_held_out_losses_at_start_on_the_way_and_at_the_end(tiny_train, tiny_settings, tiny_data, caplog):
    settings = tiny_settings(evaluate_every=2)
    state = tiny_train(3, settings)
    assert [record.step for record in state.history().held_out] == [0, 2, 3]
    assert [record.step for record in tiny_train(2, settings, previous=state).history().held_out] == [0, 2, 3, 4, 5]
    assert "held out" not in caplog.text
    without = tiny_train(1, data=replace(tiny_data, key="none held out", held_out=()))
    assert without.history().held_out == () and "No pictures are held out" in caplog.text


def test_listeners_hear_every_step_and_can_save_and_stop(tiny_train, counted, elsewhere):
    heard, shown = [], []

    class Panel(Silent):
        def begin(self, learner, training):
            heard.append(("begin", learner.step, training.until_step, [record.step for record in training.history(learner.step).steps]))

        def step(self, record, weights):
            heard.append(record.step)
            shown.append(fingerprint(dict(weights())))

        def held_out(self, record):
            heard.append(("held out", record.step))

        def wishes(self):
            return {1: ("save",), 3: ("stop", "save")}.get(heard[-1], ())

        def saved(self, step):
            heard.append(("saved", step))

        def end(self, error):
            heard.append(("end", error))

    stopped = tiny_train(9, listener=Panel())
    assert heard == [
        ("begin", 0, 9, []), ("held out", 0), 1, ("saved", 1), 2, 3, ("held out", 3), ("saved", 3), ("end", None)
    ]  # fmt: skip
    assert stopped.step == 3 and stopped.partial and stopped.checkpoint.pinned
    assert len(set(shown)) == 3 and shown[2] == fingerprint(stopped.weights()) and steps_on_disk(stopped) == [1, 3]
    full = tiny_train(5)
    assert not full.partial and counted == [1, 2, 3, 4, 5]
    assert_same(full, tiny_train(5, store=elsewhere))


def test_progress_counts_absolute_steps(tiny_train):
    calls = []
    progress = SimpleNamespace(
        start=lambda total, unit: calls.append((total, unit)),
        advance=lambda done, **values: calls.append((done, *sorted(values))),
        finish=lambda: calls.append("finished"),
        check_interrupt=NO_PROGRESS.check_interrupt,
    )
    tiny_train(1)
    tiny_train(2, progress=progress)
    assert calls == [(2, "step"), (1,), (2, "learning_rate", "loss"), "finished"]


def test_a_state_tells_what_it_was_made_from(tiny_train, tiny_base, tiny_data, tiny_settings):
    settings = tiny_settings(ema_decay=0.9)
    state = tiny_train(1, settings)
    inputs = state.inputs()
    assert inputs["base_fingerprint"] == tiny_base.fingerprint and inputs["data_key"] == tiny_data.key and inputs["compute"] == "float32"
    assert inputs["settings"]["batch_size"] == 2 and inputs["recipe"]["layout"] == "xlabs" and inputs["parent"] is None
    weights, average = state.weights(), state.ema_weights()
    assert weights.keys() == average.keys() and fingerprint(weights) != fingerprint(average)
    assert state.initial_fingerprint != fingerprint(weights) and state.checkpoint.facts()["peak_memory_bytes"] > 10**7
    assert tiny_train(1).ema_weights() is None


def test_the_other_layout_trains_on_latent_hints(tiny_train, tiny_data_in, tmp_path):
    data = tiny_data_in(tmp_path / "pictures", "latents")
    state = tiny_train(2, recipe=ControlNetRecipe(layout="instantx", double_depth=1), data=data)
    trained = state.weights()
    assert trained["controlnet_x_embedder.weight"].abs().max() > 0, "it was zero at the start"


def test_works_under_the_host_s_inference_mode(tiny_train, elsewhere):
    with torch.inference_mode():
        inside = tiny_train(2)
    assert_same(inside, tiny_train(2, store=elsewhere))


@pytest.mark.slow
def test_a_training_killed_in_the_middle_of_a_step_goes_on_bit_for_bit(tiny_train, tiny_settings, tiny_data_in, tmp_path):
    """A real SIGKILL (on Windows TerminateProcess) to a process of its own, while it is between two batches of step 4."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, str(VICTIM), str(tmp_path / "killed"), "5", "4"], stdout=subprocess.PIPE, env=environment) as victim:
        assert victim.stdout.readline().strip() == b"now"
        victim.kill()
    settings = tiny_settings(accumulation=2, checkpoint_every=2, ema_decay=0.9)
    killed = RunStore(tmp_path / "killed" / "runs")
    data = tiny_data_in(tmp_path / "killed" / "data")
    assert [checkpoint.step for checkpoint in list_checkpoints(killed.runs()[0].folder)] == [2]
    assert [record.step for record in killed.runs()[0].history.read().steps] == [1, 2, 3]
    resumed = tiny_train(5, settings, store=killed, data=data)
    straight = tiny_train(5, settings, store=RunStore(tmp_path / "straight"), data=data)
    assert resumed.folder == killed.runs()[0].folder
    assert_same(resumed, straight)

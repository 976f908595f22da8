"""One training as its page sees it."""

from __future__ import annotations

import itertools
import json

import pytest
from graft.nodes.live.run import LiveRun, Place
from graft.training.history import HeldOutRecord, History, StepRecord

PLACE = Place("7", "a-workflow")


def step(number: int, loss: float = 0.5, rate: float = 1e-3) -> StepRecord:
    return StepRecord(step=number, loss=loss, learning_rate=rate, gradient_norm=1.0, buckets={}, seconds=0.1)


def held_out(number: int, loss: float = 0.4, samples: int = 4) -> HeldOutRecord:
    return HeldOutRecord(step=number, held_out=loss, by_time=(loss,), samples=samples)


@pytest.fixture
def run() -> LiveRun:
    """Its clock goes on by a quarter of a second at every step."""
    ticks = itertools.count()
    return LiveRun(PLACE, can_sample=True, clock=lambda: next(ticks) / 4)


def test_figures_of_a_running_training(run):
    run.begin(0, 10, History())
    for number in (1, 2, 3):
        run.step(step(number))
    found = run.summary()
    assert (found["phase"], found["step"], found["until_step"], found["learning_rate"]) == ("running", 3, 10, 1e-3)
    assert found["steps_per_second"] == 4.0 and found["seconds_left"] == 1.75 and found["node"] == "7" and found["workflow"] == "a-workflow"


def test_an_event_tells_what_is_new_and_history_what_was_told(run):
    run.begin(0, 10, History())
    run.step(step(1, 1.0))
    run.step(step(2, 3.0))
    run.held_out(held_out(2))
    event = run.event()
    assert event["point"] == [2, 2, 2.0, 1.0, 3.0, 1e-3] and event["held_out"] == [[2, 0.4]]
    run.step(step(3, 5.0))
    history = run.history()
    assert history["points"] == [event["point"]] and history["sequence"] == event["sequence"], "the third step comes with the next event"
    later = run.event()
    assert later["sequence"] == event["sequence"] + 1 and later["point"][:3] == [3, 1, 5.0] and later["held_out"] == []
    assert run.event()["point"] is None


def test_an_event_has_the_same_size_after_any_number_of_steps(run):
    """At worst: 100,000 steps, a held-out loss and pictures at every hundredth."""
    run.begin(0, 100_000, History())
    for number in range(1, 100_001):
        run.step(step(number, 0.123456789))
        if number % 100 == 0:
            run.held_out(held_out(number))
            run.pictures(number, [b"x"])
            size = len(json.dumps(run.event()))
    assert size < 1500 and len(json.dumps(run.history())) < 400_000


def test_a_resumed_training_shows_its_whole_curve(run):
    run.begin(2, 4, History((step(1, 1.0), step(2, 2.0)), (held_out(0), held_out(2))))
    run.step(step(3, 3.0))
    run.event()
    history = run.history()
    assert [point[:3] for point in history["points"]] == [[1, 1, 1.0], [2, 1, 2.0], [3, 1, 3.0]] and history["held_out"] == [[0, 0.4], [2, 0.4]]


def test_held_out_losses_of_other_pictures_are_not_drawn_together(run):
    run.begin(0, 9, History((), (held_out(0, samples=2), held_out(5, samples=2))))
    run.held_out(held_out(6, samples=3))
    assert run.history()["held_out"] == [[6, 0.4]]


def test_wishes_are_taken_while_it_runs_and_fulfilled_once(run):
    assert not run.wish("stop"), "nothing runs yet"
    run.begin(0, 10, History())
    assert run.wish("save") and run.wish("sample") and run.wish("save")
    assert run.wishes() == ("save", "sample") and run.event()["wishes"] == ["save", "sample"]
    run.fulfilled(["save"])
    assert run.wishes() == ("sample",)
    run.end("finished")
    assert run.wishes() == () and not run.wish("stop") and not run.going_on


def test_pictures_are_promised_only_where_they_can_be_made():
    run = LiveRun(PLACE)
    run.begin(0, 10, History())
    assert not run.wish("sample") and run.wish("stop") and run.summary()["can_sample"] is False


def test_what_was_found_on_the_disk_is_shown_whole(run):
    run.found(2, False, History((step(1), step(2)), ()))
    run.event()
    found = run.history()
    assert (found["phase"], found["step"], len(found["points"]), found["seconds_left"]) == ("found", 2, 2, None)


def test_a_long_message_is_cut(run):
    run.end("failed", "x" * 10_000)
    assert len(run.summary()["message"]) == 400

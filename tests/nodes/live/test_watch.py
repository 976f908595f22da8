"""A training tied to its panel: a stand-in for the loop tells, events come out."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from graft.nodes.live.board import Board
from graft.nodes.live.pulse import Pulse
from graft.nodes.live.run import Place
from graft.nodes.live.watch import EVENT, Watch
from graft.training.errors import InputError
from graft.training.history import History, StepRecord


class Painter:
    """Makes one picture that names its step; `fails` is raised instead."""

    able, fails = True, None

    def hints(self):
        return [b"hint"]

    def paint(self, learner):
        if self.fails:
            raise self.fails
        return [b"picture at %d" % learner.step]


def record(step: int) -> StepRecord:
    return StepRecord(step=step, loss=1.0, learning_rate=1e-3, gradient_norm=1.0, buckets={}, seconds=0.1)


def trained(watch: Watch, steps: int, until_step: int | None = None, each=lambda step: None):
    """What the loop does with a listener."""
    learner = SimpleNamespace(step=0)
    watch.begin(learner, SimpleNamespace(until_step=until_step or steps, history=lambda step: History(), run=SimpleNamespace(folder=Path("nowhere"))))
    for number in range(1, steps + 1):
        each(number)
        learner.step = number
        watch.step(record(number), dict)
        wishes = watch.wishes()
        if "save" in wishes:
            watch.saved(number)
        if "sample" in wishes:
            watch.sample(learner)
        if "stop" in wishes:
            break
    watch.end(None)
    return SimpleNamespace(step=learner.step, partial=learner.step < (until_step or steps), history=History, folder=Path("nowhere"))


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def sent() -> list[dict]:
    return []


@pytest.fixture
def make(board, sent):
    def watch(sample_every: int = 0, painter=None) -> Watch:
        def send(name, data):
            assert name == EVENT and threading.current_thread() is not threading.main_thread()
            sent.append(dict(data))

        return Watch(send, Place("7", "w"), painter or Painter(), sample_every, torch.device("cpu"), board)

    return watch


def test_the_last_event_tells_everything(make, sent, board):
    with make() as watch:
        watch.result(trained(watch, 500))
    assert sent[-1]["phase"] == "finished" and sent[-1]["step"] == 500 and sent[-1]["memory"]["main"]["peak"] > 10**6
    assert [event["sequence"] for event in sent] == list(range(1, len(sent) + 1))
    assert sum(event["point"][1] for event in sent if event["point"]) == 500, "no step is missing"
    assert board.summaries()["runs"][0]["node"] == "7" and board.stops("7") == 0


def test_at_most_ten_events_a_second_leave(make, sent):
    began = time.monotonic()
    with make() as watch:
        trained(watch, 40, each=lambda step: time.sleep(0.01))
    assert len(sent) <= 10 * (time.monotonic() - began) + 3


def test_pictures_come_first_then_every_so_often_and_when_asked_for(make, board):
    with make(sample_every=3) as watch:
        trained(watch, 7, each=lambda step: step == 5 and board.wish(watch.run.id, "sample"))
    assert watch.run.summary()["picture_steps"] == [0, 3, 5, 6]
    assert board.picture(watch.run.id, "5", "0") == b"picture at 5" and board.picture(watch.run.id, "hint", "0") == b"hint"


def test_without_an_interval_pictures_come_only_when_asked_for(make):
    with make() as watch:
        trained(watch, 7)
    assert watch.run.summary()["picture_steps"] == []


def test_pictures_of_an_earlier_sitting_stay_while_the_same_run_goes_on(make):
    with make(sample_every=2) as watch:
        watch.result(trained(watch, 2, until_step=4))
    with make(sample_every=2) as again:
        state = trained(again, 4)
    assert again.run.summary()["picture_steps"] == [0, 2, 4] and again.run.picture(2, 0) == b"picture at 2"
    with make() as found:
        found.result(state)
    assert found.run.summary()["picture_steps"] == [0, 2, 4]
    with make() as other:
        state.folder = Path("elsewhere")
        other.result(state)
    assert other.run.summary()["picture_steps"] == [], "another training's pictures are its own"


def test_a_wish_is_told_to_the_pages_before_the_step_ends(make, sent, board):
    with make() as watch:
        watch.run.begin(0, 9, History())
        board.wish(watch.run.id, "save")
        end = time.monotonic() + 10
        while not any(event["wishes"] for event in sent) and time.monotonic() < end:
            time.sleep(0.01)
        assert sent[-1]["wishes"] == ["save"] and sent[-1]["step"] == 0


def test_the_newest_picture_is_kept_beside_the_run(make, tmp_path):
    with make(sample_every=2) as watch:
        state = trained(watch, 4)
        state.folder = tmp_path
        watch.result(state)
    assert (tmp_path / "picture.jpg").read_bytes() == b"picture at 4"


def test_no_memory_for_pictures_is_said_and_training_goes_on(make, sent):
    painter = Painter()
    painter.fails = torch.cuda.OutOfMemoryError("full")
    with make(sample_every=2, painter=painter) as watch:
        trained(watch, 4)
    assert sent[-1]["phase"] == "finished" and "no memory for pictures" in sent[-1]["message"]


def test_stop_and_save_are_confirmed_and_the_node_is_asked_again(make, sent, board):
    def each(step):
        if step in (2, 4):
            assert board.wish(watch.run.id, {2: "save", 4: "stop"}[step])

    with make() as watch:
        watch.result(trained(watch, 9, each=each))
    assert (sent[-1]["phase"], sent[-1]["step"], sent[-1]["saved_step"], sent[-1]["wishes"]) == ("stopped", 4, 2, [])
    assert board.stops("7") == 1


def test_a_result_from_the_disk_is_shown(make, sent):
    with make() as watch:
        watch.result(SimpleNamespace(step=3, partial=False, folder=Path("nowhere"), history=lambda: History((record(1), record(2), record(3)))))
    assert sent[-1]["phase"] == "found" and len(watch.run.history()["points"]) == 3


class InterruptProcessingException(Exception):  # noqa: N818
    """As ComfyUI v0.3.64 has it."""


@pytest.mark.parametrize(
    ("error", "phase", "message"),
    [
        (InterruptProcessingException(), "cancelled", ""),
        (KeyboardInterrupt(), "cancelled", ""),
        (InputError("steps", expected="1", found=0, remedy="Ask."), "failed", "steps"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_what_ends_it_is_told_and_goes_on_its_way(make, sent, error, phase, message):
    with pytest.raises(type(error)), make():
        raise error
    assert sent[-1]["phase"] == phase and message in sent[-1]["message"]


def test_a_pulse_tells_the_last_news_and_ends_its_thread():
    told, news = [], [0]
    pulse = Pulse(lambda: told.append(news[0]), interval_seconds=0.05)
    for number in range(1, 200):
        news[0] = number
        pulse.due()
    pulse.close()
    assert told[-1] == 199 and len(told) < 10 and not any(thread.name == "graft live panel" for thread in threading.enumerate())

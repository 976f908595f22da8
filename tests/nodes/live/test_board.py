"""What a page may ask: of this server's own runs, in checked words."""

from __future__ import annotations

import pytest
from graft.nodes import train
from graft.nodes.live.board import Board, Unknown
from graft.nodes.live.run import LiveRun, Place
from graft.training.errors import InputError
from graft.training.history import History


@pytest.fixture
def board() -> Board:
    return Board(most=3)


def running(node: str) -> LiveRun:
    run = LiveRun(Place(node), can_sample=True)
    run.begin(0, 5, History())
    return run


def shown(board: Board) -> list[str]:
    return [found["node"] for found in board.summaries()["runs"]]


def test_a_node_shows_its_newest_run_and_the_oldest_that_have_ended_give_way(board):
    for node in ("1", "2", "1", "3", "4"):
        run = running(node)
        board.add(run)
        run.end("finished")
    assert shown(board) == ["1", "3", "4"]


def test_what_still_runs_is_never_forgotten(board):
    for node in "12345":
        board.add(running(node))
    assert shown(board) == list("12345")


def test_a_wish_reaches_its_run(board):
    run = running("1")
    board.add(run)
    assert board.wish(run.id, "stop") and run.wishes() == ("stop",)
    run.end("stopped")
    assert not board.wish(run.id, "stop")


@pytest.mark.parametrize("wish", ["", "STOP", "delete", "go on", "stop "])
def test_no_other_wish_is_known(board, wish):
    run = running("1")
    board.add(run)
    with pytest.raises(InputError, match="save, sample, stop"):
        board.wish(run.id, wish)
    assert run.wishes() == ()


@pytest.mark.parametrize("run_id", ["", "0" * 16, "../../etc/passwd", "0" * 10_000, "..%2f"])
def test_no_other_run_is_known(board, run_id):
    board.add(running("1"))
    for ask in (board.history, lambda found: board.wish(found, "stop"), lambda found: board.picture(found, "0", "0")):
        with pytest.raises(Unknown):
            ask(run_id)


STRANGE = [("0", "1"), ("1", "0"), ("hint", "0"), ("-1", "0"), ("0", "-1"), ("../0", "0"), ("0", "a"), ("9" * 50, "0")]


@pytest.mark.parametrize(("step", "index"), STRANGE)
def test_pictures_are_known_by_step_and_number_alone(board, step, index):
    run = running("1")
    run.pictures(0, [b"picture"])
    board.add(run)
    assert board.picture(run.id, "0", "0") == b"picture"
    with pytest.raises(Unknown):
        board.picture(run.id, step, index)


def test_a_stopped_node_is_asked_again(board):
    assert board.stops("7") == 0
    board.stopped("7")
    assert board.stops("7") == 1 and board.stops("8") == 0


def test_the_node_tells_comfyui_that_it_was_stopped(board, monkeypatch):
    monkeypatch.setattr(train, "BOARD", board)
    before = train.TrainSteps.IS_CHANGED(steps=9, unique_id="7")
    board.stopped("7")
    assert train.TrainSteps.IS_CHANGED(steps=9, unique_id="7") != before == train.TrainSteps.IS_CHANGED(steps=9, unique_id="8")

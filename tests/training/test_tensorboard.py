"""TensorBoard's files: what is written into them, and that training is the same with and without."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.listener import Several, Silent
from graft.training.store import RunStore
from graft.training.tensorboard import TensorBoardLog


class Writer:
    """As much of torch.utils.tensorboard.SummaryWriter as is used; keeps what it is told, and makes its folder as the real one does."""

    made: list[Writer]

    def __init__(self, log_dir: str, purge_step: int, flush_secs: int) -> None:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        self.folder, self.purge_step, self.scalars, self.texts, self.closed = Path(log_dir), purge_step, [], [], False
        type(self).made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts.append((tag, text))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch) -> list[Writer]:
    Writer.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return Writer.made


def test_every_figure_is_written_and_nothing_that_is_trained_changes(tiny_train, tiny_settings, tmp_path, writers):
    settings = tiny_settings(evaluate_every=2)
    logged = tiny_train(3, settings, listener=TensorBoardLog(tmp_path / "logs"))
    alone = tiny_train(3, settings, store=RunStore(tmp_path / "alone"))
    (writer,) = writers
    assert writer.closed and writer.folder == tmp_path / "logs" / logged.folder.name and '"learning_rate"' in writer.texts[0][1]
    assert [value for tag, value, _ in writer.scalars if tag == "train/loss"] == [record.loss for record in logged.history().steps]
    assert [step for tag, _, step in writer.scalars if tag == "held_out/loss"] == [0, 2, 3]
    assert {tag for tag, _, _ in writer.scalars} > {"train/learning_rate", "train/gradient_norm", "train/step_seconds", "held_out/loss_at_t_0.0625"}
    assert fingerprint(logged.checkpoint.read("weights")) == fingerprint(alone.checkpoint.read("weights"))


def test_a_training_that_goes_on_goes_on_in_its_files(tiny_train, tiny_settings, tmp_path, writers):
    for steps in (2, 4):
        tiny_train(steps, tiny_settings(), listener=TensorBoardLog(tmp_path / "logs"))
    first, second = writers
    assert first.folder == second.folder and (first.purge_step, second.purge_step) == (1, 3)
    assert [step for tag, _, step in second.scalars if tag == "train/loss"] == [3, 4] and not second.texts


def test_files_that_begin_later_hold_the_whole_training(tiny_train, tiny_settings, tmp_path, writers):
    tiny_train(2, tiny_settings())
    tiny_train(4, tiny_settings(), listener=TensorBoardLog(tmp_path / "logs"))
    assert [step for tag, _, step in writers[0].scalars if tag == "train/loss"] == [1, 2, 3, 4]


def test_without_the_package_it_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"the package tensorboard.*pip install tensorboard"):
        TensorBoardLog(tmp_path)


def test_the_real_package_reads_back_what_was_written(tiny_train, tiny_settings, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    state = tiny_train(3, tiny_settings(), listener=TensorBoardLog(tmp_path))
    found = events.EventAccumulator(str(tmp_path / state.folder.name)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in found] == [(record.step, pytest.approx(record.loss)) for record in state.history().steps]


def test_several_listeners_hear_everything_and_any_may_wish():
    heard: list[tuple[int, str]] = []

    class One(Silent):
        def __init__(self, number: int, *wishes: str) -> None:
            self.number, self.wished = number, wishes

        def __getattribute__(self, name: str):
            if name in ("begin", "step", "held_out", "sample", "saved", "end"):
                heard.append((object.__getattribute__(self, "number"), name))
            return object.__getattribute__(self, name)

        def wishes(self):
            return self.wished

    both = Several(One(1, "save"), One(2, "save", "stop"))
    both.begin(None, None)
    both.step(None, dict)
    both.held_out(None)
    both.sample(None)
    both.saved(3)
    both.end(None)
    assert heard == [(number, name) for name in ("begin", "step", "held_out", "sample", "saved", "end") for number in (1, 2)]
    assert both.wishes() == {"save", "stop"}

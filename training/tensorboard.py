"""A training's figures as TensorBoard's files, for those who compare runs there. It needs the package `tensorboard`, which nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .errors import InputError
from .history import HeldOutRecord, History, StepRecord
from .listener import Silent
from .objective import HELD_OUT_TIMES

if TYPE_CHECKING:
    from .learner import Learner
    from .loop import Training

FLUSH_SECONDS = 10


class TensorBoardLog(Silent):
    """Writes loss, learning rate, gradient norm, seconds per step and held-out losses of one training.

    Each run of the store has a folder of its own below `folder`. A training that goes on goes on in its files: what a killed process had logged
    beyond its last checkpoint is marked as void.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._new_writer = folder, _writer_class()
        self._writer: Any = None

    def begin(self, learner: Learner, training: Training) -> None:
        folder = self._folder / training.run.folder.name
        is_new = not folder.is_dir()
        self._writer = self._new_writer(log_dir=str(folder), purge_step=learner.step + 1, flush_secs=FLUSH_SECONDS)
        if is_new:
            self._writer.add_text("settings", f"```json\n{json.dumps(asdict(learner.settings), indent=1)}\n```", learner.step)
            self._write(training.history(learner.step))

    def step(self, record: StepRecord, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        figures = {"loss": record.loss, "learning_rate": record.learning_rate, "gradient_norm": record.gradient_norm, "step_seconds": record.seconds}
        if record.regularisation is not None:
            figures["regularisation_loss"] = record.regularisation
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, record.step)

    def held_out(self, record: HeldOutRecord) -> None:
        self._writer.add_scalar("held_out/loss", record.held_out, record.step)
        for t, loss in zip(HELD_OUT_TIMES, record.by_time, strict=False):
            self._writer.add_scalar(f"held_out/loss_at_t_{t:g}", loss, record.step)

    def end(self, error: BaseException | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, history: History) -> None:
        """What was measured before this sitting, by runs that this one began from too."""
        for step in history.steps:
            self.step(step, dict)
        for held_out in history.held_out:
            self.held_out(held_out)


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard", expected="the package tensorboard", found=str(error),
            remedy="Install it into the Python that runs this (python -m pip install tensorboard), or switch the option off.",
        ) from error  # fmt: skip
    return SummaryWriter

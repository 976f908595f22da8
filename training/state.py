"""A finished number of steps, as the value that travels through the graph: a handle to a run on disk, read when asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import EMA, WEIGHTS, Checkpoint, checkpoint_at
from .data.keys import content_key
from .errors import InputError
from .history import History, HistoryFile

RUN_FILE, HISTORY_FILE, LOCK_FILE = "run.json", "losses.jsonl", "lock"


@dataclass(frozen=True)
class State:
    """What was trained after `step` steps of a run."""

    folder: Path
    """The run's folder."""
    run_key: str
    """Stands for base, recipe, data, settings and the state that it began from."""
    inputs_key: str
    """Stands for base, recipe, data and settings: a Train Steps with the same goes on in the same run."""
    step: int
    """Finished steps, those of earlier runs that it began from included."""
    partial: bool = False
    """Whether it was stopped before the steps that were asked for."""
    parent: State | None = None
    """The state of another run that this run began from."""

    @property
    def key(self) -> str:
        """Stands for the trained numbers."""
        return content_key("state", self.run_key, self.step)

    @property
    def lineage(self) -> tuple[tuple[str, int], ...]:
        """(run key, step) from the first run to this one."""
        return (*(self.parent.lineage if self.parent else ()), (self.run_key, self.step))

    @property
    def checkpoint(self) -> Checkpoint:
        return checkpoint_at(self.folder, self.step)

    def weights(self) -> dict[str, Tensor]:
        """The trained module's whole state dict, on the CPU; what trained is fp32.

        Raises:
            InputError: the files are gone or damaged.
        """
        return self.checkpoint.read(WEIGHTS)

    def ema_weights(self) -> dict[str, Tensor] | None:
        """The same with the running average in place of what trained, or None if none was kept.

        Raises:
            InputError: the files are gone or damaged.
        """
        return {**self.weights(), **self.checkpoint.read(EMA)} if self.checkpoint.has(EMA) else None

    def history(self) -> History:
        """Losses from the first step on, through all runs of the lineage; parts whose run was deleted are missing."""
        earlier = self.parent.history() if self.parent else History()
        first = self.parent.step if self.parent else 0
        own = HistoryFile(self.folder / HISTORY_FILE).read().up_to(self.step)
        return earlier.followed_by(own.after(first) if self.parent else own)

    def inputs(self) -> dict[str, Any]:
        """run.json: what the run was made from.

        Raises:
            InputError: it is gone or damaged.
        """
        path = self.folder / RUN_FILE
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(str(path), expected="the description of a run", found=error, remedy="Run the workflow again.") from error

    @property
    def initial_fingerprint(self) -> str:
        """Fingerprint of the weights before the first step of the first run."""
        return self.parent.initial_fingerprint if self.parent else str(self.inputs()["initial_fingerprint"])

"""What a run has measured, one JSON line per event, in a file that is only ever appended to.

A killed process leaves at most a torn last line. A step that is done again after a restart is written again; the later line counts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .files.write import explained


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One finished step."""

    step: int
    """Finished steps, this one included."""
    loss: float
    """Mean over the step's samples."""
    learning_rate: float
    """The rate that the step used."""
    gradient_norm: float
    """Length of the gradient before clipping."""
    buckets: dict[int, tuple[float, int]]
    """Sum and number of the samples' losses per interval of t (objective.BUCKETS of them)."""
    seconds: float
    """Wall time of the step."""
    regularisation: float | None = None
    """Mean over the samples of its regularisation pictures, unweighted; None where there are none. `loss` does not hold it."""

    def figures(self) -> dict[str, float]:
        """What is shown beside a bar."""
        figures = {"loss": self.loss, "learning_rate": self.learning_rate}
        return figures if self.regularisation is None else {**figures, "regularisation": self.regularisation}


@dataclass(frozen=True, kw_only=True)
class HeldOutRecord:
    """The held-out loss after `step` steps."""

    step: int
    held_out: float
    """Mean over samples and times."""
    by_time: tuple[float, ...]
    """Mean over samples at each of objective.HELD_OUT_TIMES."""
    samples: int
    """How many held-out samples were seen."""


@dataclass(frozen=True)
class History:
    """All records up to some step, in order, one per step."""

    steps: tuple[StepRecord, ...] = ()
    held_out: tuple[HeldOutRecord, ...] = ()

    def up_to(self, step: int) -> History:
        return History(tuple(r for r in self.steps if r.step <= step), tuple(r for r in self.held_out if r.step <= step))

    def after(self, step: int) -> History:
        return History(tuple(r for r in self.steps if r.step > step), tuple(r for r in self.held_out if r.step > step))

    def followed_by(self, later: History) -> History:
        return History(self.steps + later.steps, self.held_out + later.held_out)

    @property
    def comparable_held_out(self) -> tuple[HeldOutRecord, ...]:
        """Those held-out losses that were taken on as many samples as the last one: others are of other pictures."""
        return tuple(record for record in self.held_out if record.samples == self.held_out[-1].samples)

    @property
    def regularisation(self) -> tuple[float, ...]:
        """The losses of regularisation pictures, one per step, NaN where a step had none; empty where no step had any."""
        losses = tuple(record.regularisation for record in self.steps)
        return () if all(loss is None for loss in losses) else tuple(math.nan if loss is None else loss for loss in losses)

    @property
    def seconds(self) -> float:
        """Time spent in steps."""
        return sum(record.seconds for record in self.steps)


class HistoryFile:
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: StepRecord | HeldOutRecord) -> None:
        """Adds one line, in one write.

        Raises:
            InputError: the disk is full or may not be written.
        """
        start = b"" if self._ends_whole() else b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(start + json.dumps(_fields(record), separators=(",", ":")).encode("utf-8") + b"\n")
        except OSError as error:
            raise explained(self.path, error) from error

    def flush(self) -> None:
        """Makes everything appended so far outlast a power cut."""
        if self.path.exists():
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())

    def read(self) -> History:
        """All whole lines; of several for one step the last."""
        if not self.path.exists():
            return History()
        entries = list(_whole_lines(self.path.read_bytes().splitlines()))
        steps = {entry["step"]: _step_record(entry) for entry in entries if "loss" in entry}
        held_out = {entry["step"]: _held_out_record(entry) for entry in entries if "held_out" in entry}
        return History(tuple(steps[step] for step in sorted(steps)), tuple(held_out[step] for step in sorted(held_out)))

    def _ends_whole(self) -> bool:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _fields(record: StepRecord | HeldOutRecord) -> dict[str, Any]:
    """What was not measured is not written."""
    return {name: value for name, value in asdict(record).items() if value is not None}


def _whole_lines(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn when its process was killed
        if isinstance(entry, dict) and "step" in entry:
            yield entry


def _step_record(entry: dict[str, Any]) -> StepRecord:
    buckets = {int(bucket): (float(total), int(count)) for bucket, (total, count) in entry["buckets"].items()}
    return StepRecord(**{**entry, "buckets": buckets})


def _held_out_record(entry: dict[str, Any]) -> HeldOutRecord:
    return HeldOutRecord(**{**entry, "by_time": tuple(entry["by_time"])})

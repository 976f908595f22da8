"""What a training was and what came of it, as one JSON value."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from statistics import mean, median
from typing import Any

import numpy
import torch

from . import __version__
from .files.fingerprint import fingerprint
from .opencv import cv2
from .state import State

LAST_STEPS = 50
"""The loss of regularisation pictures is reported as the mean of so many steps: a single step's depends on the t that it drew."""


def training_report(state: State, measures: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Figures of a state: measures first, then held-out losses, times, memory, whether weights changed, seeds and versions.

    `train_seconds` is the wall time of all sittings that led to the state, held-out losses and checkpoints included; `step_seconds` that of
    its steps alone. A held-out loss that was not taken at just this step (a checkpoint on the way may lie between two measurements), or on
    another number of pictures than the last one, is None. With regularisation pictures their own loss (of the last LAST_STEPS steps) and weight
    are reported too.

    Raises:
        InputError: the state's files are gone or damaged.
    """
    inputs, history, facts = state.inputs(), state.history(), state.checkpoint.facts()
    final_fingerprint = fingerprint(state.weights())
    held_out = {record.step: record.held_out for record in history.comparable_held_out}
    seconds = [record.seconds for record in history.steps]
    regularised = [loss for loss in history.regularisation[-LAST_STEPS:] if math.isfinite(loss)]
    return {
        **(measures or {}),
        "held_out_loss_before": held_out.get(0),
        "held_out_loss_after": held_out.get(state.step),
        **({"regularisation_loss": mean(regularised), "regularisation": inputs.get("regularisation")} if regularised else {}),
        "train_steps": state.step,
        "partial": state.partial,
        "train_seconds": facts.get("train_seconds"),
        "step_seconds": history.seconds,
        "seconds_per_step": median(seconds) if seconds else None,
        "peak_memory_bytes": facts.get("peak_memory_bytes"),
        "weights_changed": final_fingerprint != state.initial_fingerprint,
        "weights_fingerprint": final_fingerprint,
        "initial_fingerprint": state.initial_fingerprint,
        "base_fingerprint": inputs["base_fingerprint"],
        "base_name": inputs.get("base_name", ""),
        "data_key": inputs["data_key"],
        "run_key": state.run_key,
        "recipe": inputs["recipe"],
        "settings": inputs["settings"],
        "compute": inputs["compute"],
        "seeds": {"training": inputs["settings"]["seed"], "initial_weights": inputs["recipe"].get("seed")},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    return {
        "graft": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }

"""A request for so many more steps: found on disk, gone on with, or begun. The function behind the Train Steps node."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .data.encoded import Encoded
from .data.keys import content_key
from .errors import InputError
from .history import History
from .learner import Learner
from .listener import NO_LISTENER, Listener
from .loop import Training, train
from .models.flux import FluxEmbedders
from .optimise import learning_rate
from .optimiser_kinds import goes_on_with, require_library
from .out_of_memory import freed_when_memory_runs_out
from .progress import NO_PROGRESS, Progress
from .regularisation import Regularisation
from .settings import Settings
from .state import State
from .store import Run, RunStore
from .trainable.base import Base, Recipe
from .trainable.fits import require_data_fits
from .weights import compute_dtype

_log = logging.getLogger(__name__)
NUMERICS_VERSION = 2
"""Part of every key: raise it when the same inputs would give other numbers than before."""


@torch.inference_mode(False)
@torch.enable_grad()
def train_to(
    base: Base,
    recipe: Recipe,
    data: Encoded,
    settings: Settings,
    *,
    steps: int,
    store: RunStore,
    device: torch.device,
    previous: State | None = None,
    progress: Progress = NO_PROGRESS,
    listener: Listener = NO_LISTENER,
    regularisation: Regularisation | None = None,
) -> State:
    """The state `steps` steps after `previous` (or after the recipe's initial weights).

    A state that is on disk is returned at once. Otherwise training goes on from the checkpoint with the most steps that lies before it: so
    neither raising a node's steps, nor an interruption, nor another branch trains anything twice. With the same base, recipe, data and
    settings as `previous` it goes on in the same run, else in a run of its own that begins with the weights, the optimiser state and the
    step count of `previous`. Of another optimiser's state only what both keep in the same form goes on, or nothing.

    Args:
        regularisation: pictures that must not change; part of the key.

    Raises:
        InputError: before work starts: steps below 1, an optimiser whose library is not installed, data of another model or with hints of
            another form, no room on the disk, a run that another process trains, a `previous` that was trained as something else or whose
            files are gone.
        NonFiniteError: a loss or gradient is not finite; what was trained before is kept.
        OutOfMemory: likewise, with nothing of the training left in memory.
    """
    if steps < 1:
        raise InputError("steps", expected="1 or more", found=steps, remedy="Ask for at least one step.")
    request = request_for(base, recipe, data, settings, steps, device, previous, regularisation)
    run = store.run(request.run_key)
    found = run.checkpoint(request.until_step)
    if found is not None:
        _log.info("%d steps of this training are kept already: nothing to train", found.step)
        return _used(store, request.state(run, found.step))
    require_library(settings.optimiser.name)
    require_base_fits(base, recipe, data)
    if regularisation is not None:
        require_base_fits(base, recipe, regularisation.data)
    with freed_when_memory_runs_out(run, settings, data, device):
        return _trained(Learner(base.model, recipe, settings, device), run, request, data, store, progress, listener, regularisation)


def _trained(
    learner: Learner, run: Run, request: Request, data: Encoded, store: RunStore, progress: Progress, listener: Listener,
    regularisation: Regularisation | None,
) -> State:  # fmt: skip
    store.require_room(learner.checkpoint_bytes)
    if not data.held_out_size:
        _log.warning("No pictures are held out: there will be no held-out loss, and nothing for a validation grid. `held_out` of the data sets it.")
    with run.training():
        begin(learner, run, request, data)
        _warn_of_steps_beyond_the_horizon(learner, request.until_step)
        earlier = request.parent.history() if request.parent else History()
        training = Training(
            data=data, run=run, until_step=request.until_step, progress=progress, listener=listener, regularisation=regularisation, earlier=earlier
        )  # fmt: skip
        train(learner, training)
        return _used(store, request.state(run, learner.step))


def begin(learner: Learner, run: Run, request: Request, data: Encoded) -> None:
    """Puts the learner where the run goes on, and describes the run; for the holder of its lock."""
    _go_on(learner, run, request)
    run.describe({**request.inputs, **_described_data(data), **_described_learner(learner)})


def _warn_of_steps_beyond_the_horizon(learner: Learner, until_step: int) -> None:
    schedule = learner.settings.schedule
    beyond = until_step - max(learner.step, schedule.horizon_steps)
    if schedule.shape != "constant" and beyond > 0:
        rate = learning_rate(learner.settings.optimiser, schedule, schedule.horizon_steps)
        text = (
            "%d of the %d steps to train lie beyond the schedule's horizon of %d steps: they train at its last learning rate, %.3g. "
            "A larger horizon_steps in Training Settings spreads the schedule over all of them, in a training of its own."
        )
        _log.warning(text, beyond, until_step - learner.step, schedule.horizon_steps, rate)


def _used(store: RunStore, state: State) -> State:
    store.use(state)
    return state


def require_base_fits(base: Base, recipe: Recipe, data: Encoded) -> None:
    """Raises InputError if data, base and recipe do not belong together. Bases that are no FLUX tell no sizes: their first step would."""
    if isinstance(base.model, FluxEmbedders):
        require_data_fits(data, base.model.config, recipe)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a run, under which keys."""

    inputs: dict[str, Any]
    inputs_key: str
    run_key: str
    until_step: int
    parent: State | None

    def state(self, run: Run, step: int) -> State:
        """The handle to a finished checkpoint, which is now kept for good."""
        state = State(
            folder=run.folder,
            run_key=self.run_key,
            inputs_key=self.inputs_key,
            step=step,
            partial=step < self.until_step,
            parent=self.parent,
        )
        state.checkpoint.pin()
        return state


def request_for(
    base: Base, recipe: Recipe, data: Encoded, settings: Settings, steps: int, device: torch.device, previous: State | None,
    regularisation: Regularisation | None = None,
) -> Request:  # fmt: skip
    inputs: dict[str, Any] = {
        "numerics_version": NUMERICS_VERSION,
        "base_fingerprint": base.fingerprint,
        "recipe": recipe.key_fields(),
        "data_key": data.key,
        "settings": settings.key_fields(),
        "compute": str(compute_dtype(settings.precision.compute, device)).removeprefix("torch."),
    }
    if regularisation is not None:
        inputs["regularisation"] = regularisation.key_fields()
    inputs_key = content_key("inputs", json.dumps(inputs, sort_keys=True, allow_nan=False))
    goes_on = previous is not None and previous.inputs_key == inputs_key
    parent = previous.parent if previous is not None and goes_on else previous
    run_key = content_key("run", inputs_key, parent.key if parent else None)
    described = {**inputs, "base_name": base.name, "run_key": run_key, "inputs_key": inputs_key, "parent": _described(parent)}
    until_step = steps + (previous.step if previous else 0)
    return Request(inputs=described, inputs_key=inputs_key, run_key=run_key, until_step=until_step, parent=parent)


def _described(parent: State | None) -> dict[str, Any] | None:
    return {"run_key": parent.run_key, "step": parent.step} if parent else None


def _described_data(data: Encoded) -> dict[str, Any]:
    """For people and for exported files; the data's key already stands for all of it."""
    hint = {"recipe": data.recipe.describe(), "form": data.hint_form}
    return {"resolution_px": data.resolution_px, "hint": hint, "train_samples": data.train_size, "held_out_samples": data.held_out_size}


def _described_learner(learner: Learner) -> dict[str, Any]:
    module = learner.trainable.module
    described: dict[str, Any] = {"initial_fingerprint": learner.initial_fingerprint, "notes": list(getattr(module, "notes", ()))}
    described |= getattr(module, "described", {})
    if isinstance(learner.base, FluxEmbedders):
        described["base_sizes"] = asdict(learner.base.config)
    return {**described, "axes": list(module.config.axes)} if isinstance(module, FluxEmbedders) else described


def _go_on(learner: Learner, run: Run, request: Request) -> None:
    latest = run.latest_at_most(request.until_step)
    if latest is not None:
        learner.restore(latest)
        _log.info("The training goes on from step %d, which is kept", latest.step)
    elif request.parent is not None:
        before = request.parent.inputs()["settings"]["optimiser"]["name"]
        learner.restore(request.parent.checkpoint, with_optimiser=goes_on_with(before, learner.settings.optimiser.name))

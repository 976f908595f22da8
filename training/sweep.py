"""Several LoRAs of one base trained together, each as if it were trained alone: other learning rates, ranks or seeds on the same data.

Each has the run, under the very key, that train_to gives it alone: a run that is there is not trained again, and a single training finds what a
sweep has trained. The numbers of both agree to rounding: sums over rows and ranks are taken in another order (docs/SWEEP.md states how closely).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import torch
from torch import nn

from .data.encoded import Encoded
from .errors import InputError
from .guard import NonFiniteError
from .history import History
from .learner import Learner
from .models.flux import Flux
from .optimiser_kinds import require_library
from .out_of_memory import freed_when_memory_runs_out
from .progress import NO_PROGRESS, Progress
from .settings import Settings
from .state import State
from .store import Run, RunStore
from .sweep_loop import Lane, SweepTraining, train_lanes
from .train_to import Request, begin, request_for, require_base_fits
from .trainable.base import Base
from .trainable.lora import LoraRecipe
from .weights import compute_dtype, move_frozen, own_module

_OWN = ("optimiser", "schedule", "clip_norm", "ema_decay", "keep_checkpoints")
"""The settings that each LoRA of a sweep may have for itself."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One LoRA of a sweep."""

    name: str
    """What sets it apart, fit for a file's name: "lr0.001_rank8"."""
    recipe: LoraRecipe
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one member."""

    member: Member
    state: State | None
    """After the steps that were asked for; after fewer if it failed; None if it failed in its first step."""
    error: NonFiniteError | None = None
    """Why it failed."""

    def history(self) -> History:
        """Its losses from the first step on."""
        return History() if self.state is None else self.state.history()


def members_of(
    recipe: Any, settings: Settings, *, learning_rates: Sequence[float] = (), ranks: Sequence[int] = (), seeds: Sequence[int] = (),
    keep_scale: bool = True,
) -> list[Member]:  # fmt: skip
    """All combinations of the given values; of an empty list the one that recipe or settings have.

    Args:
        recipe: of the LoRA.
        seeds: of the adapters' first values.
        keep_scale: other ranks keep alpha / rank, else alpha.

    Raises:
        InputError: no LoRA, a value that is given twice or that a LoRA cannot have, ranks or seeds for a LoRA from a file.
    """
    if not isinstance(recipe, LoraRecipe):
        raise InputError("sweep", expected="a LoRA", found=type(recipe).__name__, remedy="Connect Build LoRA or Load LoRA.")
    if recipe.from_file is not None and (ranks or seeds):
        raise InputError("sweep", expected="learning rates only for a LoRA from a file", found="ranks or seeds", remedy="Leave these empty.")
    values: dict[str, Sequence[float]] = {"lr": learning_rates, "rank": ranks, "seed": seeds}
    for name, given in values.items():
        _require_different(name, given)
    combinations = product(learning_rates or [settings.optimiser.learning_rate], ranks or [recipe.rank], seeds or [recipe.seed])
    varied = [name for name, given in values.items() if len(given) > 1] or ["lr"]
    return [_member(recipe, settings, dict(zip(values, chosen, strict=True)), varied, keep_scale) for chosen in combinations]


def _require_different(name: str, given: Sequence[float]) -> None:
    if len(set(given)) < len(given):
        listed = ", ".join(f"{value:g}" for value in given)
        raise InputError("sweep", expected=f"every {name} once", found=listed, remedy="Take the double ones out.")


def _member(recipe: LoraRecipe, settings: Settings, chosen: Mapping[str, Any], varied: Sequence[str], keep_scale: bool) -> Member:
    same = chosen["rank"] == recipe.rank or not keep_scale
    alpha = recipe.alpha if same else recipe.alpha * chosen["rank"] / recipe.rank
    return Member(
        name="_".join(f"{name}{chosen[name]:g}" for name in varied),
        recipe=replace(recipe, rank=chosen["rank"], seed=chosen["seed"], alpha=alpha),
        settings=replace(settings, optimiser=replace(settings.optimiser, learning_rate=chosen["lr"])),
    )


@dataclass(frozen=True, eq=False)
class _Entry:
    member: Member
    request: Request
    run: Run


@torch.inference_mode(False)
@torch.enable_grad()
def train_sweep(
    base: Base,
    members: Sequence[Member],
    data: Encoded,
    *,
    steps: int,
    store: RunStore,
    device: torch.device,
    previous: State | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Outcome]:
    """The states of all members, `steps` steps after `previous` (or after their initial weights), in their order.

    Those on disk are found; the others are trained together, one that is ahead being joined by the rest. Interrupted, all of them are saved where
    they are, and the next call goes on from there, bit for bit as if nothing had happened if the same members take part.

    Raises:
        InputError: before work starts, as train_to; no member, members that differ in more than recipe, optimiser, schedule, clipping and EMA, DoRA.
        NonFiniteError: the loss or gradient of every member is not finite; one of several leaves the others (its `Outcome.error`).
        OutOfMemory: all of them together needed more memory than there is; what was trained before is kept.
    """
    _require_sweep(members, steps)
    requests = [request_for(base, member.recipe, data, member.settings, steps, device, previous) for member in members]
    entries = [_Entry(member, request, store.run(request.run_key)) for member, request in zip(members, requests, strict=True)]
    missing = {entry.request.run_key: entry for entry in entries if entry.run.checkpoint(entry.request.until_step) is None}
    errors: dict[str, NonFiniteError] = {}
    if missing:
        errors = _train(base, list(missing.values()), data, store, device, progress)
    outcomes = [_outcome(entry, errors.get(entry.request.run_key), store) for entry in entries]
    if all(outcome.error is not None and outcome.state is None for outcome in outcomes):
        raise next(iter(errors.values()))
    return outcomes


def _require_sweep(members: Sequence[Member], steps: int) -> None:
    if not members:
        raise InputError("sweep", expected="at least one LoRA", found="none", remedy="Give learning rates, ranks or seeds.")
    if steps < 1:
        raise InputError("steps", expected="1 or more", found=steps, remedy="Ask for at least one step.")
    first = members[0].settings
    common = [field.name for field in fields(first) if field.name not in _OWN]
    other = [name for name in common if any(getattr(member.settings, name) != getattr(first, name) for member in members)]
    if other:
        found = f"other values of {', '.join(other)}"
        raise InputError("sweep", expected="members that see the same batches and times", found=found, remedy="Give them one settings.")
    if any(member.recipe.dora for member in members):
        raise InputError("sweep", expected="LoRAs without DoRA", found="DoRA", remedy="Switch DoRA off, or train each by a Train Steps of its own.")


def _outcome(entry: _Entry, error: NonFiniteError | None, store: RunStore) -> Outcome:
    latest = entry.run.latest_at_most(entry.request.until_step) if error else entry.run.checkpoint(entry.request.until_step)
    if latest is None:
        return Outcome(member=entry.member, state=None, error=error)
    state = entry.request.state(entry.run, latest.step)
    store.use(state)
    return Outcome(member=entry.member, state=state, error=error)


def _train(
    base: Base, entries: Sequence[_Entry], data: Encoded, store: RunStore, device: torch.device, progress: Progress
) -> dict[str, NonFiniteError]:
    """By run key why some went no further."""
    settings = entries[0].member.settings
    for entry in entries:
        require_library(entry.member.settings.optimiser.name)
        require_base_fits(base, entry.member.recipe, data)
    fewer = (f"fewer LoRAs at once than these {len(entries)}",) if len(entries) > 1 else ()
    with freed_when_memory_runs_out(entries[0].run, settings, data, device, fewer):
        shared = _shared_base(base, settings, device)
        learners = [Learner(shared, entry.member.recipe, entry.member.settings, device) for entry in entries]
        store.require_room(sum(learner.checkpoint_bytes for learner in learners))
        with ExitStack() as locks:
            lanes = [_lane(entry, learner, data, len(entries), progress, locks) for entry, learner in zip(entries, learners, strict=True)]
            train_lanes(shared, lanes, progress)
        return {entry.request.run_key: lane.error for entry, lane in zip(entries, lanes, strict=True) if lane.error is not None}


def _shared_base(base: Base, settings: Settings, device: torch.device) -> Flux:
    """On the device once, for all."""
    shared: Any = own_module(base.model)
    move_frozen(shared, nn.Module(), device, compute_dtype(settings.precision.compute, device))
    return shared


def _lane(entry: _Entry, learner: Learner, data: Encoded, together: int, progress: Progress, locks: ExitStack) -> Lane:
    locks.enter_context(entry.run.training())
    begin(learner, entry.run, entry.request, data)
    training = SweepTraining(data=data, run=entry.run, until_step=entry.request.until_step, progress=progress, together=together)
    return Lane(learner, training)

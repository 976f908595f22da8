"""Everything that a step changes, on one device: trained weights, optimiser state, running average, and the count of finished steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .checkpoint import EMA, OPTIMISER, WEIGHTS, Checkpoint
from .files.fingerprint import fingerprint
from .optimise import build_optimiser, ema_decay, optimiser_tensors, restore_optimiser, set_learning_rate, update_ema, used_learning_rate
from .optimiser_kinds import KINDS
from .optimiser_state import only
from .schedule_free import averaged, is_schedule_free, places, take_places
from .settings import Settings
from .trainable.base import Conditions, Recipe
from .weights import TrainedWeights, compute_dtype, move_frozen, own_module

_FLOAT32_BYTES = 4


class Learner:
    """Made fresh by `__init__`, as it was by `restore`; changed by `update` alone.

    Args:
        base: the frozen transformer; it is left as it is, storage is shared where device and dtype allow.
        recipe: what to train.
        settings: of the training.
        device: where to compute.

    Raises:
        InputError: the recipe does not fit the base.
    """

    def __init__(self, base: nn.Module, recipe: Recipe, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.compute = compute_dtype(settings.precision.compute, device)
        self.base = own_module(base)
        self.trainable = recipe.build(self.base)
        self.initial_fingerprint = fingerprint(self.trainable.module.state_dict())
        move_frozen(self.base, self.trainable.module, device, self.compute)
        self.weights = TrainedWeights(self.trainable.module, device, self.compute)
        self.optimiser = build_optimiser(settings.optimiser, self.weights.parameters)
        self._averages, self._shows_result = is_schedule_free(self.optimiser), False
        self.ema = self._copies() if settings.ema_decay else {}
        self.step = 0
        self.seconds_before: float | None = 0.0
        """Wall time of the trainings that led to what was restored; None if nobody noted it."""
        self.changing = False
        """Set while a step is being applied: what is stopped in the middle of that is neither the old state nor the new one."""
        self._set_checkpointing()

    def predict(self, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor) -> Tensor:
        """The velocity [B, C, H, W] (objective.Predict)."""
        return self.trainable.predict(self.base, x_t, t, conditions, guidance)

    def update(self, learning_rate: float) -> float:
        """One step by the gradients that the masters hold now; gives the rate that it used, which Prodigy finds itself."""
        self.changing = True
        set_learning_rate(self.optimiser, learning_rate)
        used = used_learning_rate(self.optimiser)
        self.optimiser.step()
        self.discard_gradients()
        self.weights.publish()
        if self.ema:
            update_ema(self.ema, self.weights.masters, ema_decay(self.settings.ema_decay, self.step))
        self.step += 1
        self.changing = False
        return used

    def discard_gradients(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def result(self) -> dict[str, Tensor]:
        """The whole result by name, as it is saved: what trains, or the average that a schedule-free optimiser makes of it. Trained in fp32."""
        is_apart = self._averages and not self._shows_result
        return {**self.weights.tensors(), **(averaged(self.optimiser, self.weights.names) if is_apart else {})}

    @contextmanager
    def showing_result(self) -> Iterator[None]:
        """Inside, the network computes with `result`; afterwards it goes on from where it was, bit for bit."""
        if not self._averages:
            yield
            return
        trained = self._copies()
        try:
            self._put(self.result())
            self._shows_result = True
            yield
        finally:
            self._put(trained)
            self._shows_result = False

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds."""
        state = optimiser_tensors(self.optimiser, self.weights.names)
        parts = {WEIGHTS: self.result(), OPTIMISER: {**state, **(places(self.weights.masters) if self._averages else {})}}
        return {**parts, EMA: self.ema} if self.ema else parts

    def restore(self, checkpoint: Checkpoint, *, with_optimiser: bool = True) -> None:
        """Goes on from a checkpoint, of this run or of another whose result has the same tensors.

        Args:
            with_optimiser: False leaves its optimiser's state behind, which is of no use to another kind of optimiser.

        Raises:
            InputError: it is damaged, or was trained as something else.
        """
        self.weights.load(checkpoint.read(WEIGHTS))
        if with_optimiser:
            self._restore_optimiser(checkpoint.read(OPTIMISER))
        if self.ema:
            self._restore_ema(checkpoint.read(EMA) if checkpoint.has(EMA) else self._copies())
        self.step, self.seconds_before = checkpoint.step, checkpoint.facts().get("train_seconds")

    @property
    def checkpoint_bytes(self) -> int:
        """About how large a checkpoint is."""
        trained = sum(master.numel() for master in self.weights.parameters)
        everything = sum(tensor.numel() for tensor in self.weights.tensors().values())
        kept_bytes = KINDS[self.settings.optimiser.name].state_bytes + _FLOAT32_BYTES * bool(self.ema)
        return int(_FLOAT32_BYTES * everything + trained * kept_bytes)

    def _copies(self) -> dict[str, Tensor]:
        return {name: master.detach().clone() for name, master in self.weights.masters.items()}

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, master in self.weights.masters.items():
            master.copy_(tensors[name])
        self.weights.publish()

    def _restore_optimiser(self, stored: dict[str, Tensor]) -> None:
        if self._averages:
            take_places(stored, self.weights.masters)
            self.weights.publish()
        keeps = KINDS[self.settings.optimiser.name].keeps
        restore_optimiser(self.optimiser, self.weights.names, only(keeps, stored) if keeps else stored)

    @torch.no_grad()
    def _restore_ema(self, tensors: Mapping[str, Tensor]) -> None:
        for name, average in self.ema.items():
            average.copy_(tensors[name])

    def _set_checkpointing(self) -> None:
        for module in (*self.base.modules(), *self.trainable.module.modules()):
            if hasattr(module, "checkpointing"):
                setattr(module, "checkpointing", self.settings.checkpointing)  # noqa: B010 (torch types attributes of modules as tensors)

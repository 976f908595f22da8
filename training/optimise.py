"""From gradients to weights: the learning rate of a step, the optimiser, clipping, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .optimiser_kinds import build_optimiser
from .optimiser_state import optimiser_tensors, restore_optimiser
from .settings import OptimiserSettings, ScheduleSettings

__all__ = [
    "build_optimiser", "clip_gradients", "ema_decay", "learning_rate", "optimiser_tensors", "restore_optimiser", "schedule_factor",
    "set_learning_rate", "update_ema", "used_learning_rate",
]  # fmt: skip


def learning_rate(optimiser: OptimiserSettings, schedule: ScheduleSettings, step: int) -> float:
    """The rate of the step that follows `step` finished ones."""
    return optimiser.learning_rate * schedule_factor(schedule, step)


def schedule_factor(schedule: ScheduleSettings, step: int) -> float:
    """The fraction of the peak rate: (step+1)/warm-up at first, so that no step is idle; from the horizon on, the last value."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.shape == "constant":
        return 1.0
    passed = min((step - schedule.warmup_steps) / (schedule.horizon_steps - schedule.warmup_steps), 1.0)
    height = (1 + math.cos(math.pi * passed)) / 2 if schedule.shape == "cosine" else 1 - passed
    return schedule.final_fraction + (1 - schedule.final_fraction) * height


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def used_learning_rate(optimiser: torch.optim.Optimizer) -> float:
    """The rate of its next step: what it was set to, times what it has found itself (Prodigy)."""
    group = optimiser.param_groups[0]
    return group["lr"] * float(group.get("d", 1.0))


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> Tensor:
    """Shortens the gradient of all parameters together to `clip_norm` (0: never); gives the length that it had, a scalar on the device.

    The same arithmetic as torch's `clip_grad_norm_`; but a gradient whose length is not finite stays as it is, so that the tensor that broke it can
    still be found. (torch would multiply all of them by NaN.)
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if clip_norm:
        factor = (clip_norm / (length + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, torch.where(torch.isfinite(length), factor, torch.ones_like(factor)))
    return length


def ema_decay(decay: float, step: int) -> float:
    """The decay after `step` finished steps: min(decay, (1+step)/(10+step)), so that a young average is not ruled by the initial weights.

    Source: the `num_updates` rule of TensorFlow's ExponentialMovingAverage.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay average + (1 - decay) weights, in place, for the names in `average`."""
    torch._foreach_lerp_([average[name] for name in average], [weights[name] for name in average], 1 - decay)

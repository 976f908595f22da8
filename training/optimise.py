"""From gradients to weights: the learning rate of a step, the optimiser, clipping, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import InputError
from .optimisers import Lion, Muon
from .settings import OptimiserSettings, ScheduleSettings

_STATE_SEPARATOR = ":"
# Where torch's AdamW does a step in one kernel per group of tensors; elsewhere it loops over whole lists of them (foreach).
_FUSED_DEVICES = ("cpu", "cuda", "xpu")


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


def build_optimiser(settings: OptimiserSettings, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The chosen optimiser over fp32 parameters, by the fastest implementation for their device."""
    betas, rate, decay = (settings.betas[0], settings.betas[1]), settings.learning_rate, settings.weight_decay
    if settings.name == "lion":
        return Lion(parameters, rate, betas, decay)
    fused = all(parameter.device.type in _FUSED_DEVICES for parameter in parameters)
    if settings.name == "muon":
        return Muon(parameters, rate, betas, settings.eps, decay, fused=fused)
    return torch.optim.AdamW(
        parameters, lr=rate, betas=betas, eps=settings.eps, weight_decay=decay, fused=True if fused else None, foreach=None if fused else True
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Its whole state as {"<parameter>:<quantity>": tensor}; `names` in the order of its parameters."""
    state = optimiser.state_dict()["state"]
    return {f"{names[index]}{_STATE_SEPARATOR}{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimiser_tensors` gave; settings of the optimiser stay as they are now.

    Raises:
        InputError: a tensor belongs to no parameter.
    """
    order = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(_STATE_SEPARATOR)
        if name not in order:
            raise InputError("optimiser state", expected="that of the trained parameters", found=name, remedy="Start a new training.")
        state.setdefault(order[name], {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


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

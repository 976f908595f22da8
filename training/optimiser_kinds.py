"""The optimisers by name: which library makes each, what it is told beside the settings, and how much it keeps.

Those that are not torch's or ours are optional: a training that wants one says what to install, before any work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from .optimisers import Adafactor, Lion, Muon
from .packages import require_package
from .settings import OptimiserName, OptimiserSettings

Parameters = Sequence[nn.Parameter]
# Where torch's AdamW does a step in one kernel per group of tensors; elsewhere it loops over whole lists of them (foreach).
_FUSED_DEVICES = ("cpu", "cuda", "xpu")


@dataclass(frozen=True)
class Kind:
    """What there is to know of one optimiser."""

    build: Callable[[OptimiserSettings, Parameters], torch.optim.Optimizer]
    state_bytes: float
    """Kept for each trained number, in memory and in a checkpoint."""
    package: str = ""
    """The library that it comes from, as it is imported and as pip knows it; empty: torch or this pack."""
    keeps: str = ""
    """The one quantity that it keeps, where it takes over the state of an optimiser that keeps more; empty: all that it is given."""


def build_optimiser(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    """The chosen optimiser over fp32 parameters, by the fastest implementation for their device.

    Raises:
        InputError: its library is not installed.
    """
    require_library(settings.name)
    return KINDS[settings.name].build(settings, parameters)


def require_library(name: OptimiserName) -> None:
    """Raises:
    InputError: the optimiser comes from a library that is not installed.
    """
    if package := KINDS[name].package:
        require_package(package, "optimiser", name, ", or choose adamw")


def _common(settings: OptimiserSettings) -> dict[str, Any]:
    betas = (settings.betas[0], settings.betas[1])
    return {"lr": settings.learning_rate, "betas": betas, "eps": settings.eps, "weight_decay": settings.weight_decay}


def _is_fused(parameters: Parameters) -> bool:
    return all(parameter.device.type in _FUSED_DEVICES for parameter in parameters)


def _adamw(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    fused = _is_fused(parameters)
    return torch.optim.AdamW(parameters, **_common(settings), fused=True if fused else None, foreach=None if fused else True)


def _lion(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    return Lion(parameters, settings.learning_rate, (settings.betas[0], settings.betas[1]), settings.weight_decay)


def _muon(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    return Muon(parameters, **_common(settings), fused=_is_fused(parameters))


def _adafactor(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    return Adafactor(parameters, settings.learning_rate, settings.weight_decay)


def _adamw_8bit(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    return import_module("bitsandbytes").optim.AdamW8bit(parameters, **_common(settings))


def _paged_adamw_8bit(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    return import_module("bitsandbytes").optim.PagedAdamW8bit(parameters, **_common(settings))


def _prodigy(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    """With Adam's bias correction, and with the warm-up kept out of the estimate of the rate, which is what low-rank adapters are trained with."""
    told = {**_common(settings), "weight_decay": 0.0, "use_bias_correction": True, "safeguard_warmup": True}
    optimiser = import_module("prodigyopt").Prodigy(parameters, **told)
    for group in optimiser.param_groups:
        group["weight_decay"] = settings.weight_decay  # told later: with one the library prints to the console when it is made
    return optimiser


def _schedule_free(settings: OptimiserSettings, parameters: Parameters) -> torch.optim.Optimizer:
    """It stays in the library's training mode; the averaged weights are worked out beside those that train (schedule_free.py)."""
    optimiser = import_module("schedulefree").AdamWScheduleFree(parameters, **_common(settings))
    optimiser.train()
    return optimiser


KINDS: Mapping[OptimiserName, Kind] = {
    "adamw": Kind(_adamw, 8.0),
    "lion": Kind(_lion, 4.0, keeps="exp_avg"),
    "muon": Kind(_muon, 8.0),  # 4 for matrices, which nearly all is
    "adamw_8bit": Kind(_adamw_8bit, 2.1, "bitsandbytes"),  # 4 bytes more for every 128 values
    "paged_adamw_8bit": Kind(_paged_adamw_8bit, 2.1, "bitsandbytes"),
    "adafactor": Kind(_adafactor, 4.0),  # of vectors; next to nothing of matrices
    "prodigy": Kind(_prodigy, 16.0, "prodigyopt"),
    "schedule_free": Kind(_schedule_free, 12.0, "schedulefree"),
}

_SAME_STATE = {("adamw", "lion"), ("adamw_8bit", "paged_adamw_8bit"), ("paged_adamw_8bit", "adamw_8bit")}
"""Pairs of optimisers, the earlier one first, of which the later finds all that it keeps in the state of the earlier."""


def goes_on_with(before: str, now: OptimiserName) -> bool:
    """Whether a training that changes its optimiser takes over the state of the earlier one."""
    return before == now or (before, now) in _SAME_STATE

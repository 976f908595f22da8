"""Schedule-free optimisers (Defazio et al. 2024, arXiv:2405.15682): gradients are taken at y, what is wanted in the end is x.

y = (1 - beta1) z + beta1 x lies between the fast sequence z, which takes the steps, and x, the average of z. The library turns y into x in place
and back, which rounds: measuring would change what is trained. Here x is worked out beside y, and a checkpoint holds both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_Y = ":y"
"""Ends the name of a parameter in a checkpoint's optimiser part where it is not the weight that the checkpoint is about."""


def is_schedule_free(optimiser: torch.optim.Optimizer) -> bool:
    """Whether its parameters are not what is wanted in the end."""
    return "train_mode" in optimiser.param_groups[0]


@torch.no_grad()
def averaged(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """x of every parameter by name, the parameters themselves being y; before the first step all three are one."""
    found = {}
    for name, (parameter, beta) in zip(names, _parameters(optimiser), strict=True):
        z = optimiser.state[parameter].get("z", parameter) if parameter in optimiser.state else parameter
        found[name] = torch.lerp(parameter.detach(), z.detach(), 1 - 1 / beta)
    return found


def places(masters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """y of every parameter, for a checkpoint's optimiser part."""
    return {name + _Y: master.detach() for name, master in masters.items()}


@torch.no_grad()
def take_places(stored: dict[str, Tensor], masters: Mapping[str, nn.Parameter]) -> None:
    """Takes y out of a checkpoint's optimiser part and puts it into the parameters; in a part without it they stay as they are."""
    for name, master in masters.items():
        if name + _Y in stored:
            master.copy_(stored.pop(name + _Y))


def _parameters(optimiser: torch.optim.Optimizer) -> list[tuple[nn.Parameter, float]]:
    return [(parameter, group["betas"][0]) for group in optimiser.param_groups for parameter in group["params"]]

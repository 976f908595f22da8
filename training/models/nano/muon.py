"""Muon for the nano's training: momentum whose update is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon iterates in BF16, which a CPU without BF16 instructions emulates at a fraction of its speed; this one iterates in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_RMS = 0.2


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix to [M, N], roughly: five Newton-Schulz steps of order five."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """For matrices only. The update has the root mean square of an AdamW update (Liu et al. 2025, arXiv:2502.16982), so AdamW's rates fit."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        gradient = parameter.grad
        assert gradient is not None, "a matrix that takes no part in the loss"
        average.lerp_(gradient, 1 - group["momentum"])
        update = orthogonal(torch.lerp(gradient, average, group["momentum"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * ADAM_RMS * max(parameter.shape) ** 0.5)

"""Optimisers that torch lacks, or has in a form that does not fit here: Lion, Adafactor, and Muon with AdamW for what is no matrix.

torch.optim.Muon takes matrices alone and iterates in BF16, which a CPU without BF16 instructions emulates at a fraction of its speed; this one
takes every tensor of a network and iterates in fp32. torch.optim.Adafactor multiplies every tensor's rate by the tensor's own size, at least 1e-3,
and caps it at 1/sqrt(step): a LoRA's second halves, which begin at zero, would learn a thousand times more slowly than they are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
ADAM_RMS = 0.2
"""Root mean square of a usual AdamW update, which Muon's is brought to (Liu et al. 2025, arXiv:2502.16982): so AdamW's rates fit."""

ADAFACTOR_DECAY, ADAFACTOR_EPS, ADAFACTOR_CLIP = -0.8, 1e-30, 1.0
"""The paper's: exponent of the second moment's decay, what is added to squares, and the largest root mean square of an update."""


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum, decoupled weight decay (Chen et al. 2023, arXiv:2302.06675). Wants a third to a tenth of AdamW's rate."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            averages = [self._average(parameter) for parameter in parameters]
            for_update, for_average = group["betas"]
            updates = torch._foreach_lerp(gradients, averages, for_update)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(averages, gradients, 1 - for_average)

    def _average(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        return state["exp_avg"]


class Adafactor(torch.optim.Optimizer):
    """AdamW's scaling with the squares of a matrix kept as its rows' and columns' means (Shazeer & Stern 2018, arXiv:1804.04235).

    With the rate as it is given ("fixed rate": neither relative step nor parameter scale), no average of the gradient, the second moment's decay
    1 - step^-0.8, and updates whose root mean square is cut at 1; weight decay is decoupled. It takes AdamW's rates.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._update(parameter, parameter.grad)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"])

    def _update(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        grows = state["step"] ** ADAFACTOR_DECAY  # 1 at the first step, which so forgets what the averages began with
        square = gradient.square() + ADAFACTOR_EPS
        if gradient.ndim < 2:
            update = gradient * _averaged(state, "exp_avg_sq", square, grows).rsqrt()
        else:
            rows, columns = (_averaged(state, name, square.mean(axis), grows) for name, axis in (("exp_avg_sq_row", -1), ("exp_avg_sq_col", -2)))
            update = gradient * (rows / rows.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
        return update / (update.square().mean().sqrt() / ADAFACTOR_CLIP).clamp(min=1.0)


def _averaged(state: dict, name: str, value: Tensor, weight: float) -> Tensor:
    """A running average in an optimiser's state, after it has moved towards `value`."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].lerp_(value, weight)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal for matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon), AdamW for vectors, scalars and kernels.

    The momentum of matrices is 0.95, as published; `betas` and `eps` are those of AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        fused: bool | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._fused = fused

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._step_matrices([parameter for parameter in moving if parameter.ndim == 2], group)
            self._step_others([parameter for parameter in moving if parameter.ndim != 2], group)

    def _step_matrices(self, matrices: list[nn.Parameter], group: dict) -> None:
        updates = orthogonal([self._momentum(matrix) for matrix in matrices])
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update, alpha=-group["lr"] * ADAM_RMS * max(matrix.shape) ** 0.5)

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        """Nesterov's: the average after this gradient, led on by the gradient once more."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return torch.lerp(gradient, state["momentum"], MOMENTUM)

    def _step_others(self, parameters: list[nn.Parameter], group: dict) -> None:
        for state, parameter in ((self.state[parameter], parameter) for parameter in parameters):
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            params=list(parameters),
            grads=[gradient for parameter in parameters if (gradient := parameter.grad) is not None],
            exp_avgs=[state["exp_avg"] for state in states],
            exp_avg_sqs=[state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=self._fused, amsgrad=False, maximize=False, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            beta1=group["betas"][0], beta2=group["betas"][1],
        )  # fmt: skip


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """For each matrix [M, N] roughly the nearest (semi-)orthogonal one, by five Newton-Schulz steps of order five.

    Every step multiplies by a polynomial of the Gram matrix from the left, so the steps run on small square matrices, all of one size together,
    and reach the wide ones once, at the end. On the CPU they go one after another: its products of single matrices are a fifth faster.
    """
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    scaled = [matrix / (matrix.norm() + 1e-7) for matrix in wide]
    made: list[Tensor] = list(scaled)
    for places in _together(scaled):
        grams = [scaled[place] @ scaled[place].T for place in places]
        factors = [_newton_schulz(grams[0])] if len(grams) == 1 else _newton_schulz(torch.stack(grams))
        for place, factor in zip(places, factors, strict=True):
            made[place] = factor @ scaled[place]
    return [x.T if matrix.shape[0] > matrix.shape[1] else x for x, matrix in zip(made, matrices, strict=True)]


def _together(matrices: Sequence[Tensor]) -> list[list[int]]:
    """The places of those whose Gram matrices are worked on at once: of one size on an accelerator, one on the CPU."""
    if matrices and matrices[0].device.type == "cpu":
        return [[place] for place in range(len(matrices))]
    sides = {len(matrix) for matrix in matrices}
    return [[place for place, matrix in enumerate(matrices) if len(matrix) == side] for side in sides]


def _newton_schulz(gram: Tensor) -> Tensor:
    """From Gram matrices x x^T [..., M, M] the factors [..., M, M] that bring the singular values of each x near to 1."""
    a, b, c = NEWTON_SCHULZ
    add_product = torch.addmm if gram.ndim == 2 else torch.baddbmm
    product = None
    for step in range(NEWTON_SCHULZ_STEPS):
        factor = add_product(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < NEWTON_SCHULZ_STEPS:
            gram = factor @ gram @ factor
    assert product is not None
    return product

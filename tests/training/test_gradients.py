"""The engine's gradients against finite differences in float64, tensor by tensor: an independent check of every backward there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graft.training.trainable.base import Conditions
from graft.training.trainable.controlnet import ControlNetRecipe
from torch import Tensor

STEP = 1e-5
LATENT = (2, 16, 4, 4)
HINTS = {"xlabs": (2, 3, 32, 32), "instantx": LATENT}


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """A ControlNet with nothing left at zero on the tiny base, both in float64, and the loss of one batch."""

    def __init__(self, base: Any, layout: str, double: int, single: int) -> None:
        self.base = base.model.double().requires_grad_(False)
        self.trainable = ControlNetRecipe(layout=layout, double_depth=double, single_depth=single, seed=1).build(self.base)
        module = self.trainable.module.double()
        self.parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters.values()):
                parameter.add_(0.1 * seeded(number, *parameter.shape))
        self.x_t, self.target = seeded(1000, *LATENT), seeded(1001, *LATENT)
        self.t, self.guidance = torch.tensor([0.3, 0.8], dtype=torch.float64), torch.tensor([1.5, 4.0], dtype=torch.float64)
        self.conditions = Conditions(seeded(1002, 2, 5, 8), seeded(1003, 2, 8), seeded(1004, *HINTS[layout]))

    def loss(self) -> Tensor:
        return (self.trainable.predict(self.base, self.x_t, self.t, self.conditions, self.guidance) - self.target).square().mean()

    @torch.no_grad()
    def slope(self, parameter: Tensor, direction: Tensor) -> float:
        """The central difference of the loss along a direction: its error falls with STEP squared."""
        parameter.add_(direction, alpha=STEP)
        above = self.loss()
        parameter.sub_(direction, alpha=2 * STEP)
        below = self.loss()
        parameter.add_(direction, alpha=STEP)
        return float(above - below) / (2 * STEP)


@pytest.fixture
def double_base(tiny_base) -> Any:
    """A copy: the session's own base stays in its dtype."""
    import copy

    return copy.deepcopy(tiny_base)


@pytest.mark.parametrize(
    ("layout", "double", "single", "checkpointing"), [("xlabs", 1, 1, True), ("instantx", 1, 1, False), ("xlabs", 1, 0, False)]
)
def test_every_trained_tensors_gradient_is_the_slope_of_the_loss(double_base, layout: str, double: int, single: int, checkpointing: bool):
    case = Case(double_base, layout, double, single)
    for module in (*case.base.modules(), *case.trainable.module.modules()):
        if hasattr(module, "checkpointing"):
            module.checkpointing = checkpointing
    case.loss().backward()
    assert len(case.parameters) > 20
    largest = 0.0
    for number, (name, parameter) in enumerate(case.parameters.items()):
        direction = seeded(2000 + number, *parameter.shape)
        expected = case.slope(parameter, direction)
        found = float((parameter.grad * direction).sum())
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9), name
        largest = max(largest, abs(found))
    assert largest > 1e-3  # there is something to compare

"""A small random FLUX as a base, and one batch for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graft.training.models.flux import Flux, FluxConfig
from graft.training.trainable.base import Conditions

BATCH, HEIGHT, WIDTH, TEXT = 2, 8, 12, 5


@pytest.fixture
def base() -> Flux:
    return make_base()


@pytest.fixture(name="make_base")
def _make_base() -> Callable[..., Flux]:
    return make_base


def make_base(**changes) -> Flux:
    """Two heads of 128, so that its ControlNets can be read back without being told the rotary axes."""
    sizes = {
        "hidden_size": 128, "head_dim": 128, "double_depth": 3, "single_depth": 4, "in_channels": 64, "context_width": 24,
        "vector_width": 20, "mlp_width": 512, "guidance": True,
    }  # fmt: skip
    torch.manual_seed(1)
    model = Flux(FluxConfig(**{**sizes, **changes}))
    return model.requires_grad_(False)


@pytest.fixture
def randomise() -> Callable[[torch.nn.Module], None]:
    """Gives every parameter values other than zero, of moderate size."""

    def change(module: torch.nn.Module) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                spread = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                parameter.copy_(spread * noise + (1.0 if name.endswith("scale") else 0.0))

    return change


@pytest.fixture
def batch() -> Callable[..., dict]:
    """The arguments of Trainable.predict, for a layout."""

    def make(layout: str) -> dict:
        generator = torch.Generator().manual_seed(2)
        picture = 2 * torch.rand(BATCH, 3, 8 * HEIGHT, 8 * WIDTH, generator=generator) - 1
        latent = torch.randn(BATCH, HEIGHT * WIDTH // 4, 64, generator=generator)
        text, pooled = torch.randn(BATCH, TEXT, 24, generator=generator), torch.randn(BATCH, 20, generator=generator)
        return {
            "x_t": torch.randn(BATCH, 16, HEIGHT, WIDTH, generator=generator),
            "t": torch.tensor([0.31, 0.87]),
            "conditions": Conditions(text=text, pooled=pooled, hint=picture if layout == "xlabs" else latent),
            "guidance": torch.tensor([3.5, 1.0]),
        }

    return make

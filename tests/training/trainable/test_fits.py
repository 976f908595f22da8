"""Data of another model, or with hints of another form, are refused before any work."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from graft.training.errors import InputError
from graft.training.models.flux import FluxConfig
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.fits import require_data_fits

BASE = FluxConfig(
    hidden_size=128, head_dim=128, double_depth=1, single_depth=1, in_channels=64, context_width=24, vector_width=12, mlp_width=512, guidance=True
)


def data(width: int = 24, hint_form: str = "pixels") -> SimpleNamespace:
    return SimpleNamespace(
        train=("a", "b"), hint_form=hint_form,
        text=lambda samples: (torch.zeros(len(samples), 3, width), torch.zeros(len(samples), 12)),
        latents=lambda samples: torch.zeros(len(samples), 16, 4, 4),
    )  # fmt: skip


def test_what_belongs_together_passes():
    require_data_fits(data(), BASE, ControlNetRecipe())
    require_data_fits(data(hint_form="latents"), BASE, ControlNetRecipe(layout="instantx"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"context_width": 4096}, "text tokens of width 4096; found text tokens of width 24"),
        ({"vector_width": 768}, "pooled text of width 768"),
        ({"in_channels": 128}, "latents of channels 32; found latents of channels 16"),
    ],
)
def test_another_models_encoders_are_named(change: dict, said: str):
    with pytest.raises(InputError, match=said):
        require_data_fits(data(), replace(BASE, **change), ControlNetRecipe())


@pytest.mark.parametrize("found", ["none", "latents"])
def test_hints_of_another_form_are_named(found: str):
    with pytest.raises(InputError, match=f"hints as pixels; found hints: {found}"):
        require_data_fits(data(hint_form=found), BASE, ControlNetRecipe())

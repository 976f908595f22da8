"""A LoRA as something to train: its layers, its first values, and the guidance at which it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.encoded import HintForm
from ..errors import InputError
from ..files.fingerprint import fingerprint
from ..files.held import shapes_of
from ..files.lora_adapters import Adapter, effective_alpha
from ..files.lora_read import ReadLora, read_lora
from ..files.tensors import read_tensors
from ..models.flux import Flux
from ..models.held_linear import weights_of
from ..packages import require_package
from ..randomness import generator
from .base import Conditions, flux_velocity
from .lora_layers import PRESETS, Extent, Shapes, chosen_layers, extent

LARGEST_RANK = 4096


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """The shape of a LoRA and its initial weights; nothing is loaded yet."""

    rank: int = 16
    """Rank of every adapter."""
    alpha: float = 16.0
    """The adapters are scaled by alpha / rank (rsLoRA: alpha / sqrt(rank))."""
    layers: str = PRESETS[0]
    """Which kinds of layers: see lora_layers.chosen_layers."""
    blocks: str = ""
    """Patterns of the blocks; empty: all."""
    dropout: float = 0.0
    """Share of each adapter's inputs that it does not see in a training step."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Train the lengths of the weights' rows beside their directions (Liu et al. 2024, arXiv:2402.09353)."""
    guidance: float = 1.0
    """The guidance that is embedded while training, whatever the objective draws; unused by a base without guidance embedding."""
    seed: int = 0
    """Of the first values of `down`; `up` begins with zeros."""
    from_file: str | Path | None = None
    """A LoRA file to go on from: layers, ranks, alphas and DoRA are the file's."""

    def __post_init__(self) -> None:
        _require(isinstance(self.rank, int) and 1 <= self.rank <= LARGEST_RANK, "LoRA rank", f"1 to {LARGEST_RANK}", self.rank, "16 is a good start.")
        _require(math.isfinite(self.alpha) and self.alpha > 0, "LoRA alpha", "a positive number", self.alpha, "Set it to the rank.")
        _require(0 <= self.dropout < 1, "LoRA dropout", "a number from 0 to below 1", self.dropout, "Use 0 to 0.1.")
        _require(math.isfinite(self.guidance) and 0 <= self.guidance <= 100, "LoRA guidance", "0 to 100", self.guidance, "Use 1.")
        _require(self.seed >= 0, "LoRA seed", "no negative number", self.seed, "Choose 0 or more.")
        require_package("peft", "LoRA", "training adapters")
        _require(self.layers in PRESETS, "LoRA layers", " or ".join(PRESETS), self.layers, "Choose one of these.")

    @property
    def hint_form(self) -> HintForm:
        return "none"

    def key_fields(self) -> dict[str, Any]:
        """What the initial weights and the prediction follow from (beside the base)."""
        fields: dict[str, Any] = {"kind": "lora", "dropout": self.dropout, "guidance": self.guidance}
        if self.from_file is not None:
            return {**fields, "weights": fingerprint(read_tensors(self.from_file))}
        names = ("rank", "alpha", "layers", "blocks", "rslora", "dora", "seed")
        return {**fields, **{name: getattr(self, name) for name in names}}

    def described(self, shapes: Shapes) -> tuple[Extent, tuple[str, ...]]:
        """How large it will be on a transformer with tensors of these shapes, and what was done to the file that it goes on from.

        Raises:
            InputError: a pattern fits no layer, or the file is for another model.
        """
        if self.from_file is not None:
            read = self._read(shapes)
            dora = any(adapter.magnitude is not None for adapter in read.adapters.values())
            return extent(((adapter.shape, adapter.rank) for adapter in read.adapters.values()), dora), read.notes
        layers = chosen_layers(shapes, self.layers, self.blocks)
        return extent((((shapes[f"{layer}.weight"][0], shapes[f"{layer}.weight"][1]), self.rank) for layer in layers), self.dora), ()

    def build(self, base: nn.Module) -> LoraTrainable:
        """The adapters in fp32 in the base's layers; those that begin anew change nothing yet.

        Raises:
            InputError: this base cannot have such a LoRA, or the file does not hold one.
        """
        from .lora_inject import Chance, inject, require_scales  # peft takes seconds to import: only where something is trained

        weights = weights_of(_flux(base))
        shapes = shapes_of(weights)
        read = self._read(shapes) if self.from_file is not None else ReadLora(self._fresh(weights, shapes), ())
        chance = Chance()
        module = inject(base, read.adapters, self.dropout, chance)
        require_scales(base, list(read.adapters), read.adapters)
        module.notes = read.notes
        return LoraTrainable(module, self.guidance, chance)

    def first_values(self, weights: Mapping[str, Tensor]) -> dict[str, Adapter]:
        """New adapters, by layer, for a network with these weights; its chosen layers follow from their names."""
        return self._fresh(weights, shapes_of(weights))

    def _read(self, shapes: Shapes) -> ReadLora:
        assert self.from_file is not None
        return read_lora(self.from_file, shapes)

    def _fresh(self, weights: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Adapter]:
        alpha = effective_alpha(self.alpha, self.rank, self.rslora)
        return {
            layer: Adapter(
                _first_down(self.rank, shapes[f"{layer}.weight"][1], self.seed, layer),
                torch.zeros(shapes[f"{layer}.weight"][0], self.rank),
                alpha,
                _lengths(weights[f"{layer}.weight"]) if self.dora else None,
            )
            for layer in chosen_layers(shapes, self.layers, self.blocks)
        }


@dataclass(frozen=True)
class LoraTrainable:
    """A LoRA in training (base.Trainable); its adapters sit in the base that it was built for."""

    module: nn.Module
    guidance: float
    chance: Any

    def predict(self, base: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor) -> Tensor:
        """The velocity [B, C, H, W] of the base with its adapters, at the LoRA's own guidance."""
        self.chance.seeds = conditions.seeds
        return flux_velocity(_flux(base), x_t, t, conditions, torch.full_like(guidance, self.guidance))


def _first_down(rank: int, width: int, seed: int, layer: str) -> Tensor:
    """Uniform within 1 / sqrt(width), which is Kaiming's rule for a = sqrt(5), as peft and sd-scripts begin; by the layer's name."""
    bound = width**-0.5
    return torch.empty(rank, width).uniform_(-bound, bound, generator=generator(seed, f"LoRA {layer}"))


def _lengths(weight: Tensor) -> Tensor:
    """Of a weight's rows [out], in fp32: where DoRA's magnitudes begin."""
    return weight.detach().float().norm(dim=1)


def _flux(base: nn.Module) -> Flux:
    if not isinstance(base, Flux):
        found = type(base).__name__
        raise InputError("base of the LoRA", expected="a FLUX transformer", found=found, remedy="Load a FLUX transformer.")
    return base


def _require(condition: bool, subject: str, expected: str, found: object, remedy: str) -> None:
    if not condition:
        raise InputError(subject, expected=expected, found=found, remedy=remedy)

"""Adapters in the base's layers, by peft's injection; and their tensors alone, as the module that the loop trains and saves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from ..errors import InputError
from ..files.lora_adapters import Adapter
from ..randomness import seed_of

ADAPTER = "default"


@dataclass
class Chance:
    """What dropout draws from now; set before each prediction, and the same while the backward pass computes parts of it again."""

    seeds: tuple[int, ...] | None = None
    """One per picture of the batch; None: nothing is dropped."""


class SeededDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) of a layer's input [B, ..., in] whose mask follows from each picture's seed and the layer's name alone.

    So it needs no history: a training that was interrupted drops what the uninterrupted one drops, however its samples are cut into batches.
    """

    def __init__(self, share: float, layer: str, chance: Chance) -> None:
        super().__init__()
        self._share, self._layer, self._chance = share, layer, chance

    def forward(self, x: Tensor) -> Tensor:
        seeds = self._chance.seeds
        if seeds is None:
            return x
        assert len(seeds) == len(x), f"{len(seeds)} seeds for {len(x)} pictures"
        kept = torch.stack([self._draw(seed, x) >= self._share for seed in seeds])
        return x * kept / (1 - self._share)

    def _draw(self, seed: int, x: Tensor) -> Tensor:
        random = torch.Generator(device=x.device).manual_seed(seed_of(seed, self._layer))
        return torch.rand(x.shape[1:], generator=random, device=x.device)


class LoraModule(nn.Module):
    """The adapters' tensors under their layers' names (files/lora_adapters.py); the very parameters that compute inside the base."""

    notes: tuple[str, ...] = ()
    """What the user should know of how it began."""
    described: Mapping[str, Any] = MappingProxyType({})
    """What an export has to know beside the recipe: goes into run.json."""

    def put(self, layer: str, parts: Mapping[str, nn.Module], alpha: float) -> None:
        """Adds one layer's parts."""
        place: nn.Module = self
        for part in layer.split("."):
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        for name, module in parts.items():
            place.add_module(name, module)
        place.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float32))


def inject(base: nn.Module, adapters: Mapping[str, Adapter], dropout: float, chance: Chance) -> LoraModule:
    """Puts adapters with these first values into the base's layers.

    Args:
        base: is changed: its layers become peft's, which hold the old ones as `base_layer`.
        adapters: by layer; all with DoRA magnitudes or none.
        dropout: share of each layer's inputs that its adapter does not see while training.

    Raises:
        InputError: DoRA on some layers only.
    """
    inject_adapter_in_model(_config(adapters), base, ADAPTER, low_cpu_mem_usage=True)
    module = LoraModule()
    for layer, adapter in adapters.items():
        peft_layer: Any = base.get_submodule(layer)
        if dropout:
            peft_layer.lora_dropout[ADAPTER] = SeededDropout(dropout, layer, chance)
        peft_layer.train()
        module.put(layer, _filled(peft_layer, adapter), adapter.alpha)
    return module


def _config(adapters: Mapping[str, Adapter]) -> LoraConfig:
    magnitudes = {adapter.magnitude is not None for adapter in adapters.values()}
    if len(magnitudes) > 1:
        remedy = "Choose a LoRA of one kind."
        raise InputError("LoRA file", expected="DoRA on all layers or on none", found="DoRA on some layers", remedy=remedy)
    return LoraConfig(
        r=1, lora_alpha=1, target_modules="|".join(re.escape(layer) for layer in adapters), use_dora=magnitudes.pop(),
        rank_pattern={layer: adapter.rank for layer, adapter in adapters.items()},
        alpha_pattern={layer: adapter.alpha for layer, adapter in adapters.items()},
    )  # fmt: skip


def _filled(peft_layer: nn.Module, adapter: Adapter) -> dict[str, nn.Module]:
    """peft's parts of a layer with the adapter's values in fp32, in memory of their own."""
    values = {"lora_A": adapter.down, "lora_B": adapter.up, "lora_magnitude_vector": adapter.magnitude}
    parts = {name: getattr(peft_layer, name)[ADAPTER] for name, value in values.items() if value is not None}
    for name, part in parts.items():
        value = values[name]
        assert value is not None
        part.weight = nn.Parameter(value.detach().to("cpu", torch.float32, copy=True))
    return parts


def require_scales(base: nn.Module, layers: Sequence[str], adapters: Mapping[str, Adapter]) -> None:
    """peft's own scale of each layer is the adapter's: a pattern that it understood in another way would train another LoRA than is saved."""
    for layer in layers:
        peft_layer: Any = base.get_submodule(layer)
        found = peft_layer.scaling[ADAPTER]
        assert found == adapters[layer].scale, f"{layer}: peft scales by {found} instead of {adapters[layer].scale}"

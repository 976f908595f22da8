"""Several LoRAs of one base in one pass: the base's layers see the rows of all at once, each LoRA's adapters only its own.

The rows are those of one batch, as many times one after another as there are LoRAs; so the frozen weights are read (or unpacked from 8 bits) once
for all of them, and every operation is started once. Each layer computes, and differentiates by hand,

    y_k = x_k W^T + b + s_k (x_k A_k^T) B_k^T

as one product with W and three grouped ones. No gradient crosses from one LoRA to another, because no row does.

Letters: K LoRAs, N rows of one LoRA (pictures times tokens), r their largest rank. Smaller ranks, and LoRAs without an adapter in this layer, are
filled up with zeros, which add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import InputError
from ..models.flux import Flux
from .base import Conditions, flux_velocity
from .lora import LoraTrainable


@dataclass(frozen=True, eq=False)
class Part:
    """One LoRA's adapter of one layer: the very tensors that train."""

    down: Tensor
    """A [rank, in]; rank 0 stands for none."""
    up: Tensor
    """B [out, rank]."""
    scale: float = 1.0
    dropout: nn.Module | None = None
    """What takes parts of the adapter's input away."""


class JointLoras:
    """The network of a sweep.

    Args:
        base: the transformer, a module of the sweep's own: its layers are replaced.
        loras: of each LoRA the base that its adapters were built into, and itself.
        checkpointing: whether blocks are recomputed in the backward pass.

    Raises:
        InputError: one of them is a DoRA, whose rows' lengths need a weight for each LoRA.
    """

    def __init__(self, base: Flux, loras: Sequence[tuple[nn.Module, Any]], checkpointing: bool = False) -> None:
        self._base = base
        base.checkpointing = checkpointing
        self._loras: tuple[LoraTrainable, ...] = tuple(lora for _, lora in loras)
        parts = [parts_of(with_adapters) for with_adapters, _ in loras]
        for name in {name: None for each in parts for name in each}:
            _put(base, name, [each.get(name) for each in parts])

    @property
    def count(self) -> int:
        return len(self._loras)

    def predict(self, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor) -> Tensor:
        """The velocity [K * B, C, H, W] for rows [K * B, ...]: those of the first LoRA, then those of the second; each at its own guidance."""
        seeds, pictures = conditions.seeds, len(x_t) // self.count
        for number, lora in enumerate(self._loras):
            lora.chance.seeds = None if seeds is None else seeds[number * pictures : (number + 1) * pictures]
        own = [torch.full_like(rows, lora.guidance) for rows, lora in zip(guidance.chunk(self.count), self._loras, strict=True)]
        return flux_velocity(self._base, x_t, t, conditions, torch.cat(own))


def parts_of(base: nn.Module) -> dict[str, Part]:
    """The adapters that peft has put into a module, by the names of their layers.

    Raises:
        InputError: they are DoRA's.
    """
    layers: dict[str, Any] = {name: module for name, module in base.named_modules() if hasattr(module, "lora_magnitude_vector")}
    if any(len(layer.lora_magnitude_vector) for layer in layers.values()):
        raise InputError("sweep", expected="LoRAs without DoRA", found="DoRA", remedy="Switch DoRA off, or train each by a Train Steps of its own.")
    return {name: _part(layer) for name, layer in layers.items()}


def _part(layer: Any) -> Part:
    (name,) = layer.lora_A
    return Part(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], layer.lora_dropout[name])


def _put(base: Flux, name: str, parts: Sequence[Part | None]) -> None:
    place, _, child = name.rpartition(".")
    layer = base.get_submodule(name)
    first = next(part for part in parts if part is not None)
    none = Part(first.down.detach()[:0], first.up.detach()[:, :0])
    setattr(base.get_submodule(place), child, JointLinear(layer, [part or none for part in parts]))


class JointLinear(nn.Module):
    """A frozen linear layer with an adapter for each LoRA.

    Args:
        layer: linear, its weight plain or held in 8 bits.
        parts: one per LoRA, in the order of the rows.
    """

    def __init__(self, layer: nn.Module, parts: Sequence[Part]) -> None:
        super().__init__()
        self.layer, self._parts = layer, tuple(parts)
        scales = torch.tensor([part.scale for part in parts], dtype=torch.float32, device=parts[0].down.device)
        self._scales = None if all(part.scale == 1 for part in parts) else scales[:, None, None]

    @property
    def weight(self) -> Any:
        """The frozen layer's."""
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """x [K * B, ..., in] -> [K * B, ..., out]."""
        downs, ups = [part.down for part in self._parts], [part.up for part in self._parts]
        y: Tensor = _Joint.apply(x, self._seen(x), self.layer, self._scales, *downs, *ups)
        return y

    def _seen(self, x: Tensor) -> Tensor | None:
        """What the adapters see of x, or None if that is all of it."""
        dropouts = [part.dropout for part in self._parts]
        if all(dropout is None or isinstance(dropout, nn.Identity) for dropout in dropouts):
            return None
        own = zip(x.chunk(len(dropouts)), dropouts, strict=True)
        return torch.cat([rows if dropout is None else dropout(rows) for rows, dropout in own])


class _Joint(torch.autograd.Function):
    """(x, what the adapters see of it or None, layer, scales [K, 1, 1] or None, A_1 .. A_K, B_1 .. B_K) -> y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor | None, layer: Any, scales: Tensor | None, *adapters: Tensor) -> Tensor:
        count = len(adapters) // 2
        down, up = _joined(adapters[:count], 0), _joined(adapters[count:], 1)
        rows = _rows(x if seen is None else seen, count)
        hidden = _scaled(torch.bmm(rows, down.mT), scales)
        y: Tensor = layer(x)
        y.view(count, -1, y.shape[-1]).baddbmm_(hidden, up.mT)
        ctx.save_for_backward(rows, hidden, down, up)
        ctx.layer, ctx.scales, ctx.whole, ctx.shape = layer, scales, seen is None, x.shape
        ctx.ranks = [each.shape[0] for each in adapters[:count]]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, down, up = ctx.saved_tensors
        of_y = _rows(gradient, len(ctx.ranks))
        of_hidden = _scaled(torch.bmm(of_y, up), ctx.scales)
        of_up, of_down = torch.bmm(of_y.mT, hidden), torch.bmm(of_hidden.mT, rows)
        of_x = of_y.flatten(0, 1) @ ctx.layer.weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        of_seen = None
        if ctx.whole and of_x is not None:
            _rows(of_x, len(ctx.ranks)).baddbmm_(of_hidden, down)
        elif ctx.needs_input_grad[1]:
            of_seen = torch.bmm(of_hidden, down).view(ctx.shape)
        of_downs = [of[:rank] for of, rank in zip(of_down, ctx.ranks, strict=True)]
        of_ups = [of[:, :rank] for of, rank in zip(of_up, ctx.ranks, strict=True)]
        return None if of_x is None else of_x.view(ctx.shape), of_seen, None, None, *of_downs, *of_ups


def _rows(x: Tensor, count: int) -> Tensor:
    """[K * B, ..., W] -> [K, N, W]."""
    return x.reshape(count, -1, x.shape[-1])


def _joined(matrices: Sequence[Tensor], rank_dim: int) -> Tensor:
    """One tensor of all, those of lower rank filled up with zeros."""
    rank = max(matrix.shape[rank_dim] for matrix in matrices)
    padding = [(0, 0, 0, rank - matrix.shape[0]) if rank_dim == 0 else (0, rank - matrix.shape[1]) for matrix in matrices]
    return torch.stack([matrix if not any(pad) else F.pad(matrix, pad) for matrix, pad in zip(matrices, padding, strict=True)])


def _scaled(hidden: Tensor, scales: Tensor | None) -> Tensor:
    """In place; the scales are fp32 whatever the dtype."""
    return hidden if scales is None else hidden.mul_(scales)

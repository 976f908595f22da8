"""A plain LoRA near any change of weights, and how much of the change it loses: for readers that know no DoRA.

The best approximation of rank r in the Frobenius norm keeps the r largest singular values (Eckart & Young 1936, doi:10.1007/BF02288367). Large
matrices are first projected onto a few more directions than asked for, found by subspace iteration (Halko, Martinsson & Tropp 2011,
arXiv:0909.4061). The error that is told is measured on the result, whichever way it was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..randomness import generator
from .lora_adapters import Adapter

OVERSAMPLING, ITERATIONS = 16, 6


@dataclass(frozen=True, eq=False)
class Extracted:
    """Plain adapters in place of a change, in fp32."""

    adapters: dict[str, Adapter]
    error: float
    """||change - LoRA|| / ||change|| over all layers together, Frobenius, before the file's rounding; 0 for no change."""
    worst: tuple[str, float]
    """The layer that loses most, and how much of its own change."""

    def in_words(self) -> str:
        layer, share = self.worst
        ranks = max(adapter.rank for adapter in self.adapters.values())
        return f"a plain LoRA of rank {ranks} that loses {self.error:.1%} of the change; most in {layer}, {share:.1%}"


def extracted_lora(layers: Mapping[str, Callable[[], Tensor]], rank: int) -> Extracted:
    """Adapters of at most `rank`.

    Args:
        layers: {layer: makes its change [out, in] in fp32}, asked for one by one.

    Raises:
        InputError: a rank below 1, or no layers.
    """
    if rank < 1 or not layers:
        raise InputError("rank of the extracted LoRA", expected="1 or more", found=rank, remedy="Twice the trained rank is a good start.")
    adapters: dict[str, Adapter] = {}
    shares: dict[str, float] = {}
    lost = whole = 0.0
    for layer, make in layers.items():
        change = make()
        adapters[layer] = _nearest(change, rank, layer)
        left, size = float((change - adapters[layer].product()).norm() ** 2), float(change.norm() ** 2)
        lost, whole, shares[layer] = lost + left, whole + size, math.sqrt(left / size) if size else 0.0
    worst = max(shares, key=lambda layer: shares[layer])
    return Extracted(adapters, math.sqrt(lost / whole) if whole else 0.0, (worst, shares[worst]))


def _nearest(change: Tensor, rank: int, layer: str) -> Adapter:
    """The adapter of scale 1 whose product is nearest; the singular values are shared out evenly between its two matrices."""
    left, values, right = _largest_singular(change, min(rank, *change.shape), layer)
    roots = values.sqrt()
    return Adapter((roots[:, None] * right).contiguous(), (left * roots).contiguous(), float(len(values)))


def _largest_singular(change: Tensor, rank: int, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    """U [out, r], s [r], V^T [r, in]."""
    wanted = rank + OVERSAMPLING
    if wanted >= min(change.shape):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    basis = torch.linalg.qr(change @ torch.randn(change.shape[1], wanted, generator=generator(0, f"extracted {layer}"))).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(change @ torch.linalg.qr(change.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ change, full_matrices=False)
    return basis @ left[:, :rank], values[:rank], right[:rank]

"""One low-rank adapter (LoRA; Hu et al. 2021, arXiv:2106.09685) as plain tensors: what it adds to its layer, however files spell it.

W' = W + scale * up @ down. With a magnitude m it is DoRA (Liu et al. 2024, arXiv:2402.09353) by peft's rule: each row of W + scale * up @ down is
given the length m. Letters: r rank, W [out, in].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

DOWN, UP, ALPHA, MAGNITUDE = "lora_A.weight", "lora_B.weight", "alpha", "lora_magnitude_vector.weight"
"""The parts of an adapter in a training state, each under `<layer>.`; `alpha` is a number in fp32."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """The low-rank change of one linear layer."""

    down: Tensor
    """A [r, in]."""
    up: Tensor
    """B [out, r]."""
    alpha: float
    """The effective one: scale = alpha / r, whichever rule (rsLoRA) it came from. Exact in fp32."""
    magnitude: Tensor | None = None
    """DoRA's row lengths [out], or None."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of its layer."""
        return self.up.shape[0], self.down.shape[1]

    def product(self) -> Tensor:
        """up @ down [out, in] in fp32, not scaled."""
        return self.up.float() @ self.down.float()

    def changed(self, weight: Tensor) -> Tensor:
        """The layer's new weight [out, in] in fp32 at full strength."""
        if self.magnitude is None:
            return weight.float() + self.scale * self.product()
        changed = weight.float() + self.scale * self.product()
        return changed * (self.magnitude.float() / changed.norm(dim=1))[:, None]


def effective_alpha(alpha: float, rank: int, rslora: bool) -> float:
    """The alpha whose alpha / r is the scale that is trained with, rounded to fp32 as files hold it.

    rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) scales by alpha / sqrt(r), which files cannot say: their readers all divide by r.
    """
    return float(torch.tensor(alpha * math.sqrt(rank) if rslora else alpha, dtype=torch.float32))


def adapters_of_state(weights: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """{layer: adapter} from a training state's tensors, in the state's order."""
    layers = [name.removesuffix(f".{DOWN}") for name in weights if name.endswith(f".{DOWN}")]
    return {
        layer: Adapter(
            weights[f"{layer}.{DOWN}"], weights[f"{layer}.{UP}"], float(weights[f"{layer}.{ALPHA}"]), weights.get(f"{layer}.{MAGNITUDE}")
        )
        for layer in layers
    }


def joined(parts: Sequence[Adapter | None], rows: Sequence[int]) -> Adapter:
    """One adapter of a fused layer from those of its parts (queries, keys, values), None where a part has none.

    Parts that share one `down` (a fused adapter that was split for diffusers) are put together as they were. Otherwise the rank is the sum of
    theirs and `up` is block-diagonal. Where scales are equal alpha carries them; where they differ they are multiplied into `up`, in fp32.

    Args:
        rows: how many rows of the fused layer each part has.
    """
    given = [part for part in parts if part is not None]
    equal_scales = len({part.scale for part in given}) == 1
    scale = given[0].scale if equal_scales else 1.0
    ups = [None if part is None else part.up if equal_scales else part.up.float() * part.scale for part in parts]
    magnitude = _joined_magnitudes(parts)
    if len(given) == len(parts) and all(torch.equal(part.down, given[0].down) for part in given):
        return Adapter(given[0].down, torch.cat([up for up in ups if up is not None]), effective_alpha(scale * given[0].rank, 1, False), magnitude)
    down = torch.cat([part.down for part in given])
    return Adapter(down, _block_diagonal(ups, rows), effective_alpha(scale * len(down), 1, False), magnitude)


def _block_diagonal(ups: Sequence[Tensor | None], rows: Sequence[int]) -> Tensor:
    given = [up for up in ups if up is not None]
    fused = given[0].new_zeros(sum(rows), sum(up.shape[1] for up in given))
    row = column = 0
    for up, count in zip(ups, rows, strict=True):
        if up is not None:
            fused[row : row + count, column : column + up.shape[1]] = up
            column += up.shape[1]
        row += count
    return fused


def _joined_magnitudes(parts: Sequence[Adapter | None]) -> Tensor | None:
    """Rows of a fused layer are normalised one by one, so the magnitudes stand one after the other."""
    magnitudes = [None if part is None else part.magnitude for part in parts]
    given = [magnitude for magnitude in magnitudes if magnitude is not None]
    if given and len(given) < len(parts):
        raise InputError(
            "LoRA file", expected="DoRA on all parts of a fused layer (queries, keys, values) or on none", found="DoRA on some of them",
            remedy="Choose another file.",
        )  # fmt: skip
    return torch.cat(given) if given else None


def require_fits(adapters: Mapping[str, Adapter], shapes: Mapping[str, tuple[int, ...]], subject: str, network: str = "transformer") -> None:
    """Checks that every adapter has its layer's sizes.

    Args:
        shapes: of the network's tensors, by their original names.
        network: what it is, for the message.

    Raises:
        InputError: naming every layer that is missing or of other sizes.
    """
    wrong = [
        f"{layer} {adapter.shape} instead of {tuple(shapes.get(f'{layer}.weight', ())) or 'no such layer'}"
        for layer, adapter in adapters.items()
        if tuple(shapes.get(f"{layer}.weight", ())) != adapter.shape
    ]
    if wrong:
        raise InputError(
            subject, expected=f"adapters of the {network}'s sizes", found="; ".join(wrong),
            remedy=f"Choose a {network} of the sizes that the LoRA was trained on.",
        )  # fmt: skip

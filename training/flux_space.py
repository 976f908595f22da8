"""Two conventions of FLUX that training and sampling must share: where its latents lie, and how flow times move with the picture's size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Time = TypeVar("Time", float, Tensor)


@dataclass(frozen=True)
class LatentSpace:
    """How raw latents z become those that a transformer sees: (z - shift) * scale."""

    shift: float
    scale: float


FLUX_LATENT_SPACE = LatentSpace(shift=0.1159, scale=0.3611)

PIXELS_PER_LATENT = 8
"""A latent cell stands for so many pixels in each direction."""


def shifted(t: Time, mu: float) -> Time:
    """Moves flow times towards noise: e^mu / (e^mu + 1/t - 1) (Esser et al. 2024, arXiv:2403.03206, eq. 23, with e^mu for their alpha)."""
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))


def resolution_shift(image_tokens: int, at_256: float = 0.5, at_4096: float = 1.15) -> float:
    """mu for a picture of so many image tokens: a straight line through its values at 256 and at 4096 tokens, by default FLUX's."""
    return at_256 + (at_4096 - at_256) * (image_tokens - 256) / (4096 - 256)

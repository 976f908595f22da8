"""Rectified flow matching (Liu et al. 2022, arXiv:2209.03003) with the densities of Esser et al. 2024 (arXiv:2403.03206), section 3.1.

x_0 is data, n is noise, t the flow time: x_t = (1-t) x_0 + t n. The network learns the velocity n - x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .flux_space import resolution_shift, shifted
from .models.flux import PATCH
from .randomness import generator, seed_of
from .settings import ObjectiveSettings
from .trainable.base import Conditions

BUCKETS = 8
"""The loss is also reported over this many equal intervals of t."""
HELD_OUT_TIMES: tuple[float, ...] = tuple((index + 0.5) / BUCKETS for index in range(BUCKETS))
"""The held-out loss is always taken at these times, the middles of the buckets."""
HELD_OUT_SEED = 0
"""Its noise is the same in every run, whatever the run's seed, so that runs can be compared."""

Predict = Callable[[Tensor, Tensor, Conditions, Tensor], Tensor]
"""(x_t [B, C, H, W], t [B], conditions, guidance [B]) -> velocity [B, C, H, W]."""


@dataclass(frozen=True)
class Draws:
    """All that chance decides about a batch; fp32."""

    noise: Tensor
    """n [B, C, H, W]."""
    t: Tensor
    """Flow time [B] in 0..1."""
    guidance: Tensor
    """Guidance scale [B]."""
    dropped: Tensor
    """Whether the caption is replaced by the empty one [B], bool."""
    seeds: tuple[int, ...] | None = None
    """For what the network itself draws, one per picture; None: it is to draw nothing."""

    def to(self, device: torch.device) -> Draws:
        return Draws(self.noise.to(device), self.t.to(device), self.guidance.to(device), self.dropped.to(device), self.seeds)


def flow_matching_loss(
    predict: Predict, x_0: Tensor, conditions: Conditions, draws: Draws, compute: torch.dtype, weights: Tensor | None = None
) -> Tensor:
    """The mean squared error per sample [B], fp32, of the predicted velocity; x_0 [B, C, H, W] fp32; the network sees `compute`.

    `weights` [B, 1, H, W] say how much each cell counts (None: all alike). The mean stays that over all cells, so that a cell counts the same
    whatever else of its picture is masked.
    """
    n, t = draws.noise, draws.t[:, None, None, None]
    x_t = (1 - t) * x_0 + t * n
    velocity = predict(x_t.to(compute), draws.t, replace(conditions, seeds=draws.seeds), draws.guidance)
    error = (velocity.float() - (n - x_0)).square()
    return (error if weights is None else error * weights).mean(dim=(1, 2, 3))


def draw(settings: ObjectiveSettings, seed: int, positions: Sequence[int], shape: Sequence[int]) -> Draws:
    """What chance decides for samples of latent `shape` (C, H, W), on the CPU.

    `positions` are their absolute places in the run's stream of samples: the numbers do not depend on how that stream is cut into batches.
    """
    tokens = math.prod(shape[-2:]) // PATCH**2
    low, high = settings.guidance
    share = _uniforms(seed, "guidance", positions)
    return Draws(
        noise=torch.stack([torch.randn(tuple(shape), generator=generator(seed, "noise", position)) for position in positions]),
        t=torch.cat([draw_times(settings, tokens, 1, generator(seed, "t", position)) for position in positions]),
        guidance=low + (high - low) * share,
        dropped=_uniforms(seed, "caption dropout", positions) < settings.caption_dropout,
        seeds=tuple(seed_of(seed, "network", position) for position in positions),
    )


def draw_times(settings: ObjectiveSettings, tokens: int, count: int, random: torch.Generator) -> Tensor:
    """`count` flow times [count] in 0..1 from the density, for pictures of `tokens` image tokens."""
    if settings.density == "uniform":
        return torch.rand(count, generator=random)
    if settings.density == "mode":
        u = torch.rand(count, generator=random)
        return 1 - u - settings.mode_scale * (torch.cos(math.pi / 2 * u).square() - 1 + u)
    normal = torch.randn(count, generator=random)
    if settings.density == "logit_normal":
        return torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
    mu = resolution_shift(tokens, settings.shift_at_256_tokens, settings.shift_at_4096_tokens)
    return shifted(torch.sigmoid(normal), mu)


def drop_captions(conditions: Conditions, dropped: Tensor, empty_text: Tensor, empty_pooled: Tensor) -> Conditions:
    """The conditions with the empty caption (text [L, context], pooled [vector]) where `dropped` [B] says so; the hint stays."""
    text = torch.where(dropped[:, None, None], empty_text.to(conditions.text), conditions.text)
    pooled = torch.where(dropped[:, None], empty_pooled.to(conditions.pooled), conditions.pooled)
    return replace(conditions, text=text, pooled=pooled)


def repeated(value: Any, times: int) -> Any:
    """A tensor whose rows (a dataclass, or tuple, of whose parts the rows) stand there so many times, all of them one after another."""
    if times == 1 or value is None:
        return value
    if isinstance(value, Tensor):
        return value.repeat(times, *[1] * (value.ndim - 1))
    if isinstance(value, tuple):
        return value * times
    return replace(value, **{part.name: repeated(getattr(value, part.name), times) for part in fields(value)})


def held_out_draws(settings: ObjectiveSettings, samples: Sequence[int], t: float, shape: Sequence[int]) -> Draws:
    """Nothing is left to chance: the noise belongs to the held-out sample, t is given, guidance is the middle of its range."""
    count, guidance = len(samples), sum(settings.guidance) / 2
    noise = torch.stack([torch.randn(tuple(shape), generator=generator(HELD_OUT_SEED, "held-out noise", sample)) for sample in samples])
    return Draws(noise, torch.full((count,), t), torch.full((count,), guidance), torch.zeros(count, dtype=torch.bool))


def bucket_sums(t: Sequence[float], loss: Sequence[float]) -> dict[int, tuple[float, int]]:
    """Sum and number of the samples' losses in each interval of t that has any: {bucket: (sum, number)}."""
    sums: dict[int, tuple[float, int]] = {}
    for time, value in zip(t, loss, strict=True):
        bucket = min(int(time * BUCKETS), BUCKETS - 1)
        total, count = sums.get(bucket, (0.0, 0))
        sums[bucket] = (total + value, count + 1)
    return sums


def _uniforms(seed: int, stream: str, positions: Sequence[int]) -> Tensor:
    return torch.cat([torch.rand(1, generator=generator(seed, stream, position)) for position in positions])

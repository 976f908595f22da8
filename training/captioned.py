"""Pictures of captions alone, from the same noise whatever draws them: what is compared differs in the model and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .data.dataset import RESOLUTION_STEP_PX
from .errors import InputError
from .flux_space import PIXELS_PER_LATENT
from .measure import Pictures
from .models.flux import PATCH, Flux
from .progress import NO_PROGRESS, Progress
from .sample import picture_noise, sample
from .validate import PIXELS_AT_ONCE, Decode

Encode = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Captions -> text tokens [B, L, context] and pooled text [B, vector]."""


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """How the pictures are made."""

    resolution_px: int = 512
    """Side of the square pictures."""
    steps: int = 20
    """Sampling steps."""
    guidance: float = 3.5
    """For transformers that embed it."""
    seed: int = 0
    """Of the noise; picture i starts from seed + i."""

    def __post_init__(self) -> None:
        if self.resolution_px < RESOLUTION_STEP_PX or self.resolution_px % RESOLUTION_STEP_PX:
            expected, remedy = f"a multiple of {RESOLUTION_STEP_PX}", "512 or 1024 suits FLUX.1, 128 the nano model."
            raise InputError("resolution", expected=expected, found=self.resolution_px, remedy=remedy)


def draw_captions(
    base: Flux, captions: Sequence[str], encode: Encode, decode: Decode, settings: DrawingSettings, progress: Progress = NO_PROGRESS
) -> Pictures:
    """uint8 RGB [N, H, W, 3], one picture per caption, by a transformer where it lies and in its dtype.

    Raises:
        InputError: no captions, or impossible sampling settings.
    """
    if not captions:
        raise InputError("captions", expected="one or more", found="none", remedy="Write one per line.")
    text, pooled = encode(captions)
    side = settings.resolution_px // PIXELS_PER_LATENT
    noise = picture_noise(range(settings.seed, settings.seed + len(captions)), base.config.in_channels // PATCH**2, side, side)
    latents = sample(
        base, text, pooled, noise, steps=settings.steps, guidance=settings.guidance, progress=progress,
        batch_size=max(1, PIXELS_AT_ONCE // settings.resolution_px**2),
    )  # fmt: skip
    return (decode(latents).float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()

"""The autoencoder, as encoding uses it: in batches that fit into memory, its output held to what can be trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from ..errors import InputError
from ..flux_space import LatentSpace
from ..out_of_memory import let_go, ran_out, release_cached_memory
from .keys import KeyPart

ImageEncoder: TypeAlias = Callable[[Tensor], Tensor]
"""Pixels [B, 3, H, W] fp32 in 0..1 -> raw latents [B, C, H/8, W/8]."""

# Part of every key: raise it when the same pictures would give other latents.
_LATENTS_VERSION = 1
MOST_AT_ONCE = 16
PIXELS_AT_ONCE = 16 * 512 * 512
"""Encoded together to begin with: 16 pictures of up to 512 x 512, 4 of 1024 x 1024; half as many whenever memory runs out."""

logger = logging.getLogger(__name__)


@dataclass
class Pace:
    """How many pictures the autoencoder is given at once, at most."""

    size: int = MOST_AT_ONCE


@dataclass(frozen=True)
class Autoencoder:
    """Makes latents in the space that is trained in."""

    encode_images: ImageEncoder
    identity: str
    """Stands for its weights and settings."""
    space: LatentSpace
    pace: Pace = field(default_factory=Pace)

    def setup(self, resolution_px: int) -> tuple[KeyPart, ...]:
        """What latents depend on beside the picture."""
        return (_LATENTS_VERSION, self.identity, resolution_px, self.space.shift, self.space.scale)

    def at_once(self, width_px: int, height_px: int) -> int:
        """How many pictures of this size it is given together to begin with."""
        return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (width_px * height_px)))

    def latents(self, pixels: Tensor, names: Sequence[str]) -> list[Tensor]:
        """In batches of `at_once`, and where memory runs out in smaller ones, down to one picture at a time.

        Args:
            pixels: fp32 [B, 3, H, W] in 0..1.
            names: of the pictures, for errors.

        Returns:
            fp32 [C, H/8, W/8] of each, on the CPU.

        Raises:
            InputError: latents of another shape, or non-finite ones.
        """
        latents: list[Tensor] = []
        while len(latents) < len(pixels):
            part = slice(len(latents), len(latents) + min(self.pace.size, self.at_once(pixels.shape[-1], pixels.shape[-2])))
            said = ""
            try:
                latents += self._checked(self.encode_images(pixels[part]), names[part])
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or len(names[part]) == 1:
                    raise
                said = let_go(error)
            if said:
                release_cached_memory(pixels.device)
                self.pace.size = len(names[part]) // 2
                logger.info("the autoencoder ran out of memory (%s): %d pictures at once from now on", said, self.pace.size)
        return latents

    def _checked(self, encoded: Tensor, names: Sequence[str]) -> list[Tensor]:
        raw = encoded.detach().cpu().float()
        if raw.ndim != 4 or raw.shape[0] != len(names):
            expected = f"latents [{len(names)}, C, H, W]"
            raise InputError("autoencoder", expected=expected, found=list(raw.shape), remedy="Connect another VAE.")
        if not raw.isfinite().all():
            overflown = [name for name, latent in zip(names, raw, strict=True) if not latent.isfinite().all()]
            remedy = "Run the autoencoder in BF16 or FP32: in FP16 many overflow."
            raise InputError("autoencoder", expected="finite latents", found=f"non-finite values for {', '.join(overflown)}", remedy=remedy)
        return list((raw - self.space.shift) * self.space.scale)

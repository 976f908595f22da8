"""The parts that the autoencoder makes: latents of the pictures, and of edge pictures for ControlNets that take latent hints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import InputError
from ..flux_space import LatentSpace
from .canny import edge_pixels
from .dataset import GivenHints
from .encode_pictures import PictureParts
from .keys import KeyPart
from .shards import Report, Rows, Shard, ShardPlan, batches_of

ImageEncoder: TypeAlias = Callable[[Tensor], Tensor]
"""Pixels [B, 3, H, W] fp32 in 0..1 -> raw latents [B, C, H/8, W/8]."""

# Part of every key: raise it when the same pictures would give other latents.
_LATENTS_VERSION = 1


@dataclass(frozen=True)
class LatentParts:
    """Makes latents from the rows of pictures."""

    pictures: Rows
    parts: PictureParts
    encode_images: ImageEncoder
    identity: str
    space: LatentSpace

    def latents(self) -> Rows:
        """Latents of all pictures: fp32 rows [C, H/8, W/8]."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            batches = [self._encode(_pixels(self.pictures.stack("pictures", rows)), rows) for rows in batches_of(plan, report)]
            return {"latents": torch.cat(batches)}, {}

        return self._rows("latents", self.parts.digests, make, "latent")

    def hints(self, variants: int) -> Rows:
        """Latents of edge pictures, white on black, with `variants` draws of the thresholds: fp32 rows [variants, C, H/8, W/8]."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            return {"hints": torch.cat([self._encode_variants(rows, variants) for rows in batches_of(plan, report)])}, {}

        recipe = self.parts.dataset.hint
        assert not isinstance(recipe, GivenHints), "they are encoded by given_hints"
        return self._rows("hints", self.parts.digests, make, "hint latent", recipe.low, recipe.high, variants)

    def given_hints(self, hint_pictures: Rows) -> Rows:
        """Latents of hints that come as pictures: fp32 rows [1, C, H/8, W/8], as `hints` has them with one variant."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            batches = [self._encode(_pixels(hint_pictures.stack("hint pictures", rows)), rows) for rows in batches_of(plan, report)]
            return {"hints": torch.cat(batches).unsqueeze(1)}, {}

        return self._rows("given-hints", self.parts.hint_digests, make, "hint latent")

    def _encode_variants(self, rows: Sequence[int], variants: int) -> Tensor:
        edges = [torch.from_numpy(self.parts.edges(self.pictures, rows, variant)) for variant in range(variants)]
        return torch.stack([self._encode(edge_pixels(each), rows) for each in edges], dim=1)

    def _encode(self, pixels: Tensor, rows: Sequence[int]) -> Tensor:
        raw = self.encode_images(pixels).detach().cpu().float()
        if raw.ndim != 4 or raw.shape[0] != len(rows):
            expected = f"latents [{len(rows)}, C, H, W]"
            raise InputError("autoencoder", expected=expected, found=list(raw.shape), remedy="Connect another VAE.")
        if not raw.isfinite().all():
            broken = [row for row, latent in zip(rows, raw, strict=True) if not latent.isfinite().all()]
            found = f"non-finite values for {', '.join(self.parts.samples[row].name for row in broken)}"
            remedy = "Run the autoencoder in BF16 or FP32: in FP16 many overflow."
            raise InputError("autoencoder", expected="finite latents", found=found, remedy=remedy)
        return (raw - self.space.shift) * self.space.scale

    def _rows(
        self, kind: str, contents: Sequence[KeyPart], make: Callable[[ShardPlan, Report], Shard], unit: str, *setup: KeyPart
    ) -> Rows:
        parts = self.parts
        base = (_LATENTS_VERSION, self.identity, parts.dataset.resolution_px, self.space.shift, self.space.scale)
        return parts.shelf.rows(kind, contents, parts.rows_per_shard, make, unit, *base, *setup)


def _pixels(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> fp32 [B, 3, H, W] in 0..1."""
    return pictures.permute(0, 3, 1, 2).float().div(255).contiguous()

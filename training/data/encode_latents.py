"""The parts that the autoencoder makes: latents of the pictures, and of hint pictures for ControlNets that take latent hints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import InputError
from ..flux_space import LatentSpace
from ..opencv import cv2
from ..out_of_memory import let_go, ran_out, release_cached_memory
from .encode_pictures import PictureParts
from .keys import KeyPart
from .kohya_latents import NO_FOUND_LATENTS, FoundLatents
from .shards import Report, Rows, Shard, ShardPlan

ImageEncoder: TypeAlias = Callable[[Tensor], Tensor]
"""Pixels [B, 3, H, W] fp32 in 0..1 -> raw latents [B, C, H/8, W/8]."""
PixelsOf: TypeAlias = Callable[[Sequence[int]], Tensor]

# Part of every key: raise it when the same pictures would give other latents.
_LATENTS_VERSION = 1
MOST_AT_ONCE = 16
PIXELS_AT_ONCE = 16 * 512 * 512
"""Encoded together to begin with: 16 pictures of up to 512 x 512, 4 of 1024 x 1024; half as many whenever memory runs out."""

logger = logging.getLogger(__name__)


@dataclass
class Pace:
    """How many pictures the autoencoder is given at once."""

    size: int = MOST_AT_ONCE

    def slower(self) -> bool:
        """Half as many from now on; False if it is a single one already."""
        self.size //= 2
        return self.size > 0


class PixelBuffers:
    """Two pieces of memory in turn: one is filled while the autoencoder works on the other. Fresh memory costs about as much as filling it."""

    def __init__(self) -> None:
        self._pieces = [torch.empty(0), torch.empty(0)]

    def filled(self, pictures: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> fp32 [B, 3, H, W] in 0..1, which holds until the next but one is filled."""
        count = pictures.numel()
        piece = self._pieces.pop(0)
        self._pieces.append(piece := piece if len(piece) >= count else torch.empty(count))
        pixels = piece[:count].view(len(pictures), 3, *pictures.shape[1:3])
        for target, picture in zip(pixels, pictures.numpy(), strict=True):
            # OpenCV takes the channels apart several times as fast as a permuted copy does.
            for plane, channel in zip(target, cv2.split(picture), strict=True):
                plane.copy_(torch.from_numpy(channel))
        return pixels.div_(255)


@dataclass(frozen=True)
class LatentParts:
    """Makes latents from the rows of pictures."""

    pictures: Rows
    parts: PictureParts
    encode_images: ImageEncoder
    identity: str
    space: LatentSpace
    found: FoundLatents = NO_FOUND_LATENTS
    """Latents of pictures that another program has encoded."""
    pace: Pace = field(default_factory=Pace)
    buffers: PixelBuffers = field(default_factory=PixelBuffers)

    def latents(self) -> Rows:
        """Latents of all pictures: fp32 rows [C, H/8, W/8].

        Raises:
            InputError: those that were found have another number of channels than the autoencoder gives.
        """

        def make(plan: ShardPlan, report: Report) -> Shard:
            known = {row: latent for row in plan.rows if (latent := self.found.read(row)) is not None}
            missing = [row for row in plan.rows if row not in known]
            made = dict(zip(missing, self._encoded(missing, report, partial(self._stored, self.pictures, "pictures")), strict=True))
            rows = [known[row] if row in known else made[row] for row in plan.rows]
            if len({len(latent) for latent in rows}) > 1:
                found = f"{len(next(iter(known.values())))} in cached ones"
                expected = f"latents of {len(next(iter(made.values())))} channels, as the VAE gives"
                raise InputError("kohya_latents", expected=expected, found=found, remedy="Switch kohya_latents off, or connect the VAE of those.")
            return {"latents": torch.stack(rows)}, {}

        return self._rows("latents", self.found.contents(self.parts.contents), make, "latent")

    def hints(self, variants: int) -> Rows:
        """Latents of drawn hints with `variants` draws: fp32 rows [variants, C, H/8, W/8]."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            def so_far(variant: int, rows: int) -> None:
                report((variant * len(plan.rows) + rows) // variants)

            each = [self._encoded(plan.rows, partial(so_far, variant), partial(self._drawn, variant)) for variant in range(variants)]
            return {"hints": torch.stack([torch.stack(latents) for latents in each], dim=1)}, {}

        return self._rows("hints", self.parts.contents, make, "hint latent", *self.parts.hint_setup(), variants)

    def given_hints(self, hint_pictures: Rows) -> Rows:
        """Latents of hints that come as pictures: fp32 rows [1, C, H/8, W/8], as `hints` has them with one variant."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            latents = self._encoded(plan.rows, report, partial(self._stored, hint_pictures, "hint pictures"))
            return {"hints": torch.stack(latents).unsqueeze(1)}, {}

        return self._rows("given-hints", self.parts.hint_contents, make, "hint latent")

    def _stored(self, rows: Rows, tensor: str, wanted: Sequence[int]) -> Tensor:
        return self.buffers.filled(rows.stack(tensor, wanted))

    def _drawn(self, variant: int, wanted: Sequence[int]) -> Tensor:
        return self.buffers.filled(torch.from_numpy(self.parts.drawn_hints(self.pictures, wanted, variant)))

    def _encoded(self, rows: Sequence[int], report: Report, pixels_of: PixelsOf) -> list[Tensor]:
        """The latents of some rows of one size, fp32 [C, H/8, W/8] each; pixels are read ahead in a thread while the autoencoder works."""
        if not rows:
            return []
        size = self._at_once(rows[0])
        batches, latents = [rows[first : first + size] for first in range(0, len(rows), size)], []
        with ThreadPoolExecutor(1, thread_name_prefix="graft-pixels") as ahead:
            coming = ahead.submit(pixels_of, batches[0])
            for number, batch in enumerate(batches):
                pixels = coming.result()
                if number + 1 < len(batches):
                    coming = ahead.submit(pixels_of, batches[number + 1])
                latents += self._encode(pixels, batch)
                report(len(latents))
        return latents

    def _at_once(self, row: int) -> int:
        width, height = self.parts.size_of(row)
        return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (width * height)))

    def _encode(self, pixels: Tensor, rows: Sequence[int]) -> list[Tensor]:
        """Where memory runs out, in smaller batches, down to one picture at a time."""
        latents: list[Tensor] = []
        while len(latents) < len(rows):
            part = slice(len(latents), len(latents) + self.pace.size)
            said = ""
            try:
                latents += self._checked(self.encode_images(pixels[part]), rows[part])
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or min(self.pace.size, len(rows)) == 1:
                    raise
                said = let_go(error)
            if said:
                release_cached_memory(pixels.device)
                self.pace.size = min(self.pace.size, len(rows))
                self.pace.slower()
                logger.info("the autoencoder ran out of memory (%s): %d pictures at once from now on", said, self.pace.size)
        return latents

    def _checked(self, encoded: Tensor, rows: Sequence[int]) -> list[Tensor]:
        raw = encoded.detach().cpu().float()
        if raw.ndim != 4 or raw.shape[0] != len(rows):
            expected = f"latents [{len(rows)}, C, H, W]"
            raise InputError("autoencoder", expected=expected, found=list(raw.shape), remedy="Connect another VAE.")
        if not raw.isfinite().all():
            names = [self.parts.samples[row // self.parts.views].name for row, latent in zip(rows, raw, strict=True) if not latent.isfinite().all()]
            remedy = "Run the autoencoder in BF16 or FP32: in FP16 many overflow."
            raise InputError("autoencoder", expected="finite latents", found=f"non-finite values for {', '.join(names)}", remedy=remedy)
        return list((raw - self.space.shift) * self.space.scale)

    def _rows(
        self, kind: str, contents: Sequence[KeyPart], make: Callable[[ShardPlan, Report], Shard], unit: str, *setup: KeyPart
    ) -> Rows:
        parts = self.parts
        base = (_LATENTS_VERSION, self.identity, parts.dataset.resolution_px, self.space.shift, self.space.scale)
        return parts.shelf.rows(kind, contents, parts.rows_per_shard, make, unit, *base, *setup, groups=parts.groups)

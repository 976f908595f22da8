"""Latents that kohya's trainers have cached beside the pictures, so that a set that was encoded for them need not be encoded again.

Names and keys as kohya-ss/sd-scripts writes them (library/strategy_flux.py, library/strategy_base.py): `<stem>_<width>x<height>_flux.npz` with the
picture's own width and height in four digits; in it `latents_<h>x<w>` in latent cells (older files: `latents`), and `latents_flipped...`. They
are in the space that is trained in, shift and scale applied. Only arrays are read: a pickle inside is refused. They do not say
whether the crop was a random one: for hints that belong to the very crop, use caches of centre crops.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..flux_space import PIXELS_PER_LATENT
from .buckets import Size
from .dataset import Sample
from .framing import PLAIN, Framing
from .keys import KeyPart

LATENTS_ENDING = "_flux.npz"


@dataclass(frozen=True)
class FoundLatents:
    """Latents of some rows (as encode_pictures numbers them); none where `samples` is empty."""

    samples: Sequence[Sample] = ()
    framing: Framing = PLAIN
    resolution_px: int = 0

    def contents(self, contents: Sequence[KeyPart]) -> list[KeyPart]:
        """What the rows are known by: where a file was found, by its size and time too."""
        if not self.samples:
            return list(contents)
        stamps = [_stamp(sample) for sample in self.samples for _ in range(self.framing.views)]
        return [[content, "kohya", *stamp] if stamp else content for content, stamp in zip(contents, stamps, strict=True)]

    def key(self) -> list[KeyPart]:
        """Stands for all files that are there; empty if none is looked for."""
        return [["kohya", *stamp] for sample in self.samples if (stamp := _stamp(sample))]

    def read(self, row: int) -> Tensor | None:
        """fp32 [C, H/8, W/8] in the space that is trained in, or None: not there, of another size, damaged, or of a turned or moved view."""
        if not self.samples:
            return None
        sample, number = self.samples[row // self.framing.views], row % self.framing.views
        view, path = self.framing.view(number, sample.digest), kohya_file(sample)
        if path is None or view.degrees or view.crop is not None:
            return None
        return read_kohya_latents(path, self.framing.size(sample.size_px, self.resolution_px), view.mirrored)


NO_FOUND_LATENTS = FoundLatents()


def kohya_file(sample: Sample) -> Path | None:
    """The file that kohya's FLUX trainers would have written beside the picture."""
    path = getattr(sample.place, "path", None)
    if path is None:
        return None
    width, height = sample.size_px
    return Path(f"{os.path.splitext(path)[0]}_{width:04d}x{height:04d}{LATENTS_ENDING}")


def read_kohya_latents(path: Path, size_px: Size, mirrored: bool = False) -> Tensor | None:
    """Latents for this width and height out of one file: fp32 [C, H/8, W/8]; None if it does not hold them."""
    cells = (size_px[1] // PIXELS_PER_LATENT, size_px[0] // PIXELS_PER_LATENT)
    name = "latents_flipped" if mirrored else "latents"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = next((key for key in (f"{name}_{cells[0]}x{cells[1]}", name) if key in arrays), None)
            latents = None if found is None else np.asarray(arrays[found], np.float32)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    if latents is None or latents.ndim != 3 or latents.shape[1:] != cells or not np.isfinite(latents).all():
        return None
    return torch.from_numpy(latents.copy())


def _stamp(sample: Sample) -> list[KeyPart]:
    path = kohya_file(sample)
    try:
        state = None if path is None else os.stat(path)
    except OSError:
        state = None
    return [] if state is None else [state.st_size, state.st_mtime_ns]

"""An encoded data set: a handle to what lies on disk. Holding it costs a line per picture; tensors are read when asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..files.write import write_bytes
from .canny import CannyRecipe, canny_edges, edge_pixels
from .dataset import GivenHints, HintRecipe, Problem, hint_fields, hint_recipe
from .encode_pictures import SHARED_SEED
from .keys import drawn_number
from .shards import Rows

HintForm: TypeAlias = Literal["none", "pixels", "latents"]
"""How a ControlNet wants its hint: as pixels (XLabs), as latents (InstantX, diffusers), or not at all (LoRA)."""


@dataclass(frozen=True)
class EncodedSample:
    """One picture with its caption, and where its tensors lie."""

    name: str
    digest: str
    caption: str
    row: int
    text_row: int


@dataclass(frozen=True)
class Encoded:
    """Latents, text embeddings, pictures and hints on disk under one key."""

    folder: Path
    key: str
    """Stands for everything that training sees, what was left out included."""
    resolution_px: int
    recipe: HintRecipe
    hint_form: HintForm
    hint_variants: int
    """Hints per picture that were encoded ahead; 0 unless `hint_form` is latents."""
    train: tuple[EncodedSample, ...]
    held_out: tuple[EncodedSample, ...]
    skipped: tuple[Problem, ...]
    """Pictures that could not be decoded."""
    parts: dict[str, Rows]

    @property
    def train_size(self) -> int:
        return len(self.train)

    @property
    def held_out_size(self) -> int:
        return len(self.held_out)

    def latents(self, samples: Sequence[EncodedSample]) -> Tensor:
        """[B, C, H/8, W/8] fp32 in the space that is trained in, which is (z - shift) * scale."""
        return self.parts["latents"].stack("latents", [sample.row for sample in samples])

    def text(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Tensor]:
        """Caption embeddings in the encoder's dtype: tokens [B, L, W] and pooled [B, V]."""
        rows = [sample.text_row for sample in samples]
        return self.parts["text"].stack("tokens", rows), self.parts["text"].stack("pooled", rows)

    def empty_text(self) -> tuple[Tensor, Tensor]:
        """The embedding of the empty caption: tokens [L, W] and pooled [V]."""
        return self.parts["empty text"].read("tokens", 0), self.parts["empty text"].read("pooled", 0)

    def pictures(self, samples: Sequence[EncodedSample]) -> Tensor:
        """uint8 RGB [B, H, W, 3], scaled and cropped."""
        return self.parts["pictures"].stack("pictures", [sample.row for sample in samples])

    def edges(self, samples: Sequence[EncodedSample], seed: int, epochs: Sequence[int]) -> Tensor:
        """Edges of the pictures, to measure by: uint8 [B, H, W] in {0, 255}.

        With the thresholds that training uses for each sample in each epoch, or the usual ones where hints are given as pictures.
        """
        if "edges" in self.parts:
            packed = self.parts["edges"].stack("edges", [sample.row for sample in samples])
            return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1)) * 255
        thresholds = [self._thresholds(sample, seed, epoch) for sample, epoch in zip(samples, epochs, strict=True)]
        pictures = self.pictures(samples).numpy()
        return torch.from_numpy(np.stack([canny_edges(picture, *pair) for picture, pair in zip(pictures, thresholds, strict=True)]))

    def hints(self, samples: Sequence[EncodedSample], seed: int, epochs: Sequence[int]) -> Tensor | None:
        """What the ControlNet is given.

        Returns:
            pixels: fp32 [B, 3, H, W] in -1..1 (edges: 1, the rest -1); latents: fp32 [B, C, H/8, W/8] like `latents`; None without hints.
        """
        if self.hint_form == "none":
            return None
        if self.hint_form == "pixels":
            return self.hint_pictures(samples, seed, epochs) * 2 - 1
        variants = [self._variant(sample, seed, epoch) for sample, epoch in zip(samples, epochs, strict=True)]
        rows = self.parts["hints"]
        return torch.stack([rows.read("hints", sample.row)[variant] for sample, variant in zip(samples, variants, strict=True)])

    def hint_pictures(self, samples: Sequence[EncodedSample], seed: int, epochs: Sequence[int]) -> Tensor:
        """The hints as pictures, whatever their form: fp32 [B, 3, H, W] in 0..1; edges are white on black."""
        if "hint pictures" not in self.parts:
            return edge_pixels(self.edges(samples, seed, epochs))
        pictures = self.parts["hint pictures"].stack("hint pictures", [sample.row for sample in samples])
        return pictures.permute(0, 3, 1, 2).float().div(255).contiguous()

    def _thresholds(self, sample: EncodedSample, seed: int, epoch: int) -> tuple[int, int]:
        if isinstance(self.recipe, GivenHints):
            return CannyRecipe().thresholds(seed, sample.digest, epoch)
        if self.hint_form == "latents":
            return self.recipe.thresholds(SHARED_SEED, sample.digest, self._variant(sample, seed, epoch))
        return self.recipe.thresholds(seed, sample.digest, epoch)

    def _variant(self, sample: EncodedSample, seed: int, epoch: int) -> int:
        return drawn_number(0, self.hint_variants - 1, "hint variant", seed, sample.digest, epoch)


def save_index(encoded: Encoded, lookup_key: str) -> None:
    """Writes the handle beside the shards, so that the next call finds it without looking at them."""
    index: dict[str, Any] = {
        "key": encoded.key, "resolution_px": encoded.resolution_px, "recipe": hint_fields(encoded.recipe), "hint_form": encoded.hint_form,
        "hint_variants": encoded.hint_variants, "train": [_row(sample) for sample in encoded.train],
        "held_out": [_row(sample) for sample in encoded.held_out], "skipped": [[entry.name, entry.what] for entry in encoded.skipped],
        "parts": {part: [rows.rows_per_shard, rows.names, rows.sizes_bytes()] for part, rows in encoded.parts.items()},
    }  # fmt: skip
    write_bytes(_index_path(encoded.folder, lookup_key), json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))


def load_index(folder: Path, lookup_key: str) -> Encoded | None:
    """The handle that was saved under this key, or None if there is none, or if shards that it names are gone or cut off."""
    try:
        index = json.loads(_index_path(folder, lookup_key).read_text("utf-8"))
        encoded = _from_index(folder, index)
        whole = all(encoded.parts[part].sizes_bytes() == sizes for part, (_, _, sizes) in index["parts"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return encoded if whole else None


def _index_path(folder: Path, lookup_key: str) -> Path:
    return folder / f"encoded-{lookup_key[:40]}.json"


def _from_index(folder: Path, index: dict[str, Any]) -> Encoded:
    return Encoded(
        folder=folder, key=index["key"], resolution_px=index["resolution_px"],
        recipe=hint_recipe(index["recipe"]),
        hint_form=index["hint_form"], hint_variants=index["hint_variants"],
        train=tuple(EncodedSample(*row) for row in index["train"]), held_out=tuple(EncodedSample(*row) for row in index["held_out"]),
        skipped=tuple(Problem(*row) for row in index["skipped"]),
        parts={part: Rows(folder, tuple(names), rows_per_shard) for part, (rows_per_shard, names, _) in index["parts"].items()},
    )  # fmt: skip


def _row(sample: EncodedSample) -> list[Any]:
    return [sample.name, sample.digest, sample.caption, sample.row, sample.text_row]

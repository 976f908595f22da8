"""An encoded data set: a handle to what lies on disk. Holding it costs a few bytes a picture; tensors are read when asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..in_use import protect
from ..progress import NO_PROGRESS, Progress
from .buckets import Size
from .canny import CannyRecipe, canny_edges, edge_pixels
from .dataset import GivenHints, HintRecipe, Problem, hint_fields, hint_recipe
from .encode_pictures import SHARED_SEED
from .index import EncodedSample, Entry, IndexFile, SampleTable, shard_names, write_index
from .keys import drawn_number
from .pages import fresh
from .shards import Rows

__all__ = ["Encoded", "EncodedSample", "HintForm", "load_index", "save_index"]

HintForm: TypeAlias = Literal["none", "pixels", "latents"]
"""How a ControlNet wants its hint: as pixels (XLabs), as latents (InstantX, diffusers), or not at all (LoRA)."""
Part: TypeAlias = Literal["train", "held out"]
_PARTS: tuple[Part, ...] = ("train", "held out")
INDEX_BEGINNING = "encoded-"
ENCODED_FOLDER = "encoded"
"""Inside a host's folder of things that can be made again."""


@dataclass(frozen=True)
class Encoded:
    """Latents, text embeddings and hints on disk under one key, and pictures where hints are drawn of them later."""

    folder: Path
    key: str
    """Stands for everything that training sees, what was left out included."""
    resolution_px: int
    recipe: HintRecipe
    hint_form: HintForm
    hint_variants: int
    """Hints per picture that were encoded ahead; 0 unless `hint_form` is latents."""
    train: SampleTable
    held_out: SampleTable
    skipped: tuple[Problem, ...]
    """Pictures that could not be decoded, or are too small for any bucket."""
    parts: dict[str, Rows]
    views: int
    """Rows of each picture: plain, mirrored, turned."""
    sizes: tuple[Size, ...]
    """Width and height of the groups in which pictures are trained; one where all are squares."""
    index: IndexFile = field(compare=False, repr=False)

    @property
    def train_size(self) -> int:
        return len(self.train)

    @property
    def held_out_size(self) -> int:
        return len(self.held_out)

    @property
    def rates(self) -> np.ndarray | None:
        """How often each training sample comes in an epoch, fp32 [train_size]; None where all come once."""
        rates = self.index.array("rate")
        return None if rates is None else rates[self.train.entries]

    def groups(self, part: Part) -> np.ndarray | None:
        """The number of each sample's size, int16 [samples]; None where all have the same."""
        groups = self.index.array("group")
        return None if groups is None else groups[self._table(part).entries]

    def alike(self, part: Part, count: int) -> list[int]:
        """Positions of the first `count` samples that have one size: the commonest, and of equals the first."""
        groups = self.groups(part)
        if groups is None:
            return list(range(min(count, len(self._table(part)))))
        commonest = Counter(groups.tolist()).most_common(1)[0][0] if len(groups) else 0
        return np.nonzero(groups == commonest)[0][:count].tolist()

    def seen(self, position: int, seed: int, epoch: int) -> EncodedSample:
        """A training sample as one epoch sees it: in one of its views, with one of its texts."""
        entry = int(self.train.entries[position])
        sample, texts = self.index.samples([entry])[0], self.index.text_rows(entry)
        if len(texts) > 1:
            text_row = int(texts[drawn_number(0, len(texts) - 1, "caption", seed, sample.digest, epoch)])
            sample = replace(sample, text_row=text_row, caption=self.index.caption(text_row))
        if self.views == 1:
            return sample
        return replace(sample, row=sample.row + drawn_number(0, self.views - 1, "view", seed, sample.digest, epoch))

    def latents(self, samples: Sequence[EncodedSample]) -> Tensor:
        """[B, C, H/8, W/8] fp32 in the space that is trained in, which is (z - shift) * scale."""
        return self.parts["latents"].stack("latents", [sample.row for sample in samples])

    def loss_weights(self, samples: Sequence[EncodedSample]) -> Tensor | None:
        """How much each cell counts, fp32 [B, 1, H/8, W/8] in 0..1; None where no picture has a mask."""
        if "loss weights" not in self.parts:
            return None
        return self.parts["loss weights"].stack("loss weights", [sample.row for sample in samples]).unsqueeze(1)

    def text(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Tensor]:
        """Caption embeddings in the encoder's dtype: tokens [B, L, W] and pooled [B, V]."""
        rows = [sample.text_row for sample in samples]
        return self.parts["text"].stack("tokens", rows), self.parts["text"].stack("pooled", rows)

    def empty_text(self) -> tuple[Tensor, Tensor]:
        """The embedding of the empty caption: tokens [L, W] and pooled [V]."""
        return self.parts["empty text"].read("tokens", 0), self.parts["empty text"].read("pooled", 0)

    def colours(self, samples: Sequence[EncodedSample]) -> Tensor:
        """The mean colour of what each cell of the latents stands for: uint8 RGB [B, H/8, W/8, 3]."""
        return self.parts["colours"].stack("colours", [sample.row for sample in samples])

    def pictures(self, samples: Sequence[EncodedSample]) -> Tensor:
        """uint8 RGB [B, H, W, 3], scaled and cropped; only where hints are drawn of them later (encode_outputs.py)."""
        return self.parts["pictures"].stack("pictures", [sample.row for sample in samples])

    def edges(self, samples: Sequence[EncodedSample], seed: int, epochs: Sequence[int]) -> Tensor:
        """Edges of the pictures, to measure by: uint8 [B, H, W] in {0, 255}.

        With the thresholds that training uses for each sample in each epoch, or the usual ones where hints are not made by thresholds.
        """
        if "edges" in self.parts:
            packed = self.parts["edges"].stack("edges", [sample.row for sample in samples])
            return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1)).mul_(255)
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
        if self.hint_form == "pixels" and isinstance(self.recipe, CannyRecipe):
            # One channel, seen three times: a hint of 1024 x 1024 takes 4 MB in place of 12.
            edges = self.edges(samples, seed, epochs)
            return fresh(edges.shape, torch.float32).copy_(edges).div_(127.5).sub_(1).unsqueeze(1).expand(-1, 3, -1, -1)
        if self.hint_form == "pixels":
            return self.hint_pictures(samples, seed, epochs) * 2 - 1
        variants = [self._variant(sample, seed, epoch) for sample, epoch in zip(samples, epochs, strict=True)]
        rows = self.parts["hints"]
        return torch.stack([rows.read("hints", sample.row)[variant] for sample, variant in zip(samples, variants, strict=True)])

    def hint_pictures(self, samples: Sequence[EncodedSample], seed: int, epochs: Sequence[int]) -> Tensor:
        """The hints as pictures, whatever their form: fp32 [B, 3, H, W] in 0..1; edges are white on black."""
        if "hint pictures" in self.parts:
            return _as_pixels(self.parts["hint pictures"].stack("hint pictures", [sample.row for sample in samples]))
        if isinstance(self.recipe, CannyRecipe):
            return edge_pixels(self.edges(samples, seed, epochs))
        pictures, draws = self.pictures(samples).numpy(), zip(samples, epochs, strict=True)
        return _as_pixels(torch.from_numpy(np.stack([self._drawn(*both, seed) for both in zip(pictures, draws, strict=True)])))

    def verify(self, progress: Progress = NO_PROGRESS) -> int:
        """Reads every row of every part and compares its checksum; returns how many rows there are.

        Raises:
            DamagedShardError: the first that is not what was written; its file has been removed, so that encoding again makes it anew.
        """
        progress.start(sum(len(rows) for rows in self.parts.values()), "row")
        done = 0
        for rows in self.parts.values():
            for row in range(len(rows)):
                progress.check_interrupt()
                for tensor in rows.tensors(row):
                    rows.read(tensor, row)
                progress.advance(done := done + 1)
        progress.finish()
        return done

    def _drawn(self, picture: np.ndarray, draw: tuple[EncodedSample, int], seed: int) -> np.ndarray:
        sample, epoch = draw
        assert not isinstance(self.recipe, GivenHints), "they lie on disk"
        if self.hint_form == "latents":
            return self.recipe.hint(picture, SHARED_SEED, sample.digest, self._variant(sample, seed, epoch))
        return self.recipe.hint(picture, seed, sample.digest, epoch)

    def _thresholds(self, sample: EncodedSample, seed: int, epoch: int) -> tuple[int, int]:
        if not isinstance(self.recipe, CannyRecipe):
            return CannyRecipe().thresholds(seed, sample.digest, epoch)
        if self.hint_form == "latents":
            return self.recipe.thresholds(SHARED_SEED, sample.digest, self._variant(sample, seed, epoch))
        return self.recipe.thresholds(seed, sample.digest, epoch)

    def _variant(self, sample: EncodedSample, seed: int, epoch: int) -> int:
        return drawn_number(0, self.hint_variants - 1, "hint variant", seed, sample.digest, epoch)

    def _table(self, part: Part) -> SampleTable:
        return self.train if part == "train" else self.held_out


def save_index(
    folder: Path, lookup_key: str, facts: Mapping[str, Any], entries: Sequence[Entry], captions: Sequence[str],
    split: tuple[Sequence[int], Sequence[int]], parts: Mapping[str, Rows],
) -> None:  # fmt: skip
    """Writes what `load_index` finds, beside the shards.

    Args:
        folder: of the shards.
        lookup_key: what it is found by.
        facts: key, resolution_px, recipe, hint_form, hint_variants, views, sizes, skipped.
        entries: the usable samples.
        captions: texts by their rows.
        split: numbers of the entries to train on, and of those held out.
        parts: where the tensors lie.
    """
    described = {name: [rows.stride, rows.names, _sizes_bytes(folder, rows.names)] for name, rows in parts.items()}
    meta = {**facts, "recipe": hint_fields(facts["recipe"]), "skipped": [[problem.name, problem.what] for problem in facts["skipped"]]}
    arrays = {f"places of {name}": rows.places for name, rows in parts.items()}
    arrays |= {f"part {name}": np.array(positions, np.int32) for name, positions in zip(_PARTS, split, strict=True)}
    path = _index_path(folder, lookup_key)
    protect(folder, [path.name])
    write_index(path, {**meta, "parts": described}, entries, captions, arrays)


def load_index(folder: Path, lookup_key: str) -> Encoded | None:
    """The handle that was saved under this key, or None if there is none, or if shards that it names are gone or cut off.

    Clean-up leaves it alone from now on, and its file's time is that of its last use.
    """
    path = _index_path(folder, lookup_key)
    try:
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        index = IndexFile(path)
        encoded = _from_index(folder, index)
        protect(folder, [path.name, *shard_names(index.meta)])
        whole = path.is_file() and _are_whole(folder, index.meta["parts"])  # clean-up may have come before its protection
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None
    return encoded if whole else None


def _index_path(folder: Path, lookup_key: str) -> Path:
    return folder / f"{INDEX_BEGINNING}{lookup_key[:40]}.safetensors"


def _from_index(folder: Path, index: IndexFile) -> Encoded:
    meta = index.meta
    train, held_out = (SampleTable(index, index.required(f"part {part}")) for part in _PARTS)
    return Encoded(
        folder=folder, key=meta["key"], resolution_px=meta["resolution_px"], recipe=hint_recipe(meta["recipe"]), hint_form=meta["hint_form"],
        hint_variants=meta["hint_variants"], train=train, held_out=held_out, skipped=tuple(Problem(*row) for row in meta["skipped"]),
        parts={name: Rows(folder, tuple(names), stride, index.required(f"places of {name}")) for name, (stride, names, _) in meta["parts"].items()},
        views=meta["views"], sizes=tuple((width, height) for width, height in meta["sizes"]), index=index,
    )  # fmt: skip


def _sizes_bytes(folder: Path, names: Sequence[str]) -> list[int]:
    """The files' sizes, by which a later call sees at a glance whether they are all there and whole."""
    return [(folder / name).stat().st_size for name in names]


def _are_whole(folder: Path, parts: Mapping[str, Any]) -> bool:
    wanted = {name: size for _, names, sizes in parts.values() for name, size in zip(names, sizes, strict=True)}
    return all(os.path.getsize(os.path.join(folder, name)) == size for name, size in wanted.items())


def _as_pixels(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> fp32 [B, 3, H, W] in 0..1."""
    return pictures.permute(0, 3, 1, 2).float().div(255).contiguous()

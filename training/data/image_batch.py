"""Pictures that come as tensors, out of a graph, as a data set: known by content, kept on disk scaled and cropped, no tensor held.

Numbers are rounded to 8 bits, as in a picture file, and from there on everything is as for a folder of such files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files.write import require_writable_folder
from ..progress import NO_PROGRESS, Progress
from .captions import captions_of
from .dataset import GivenHints, HintRecipe, Problem, Sample, hint_fields, list_problems, require_held_out, require_resolution, split_held_out
from .framing import PLAIN, Framing
from .image_check import require_images, require_matching_hints, require_matching_masks, what_is_wrong
from .keys import content_key
from .known import KnownFiles
from .mask import Mask, require_background
from .picture import fit_square
from .picture_header import UnreadablePictureError, VanishedPictureError
from .shards import Report, Rows, Shard, ShardPlan, rows_for
from .shelf import Shelf

Images: TypeAlias = "Sequence[Tensor]"
"""Batches [B, H, W, 3] in 0..1, one after the other; each may have a size of its own."""

Masks: TypeAlias = "Sequence[Tensor]"
"""Batches [B, H, W] in 0..1, one after the other."""

# Part of every key: raise it when the same pictures and captions would make another data set.
_BATCH_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredPlace:
    """A row of pictures on disk (sources.place.Place)."""

    rows: Rows
    tensor: str
    row: int

    def picture(self, digest: str) -> np.ndarray:
        """uint8 RGB [resolution_px, resolution_px, 3]; rows are known by their content already.

        Raises:
            VanishedPictureError: the file that holds it has been removed.
        """
        try:
            return self.rows.read(self.tensor, self.row).numpy()
        except (InputError, OSError) as error:
            raise VanishedPictureError("is no longer on disk") from error


@dataclass(frozen=True)
class ImageBatch:
    """A handle to a batch's pictures and given hints on disk (dataset.Dataset)."""

    resolution_px: int
    hint: HintRecipe
    held_out: int
    samples: tuple[Sample, ...]
    pictures: Rows = field(repr=False)
    hint_pictures: Rows | None = field(repr=False)
    on_unreadable: Literal["stop"] = "stop"
    framing: Framing = PLAIN
    """Pictures lie on disk as squares, so only views of them can be added."""

    def __post_init__(self) -> None:
        if self.framing.buckets is not None:
            remedy = "Write the pictures to a folder and use that, or give one Image Batch Dataset for each size."
            raise InputError("buckets", expected="a data set of files", found="an image batch, which is kept as squares", remedy=remedy)

    def scan(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> tuple[Sample, ...]:
        return self.samples

    def look(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> Iterator[Sample | Problem]:
        return iter(self.samples)

    def lone_captions(self) -> Iterator[str]:
        return iter(())

    def stamp(self) -> str:
        """Pictures are known by content and nothing has to be looked at; only a removed file changes what `read` gives."""
        return self.key()

    def split(self, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
        return split_held_out([sample.digest for sample in samples], self.held_out)

    def read(self, sample: Sample) -> np.ndarray:
        """uint8 RGB [resolution_px, resolution_px, 3].

        Raises:
            UnreadablePictureError: the files that hold it have been removed.
        """
        assert sample.place is not None, f"{sample.name} was not stored"
        return sample.place.picture(sample.digest)

    def read_whole(self, sample: Sample) -> np.ndarray:
        """As `read`: the square is all that was kept."""
        return self.read(sample)

    def read_whole_hint(self, sample: Sample) -> np.ndarray:
        """As `read_hint`."""
        return self.read_hint(sample)

    def read_hint(self, sample: Sample) -> np.ndarray:
        """The hint that came with it, scaled and cropped like the picture, uint8 RGB.

        Raises:
            InputError: the files that hold it have been removed.
        """
        assert sample.hint_place is not None, "hints are made from the pictures"
        try:
            return sample.hint_place.picture(sample.hint_digest)
        except UnreadablePictureError as error:
            raise _gone([Problem(f"the hint of {sample.name}", str(error))]) from error

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        """A hash of everything that training sees: pictures, captions and given hints, their order, resolution, hint recipe and split."""
        contents = [
            [sample.digest, sample.caption, sample.hint_digest, *([sample.mask_digest] if sample.mask_digest else [])]
            for sample in (samples or self.samples)
        ]
        recipe = sorted(hint_fields(self.hint).items())
        fields = [[name, value] for name, value in recipe]
        return content_key("image batch", _BATCH_VERSION, contents, self.resolution_px, fields, self.held_out, *self.framing.key())

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        """Raises:
        InputError: there are problems.
        """
        found = list(problems)
        if found:
            raise _gone(found)


def store_image_batch(
    images: Images,
    captions: Sequence[str],
    folder: str | Path,
    *,
    resolution_px: int,
    hint: HintRecipe,
    hints: Images | None = None,
    masks: Masks | None = None,
    background: float = 0.0,
    held_out: int = 0,
    caption_missing: Literal["stop", "empty"] = "stop",
    progress: Progress = NO_PROGRESS,
) -> ImageBatch:
    """Puts pictures, and hints that came with them, into `folder` (the one that they are encoded in), unless they lie there already.

    Args:
        images: the pictures; values are rounded to 8 bits.
        captions: one text for all, a text with one line for each picture, or as many texts as there are pictures.
        folder: where shards lie; data sets may share it.
        resolution_px: side of the square to which pictures and hints are scaled and cropped at their centre; a multiple of 16.
        hint: how hints are made from the pictures; not used where `hints` are given.
        masks: [B, H, W] in 0..1, as many as pictures and of the same proportions: where each counts.
        background: how much counts what is black in its mask.
        hints: as many as pictures, each showing the whole of its picture: of the same proportions, in any size.
        held_out: how many pictures are kept for validation.
        caption_missing: what to do about empty captions.
        progress: hears of each part in turn.

    Raises:
        InputError: nothing there; no RGB pictures; counts or proportions that differ; NaN, infinities or values far from 0..1 (all listed);
            captions missing or too few; nothing left to train on; a folder that cannot be written.
    """
    require_resolution(resolution_px)
    require_held_out(held_out)
    count = require_images("images", images)
    if hints is not None:
        require_matching_hints(images, hints)
    if masks is not None:
        require_background(background)
        require_matching_masks(images, masks)
    texts = captions_of(captions, count, caption_missing)
    shelf = Shelf(require_writable_folder(folder, "folder for encoded data"), progress)
    digests = _digests("images", "picture", images, progress)
    hint_digests = _digests("hints", "hint", hints, progress) if hints is not None else [""] * count
    split_held_out(digests, held_out)
    pictures = _shelved(shelf, "pictures", "pictures", images, digests, resolution_px, "picture")
    given = None if hints is None else _shelved(shelf, "hint-pictures", "hint pictures", hints, hint_digests, resolution_px, "hint")
    own_masks = [None] * count if masks is None else _stored_masks(shelf, masks, resolution_px, background)
    samples = tuple(
        Sample(
            f"picture {number + 1}", texts[number], digests[number], hint_digests[number], size_px=(resolution_px, resolution_px),
            place=StoredPlace(pictures, "pictures", number), hint_place=None if given is None else StoredPlace(given, "hint pictures", number),
            mask_digest=mask.key() if (mask := own_masks[number]) else "", mask=mask,
        )
        for number in range(count)
    )  # fmt: skip
    return ImageBatch(resolution_px, hint if hints is None else GivenHints(), held_out, samples, pictures, given)


def _stored_masks(shelf: Shelf, masks: Masks, resolution_px: int, background: float) -> list[Mask]:
    """The masks as pictures on disk, cut like the pictures."""
    pictures = [mask.unsqueeze(-1).expand(-1, -1, -1, 3) for mask in masks]
    digests = _digests("masks", "mask", pictures, shelf.progress)
    rows = _shelved(shelf, "mask-pictures", "mask pictures", pictures, digests, resolution_px, "mask")
    return [Mask(StoredPlace(rows, "mask pictures", row), digest, False, background) for row, digest in enumerate(digests)]


def eight_bits(image: Tensor) -> np.ndarray:
    """[H, W, 3] in 0..1 -> uint8, rounded; what lies a little outside is cut off."""
    return (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _rows(images: Images) -> list[Tensor]:
    """Each picture [H, W, 3] of batches that follow one another; they share the batches' memory."""
    return [image for batch in images for image in batch]


def _digests(subject: str, name: str, images: Images, progress: Progress) -> list[str]:
    """SHA-256 of each picture's size and 8-bit values; everything that is wrong with values is listed."""
    digests, problems = [], []
    rows = _rows(images)
    progress.start(len(rows), name)
    try:
        for number, image in enumerate(rows, start=1):
            progress.check_interrupt()
            wrong = what_is_wrong(image)
            problems += [Problem(f"{name} {number}", wrong)] if wrong else []
            digests.append("" if wrong else hashlib.sha256(repr(tuple(image.shape)).encode() + eight_bits(image).tobytes()).hexdigest())
            progress.advance(number)
    finally:
        progress.finish()
    if problems:
        remedy = "Look at them with Preview Image, and mend what makes them."
        raise InputError(subject, expected="finite values from 0 to 1", found=list_problems(problems), remedy=remedy)
    return digests


def _shelved(shelf: Shelf, kind: str, tensor: str, images: Images, digests: Sequence[str], resolution_px: int, unit: str) -> Rows:
    """The same rows as encode_outputs.py describes, under the same keys: where encoding keeps pictures, it finds them."""
    make = _maker(tensor, _rows(images), resolution_px)
    return shelf.rows(kind, digests, rows_for(resolution_px**2 * 3), make, unit, resolution_px)


def _maker(tensor: str, images: Sequence[Tensor], resolution_px: int) -> Callable[[ShardPlan, Report], Shard]:
    def make(plan: ShardPlan, report: Report) -> Shard:
        rows = np.empty((len(plan.rows), resolution_px, resolution_px, 3), np.uint8)
        for place, row in enumerate(plan.rows):
            rows[place] = fit_square(eight_bits(images[row]), resolution_px)
            report(place + 1)
        return {tensor: torch.from_numpy(rows)}, {}

    return make


def _gone(problems: Sequence[Problem]) -> InputError:
    return InputError(
        "image batch", expected="its pictures in the cache folder, where Image Batch Dataset put them", found=list_problems(problems),
        remedy="Empty ComfyUI's cache of node results (or restart it) and queue again: they are stored anew.",
    )  # fmt: skip

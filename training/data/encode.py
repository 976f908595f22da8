"""Encoding a data set once: pictures, latents, text embeddings and hints, each row known by what it depends on.

So a changed caption encodes only its text again, a changed picture only itself, and hints for another ControlNet layout are added to what is
there. Every part is made shard by shard: memory does not depend on the number of pictures, and an interruption costs at most the shard that was
being made. A data set whose files have not changed since is found by their sizes and times alone: nothing of it is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError
from ..files.write import require_writable_folder, write_bytes
from ..flux_space import FLUX_LATENT_SPACE, LatentSpace
from ..progress import NO_PROGRESS, Progress
from .dataset import Dataset, GivenHints, Problem, Sample
from .encode_latents import Autoencoder, ImageEncoder
from .encode_outputs import given_outputs, picture_outputs
from .encode_pass import Drawn, Latents, PicturePass, unreadable_rows
from .encode_pictures import HintSource, PictureParts, PictureSource
from .encode_text import TextEncoder, TextParts
from .encoded import Encoded, HintForm, load_index, save_index
from .index import Entry
from .keys import KeyPart, content_key
from .known import known_in
from .kohya_latents import NO_FOUND_LATENTS, FoundLatents
from .picture_header import UnreadablePictureError
from .shards import Rows
from .shelf import Shelf, remove_leftovers

__all__ = ["FLUX_LATENT_SPACE", "Encoded", "HintForm", "ImageEncoder", "LatentSpace", "TextEncoder", "encode_dataset"]

HINT_VARIANTS_LIMIT = 64
# Part of every data set's key, and so of every training's: raise it when training would see something else of the same data.
_DATA_VERSION = 1
# What an index is found by: raise it when the index of the same data would look different.
_INDEX_VERSION = 2

logger = logging.getLogger(__name__)


def encode_dataset(
    dataset: Dataset,
    encode_images: ImageEncoder,
    encode_text: TextEncoder,
    image_identity: str,
    text_identity: str,
    folder: str | Path,
    progress: Progress = NO_PROGRESS,
    *,
    hint_form: HintForm = "pixels",
    hint_variants: int = 4,
    latent_space: LatentSpace = FLUX_LATENT_SPACE,
    kohya_latents: bool = False,
) -> Encoded:
    """Encodes what is not on disk yet, and returns the handle to all of it.

    Args:
        dataset: what to encode.
        encode_images: the autoencoder.
        encode_text: the text encoder.
        image_identity: stands for the autoencoder's weights and settings; with another one latents are made anew, and nothing else.
        text_identity: stands for the text encoder's weights and settings; with another one embeddings are made anew, and nothing else.
        folder: where shards lie; data sets may share it.
        progress: hears of each part in turn.
        hint_form: what the ControlNet takes.
        hint_variants: for latent hints that are drawn, how many hints per picture are encoded ahead.
        latent_space: shift and scale of the transformer's latents.
        kohya_latents: whether latents that kohya's FLUX trainers cached beside the pictures are taken as they are.

    Raises:
        InputError: bad pictures or captions, all listed; a folder that cannot be written; encoders whose output cannot be used.
    """
    work = _Work(
        dataset=dataset, encode_images=encode_images, encode_text=encode_text, image_identity=image_identity, text_identity=text_identity,
        shelf=Shelf(require_writable_folder(folder, "folder for encoded data"), progress), hint_form=hint_form,
        variants=_hint_variants(dataset, hint_form, hint_variants), space=latent_space, kohya_latents=kohya_latents,
    )  # fmt: skip
    encoded = work.remembered() or work.whole()
    dataset.refuse_or_skip(encoded.skipped)
    return encoded


def _hint_variants(dataset: Dataset, hint_form: HintForm, hint_variants: int) -> int:
    if hint_form not in ("none", "pixels", "latents"):
        raise InputError("hint form", expected="none, pixels or latents", found=hint_form, remedy="Take the ControlNet layout's own.")
    if not 1 <= hint_variants <= HINT_VARIANTS_LIMIT:
        raise InputError("hint variants", expected=f"1 to {HINT_VARIANTS_LIMIT}", found=hint_variants, remedy="4 is a good number.")
    if hint_form != "latents":
        return 0
    return 1 if dataset.hint.is_fixed else hint_variants


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One data set with its encoders."""

    dataset: Dataset
    encode_images: ImageEncoder
    encode_text: TextEncoder
    image_identity: str
    text_identity: str
    shelf: Shelf
    hint_form: HintForm
    variants: int
    space: LatentSpace
    kohya_latents: bool

    @property
    def setup(self) -> list[KeyPart]:
        """What training sees beside the data."""
        kohya: list[KeyPart] = ["kohya"] if self.kohya_latents else []
        identities = (self.image_identity, self.text_identity)
        return [_DATA_VERSION, *identities, self.space.shift, self.space.scale, self.hint_form, self.variants, *kohya]

    def remembered(self) -> Encoded | None:
        """What an earlier call has made of the same files, if none has changed since; nothing but names, sizes and times is looked at."""
        try:
            key = json.loads(self._note(self.dataset.stamp()).read_text("ascii"))["index"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return load_index(self.shelf.folder, str(key))

    def whole(self) -> Encoded:
        """Scans, and makes what is missing."""
        stamp = self.dataset.stamp()  # from before anything is read
        scanned = self.dataset.scan(known_in(self.shelf.folder), self.shelf.progress)
        samples, problems = _frameable(self.dataset, scanned)
        self.dataset.refuse_or_skip(problems)
        found = FoundLatents(samples, self.dataset.framing, self.dataset.resolution_px) if self.kohya_latents else NO_FOUND_LATENTS
        key = content_key("encoded", self.dataset.key(scanned), *self.setup, *found.key())
        encoded = load_index(self.shelf.folder, _index_key(key)) or self._made(key, samples, problems, found)
        if stamp and not self.kohya_latents:
            write_bytes(self._note(stamp), json.dumps({"index": _index_key(key)}).encode("ascii"))
        return encoded

    def _made(self, key: str, samples: Sequence[Sample], problems: Sequence[Problem], found: FoundLatents) -> Encoded:
        remove_leftovers(self.shelf.folder)
        pictures = PictureSource(self.dataset, samples, self.shelf)
        autoencoder = Autoencoder(self.encode_images, self.image_identity, self.space)
        captions = sorted({text for sample in samples for text in texts_of(sample)})
        with torch.no_grad():
            parts = self._pass(pictures, picture_outputs(pictures, autoencoder, found, self.hint_form, self.variants), autoencoder, "picture")
            pictures.refuse()
            unreadable = _unreadable(pictures, parts.values())
            parts |= pictures.mask_parts({problem.name for problem in unreadable})
            parts |= self._given_hints(HintSource(self.dataset, samples, self.shelf), autoencoder)
            parts |= _text_parts(captions, TextParts(self.encode_text, self.text_identity, self.shelf))
        self._save(key, pictures, captions, parts, [*problems, *unreadable])
        encoded = load_index(self.shelf.folder, _index_key(key))
        assert encoded is not None, "an index that was just written is there"
        return encoded

    def _given_hints(self, hints: HintSource, autoencoder: Autoencoder) -> dict[str, Rows]:
        if self.hint_form == "none" or not isinstance(self.dataset.hint, GivenHints):
            return {}
        made = self._pass(hints, given_outputs(hints, autoencoder, self.hint_form), autoencoder, "hint")
        return {"hint pictures": made["hint-pictures"], **({"hints": made["given-hints"]} if "given-hints" in made else {})}

    def _pass(self, source: PictureSource | HintSource, outputs: Sequence[Drawn | Latents], autoencoder: Autoencoder, unit: str) -> dict[str, Rows]:
        return PicturePass(source, outputs, autoencoder).rows(self.shelf, source.rows_per_shard, unit, source.groups)

    def _save(self, key: str, pictures: PictureParts, captions: Sequence[str], parts: dict[str, Rows], skipped: Sequence[Problem]) -> None:
        dataset, unusable = self.dataset, {problem.name for problem in skipped}
        usable = [(row, sample) for row, sample in enumerate(pictures.samples) if sample.name not in unusable]
        split = dataset.split([sample for _, sample in usable])
        sizes = [dataset.framing.size(sample.size_px, dataset.resolution_px) for _, sample in usable]
        numbers = {size: number for number, size in enumerate(sorted(set(sizes)))}
        text_rows = {caption: row for row, caption in enumerate(captions)}
        entries = [
            Entry(sample.name, sample.digest, row * pictures.views, [text_rows[text] for text in texts_of(sample)], numbers[size], rate_of(sample))
            for (row, sample), size in zip(usable, sizes, strict=True)
        ]
        logger.info("%d samples to train on, %d held out, %d files in all", len(split[0]), len(split[1]), len(pictures.samples))
        facts = {
            "key": content_key(key, sorted(unusable)), "resolution_px": dataset.resolution_px, "recipe": dataset.hint, "hint_form": self.hint_form,
            "hint_variants": self.variants, "views": pictures.views, "sizes": sorted(numbers), "skipped": skipped,
        }  # fmt: skip
        save_index(self.shelf.folder, _index_key(key), facts, entries, captions, split, parts)

    def _note(self, stamp: str) -> Path:
        """Where a stamp of the files is kept, with what their index is found by."""
        return self.shelf.folder / f"unchanged-{content_key('unchanged', stamp, _INDEX_VERSION, *self.setup)[:40]}.json"


def _index_key(key: str) -> str:
    """What the index of the data with this key is found by."""
    return content_key("index", _INDEX_VERSION, key)


def texts_of(sample: Sample) -> tuple[str, ...]:
    """The texts of which each epoch draws one."""
    return sample.captions or (sample.caption,)


def rate_of(sample: Sample) -> float:
    """How often a sample comes in an epoch."""
    return sample.repeats * sample.weight


def _frameable(dataset: Dataset, samples: Sequence[Sample]) -> tuple[list[Sample], list[Problem]]:
    """Those that there is a bucket for, and those that are too small."""
    fitting, problems = [], []
    for sample in samples:
        try:
            dataset.framing.size(sample.size_px, dataset.resolution_px)
            fitting.append(sample)
        except UnreadablePictureError as error:
            problems.append(Problem(sample.name, str(error)))
    return fitting, problems


def _text_parts(captions: Sequence[str], text: TextParts) -> dict[str, Rows]:
    empty = text.empty()
    return {"empty text": empty, "text": text.captions(captions, empty)}


def _unreadable(pictures: PictureParts, made: Iterable[Rows]) -> list[Problem]:
    """The samples whose rows are black, as their shards say."""
    found: dict[int, str] = {}
    for rows in made:
        if black := unreadable_rows(rows):
            plain = range(0, len(rows), pictures.views)
            found |= {row: black[place] for row in plain if (place := rows.place_of(row)) in black}
    return [Problem(pictures.name_of(row), what) for row, what in sorted(found.items())]

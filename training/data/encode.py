"""Encoding a data set once: pictures, latents, text embeddings and hints, each part in shards under the key of what it depends on.

So a changed caption encodes only text again, and hints for another ControlNet layout are added to what is there. Every part is made
shard by shard: memory does not depend on the number of pictures, and an interruption costs at most the shard that was being made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import InputError
from ..files.write import require_writable_folder
from ..flux_space import FLUX_LATENT_SPACE, LatentSpace
from ..progress import NO_PROGRESS, Progress
from .dataset import Dataset, GivenHints, Sample
from .encode_latents import ImageEncoder, LatentParts
from .encode_pictures import PictureParts
from .encode_text import TextEncoder, TextParts
from .encoded import Encoded, EncodedSample, HintForm, load_index, save_index
from .keys import content_key
from .shards import Rows, Shelf, remove_leftovers

__all__ = ["FLUX_LATENT_SPACE", "Encoded", "HintForm", "ImageEncoder", "LatentSpace", "TextEncoder", "encode_dataset"]

HINT_VARIANTS_LIMIT = 64
# Part of every index's key: raise it when the index of the same parts would look different.
_INDEX_VERSION = 1

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
        hint_variants: for latent hints with drawn thresholds, how many hints per picture are encoded ahead.
        latent_space: shift and scale of the transformer's latents.

    Raises:
        InputError: bad pictures or captions, all listed; a folder that cannot be written; encoders whose output cannot be used.
    """
    variants = _hint_variants(dataset, hint_form, hint_variants)
    shelf = Shelf(require_writable_folder(folder, "folder for encoded data"), progress)
    samples = dataset.scan()
    setup = (_INDEX_VERSION, image_identity, text_identity, latent_space.shift, latent_space.scale, hint_form, variants)
    key = content_key("encoded", dataset.key(samples), *setup)
    encoded = load_index(shelf.folder, key)
    if encoded is None:
        remove_leftovers(shelf.folder)
        pictures = PictureParts(dataset, samples, shelf)
        # Pictures first: whatever is wrong with them is said before an encoder has worked for nothing.
        rows = pictures.pictures()
        latents = LatentParts(rows, pictures, encode_images, image_identity, latent_space)
        with torch.no_grad():
            parts = {"pictures": rows, "latents": latents.latents(), **_hint_parts(pictures, latents, hint_form, variants)}
            parts |= _text_parts(samples, TextParts(encode_text, text_identity, shelf))
        encoded = _handle(key, pictures, parts, hint_form, variants)
        save_index(encoded, key)
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


def _hint_parts(pictures: PictureParts, latents: LatentParts, hint_form: HintForm, variants: int) -> dict[str, Rows]:
    if isinstance(pictures.dataset.hint, GivenHints):
        return {} if hint_form == "none" else _given_hint_parts(pictures, latents, hint_form)
    if hint_form == "latents":
        return {"hints": latents.hints(variants)}
    # Drawn pixel hints are made from the pictures while training goes on.
    return {"edges": pictures.fixed_edges(latents.pictures)} if hint_form == "pixels" and pictures.dataset.hint.is_fixed else {}


def _given_hint_parts(pictures: PictureParts, latents: LatentParts, hint_form: HintForm) -> dict[str, Rows]:
    rows = pictures.given_hints()
    return {"hint pictures": rows, **({"hints": latents.given_hints(rows)} if hint_form == "latents" else {})}


def _text_parts(samples: Sequence[Sample], text: TextParts) -> dict[str, Rows]:
    empty = text.empty()
    return {"empty text": empty, "text": text.captions(_captions(samples), empty)}


def _captions(samples: Sequence[Sample]) -> list[str]:
    return sorted({sample.caption for sample in samples})


def _handle(key: str, pictures: PictureParts, parts: dict[str, Rows], hint_form: HintForm, variants: int) -> Encoded:
    dataset, samples = pictures.dataset, pictures.samples
    skipped = pictures.skipped(parts["pictures"])
    text_rows = {caption: row for row, caption in enumerate(_captions(samples))}
    unusable = {problem.name for problem in skipped}
    read = [(row, sample) for row, sample in enumerate(samples) if sample.name not in unusable]
    usable = [EncodedSample(sample.name, sample.digest, sample.caption, row, text_rows[sample.caption]) for row, sample in read]
    train, held_out = dataset.split([sample for _, sample in read])
    logger.info("%d samples to train on, %d held out, %d files in all", len(train), len(held_out), len(samples))
    return Encoded(
        folder=pictures.shelf.folder, key=content_key(key, sorted(unusable)), resolution_px=dataset.resolution_px, recipe=dataset.hint,
        hint_form=hint_form, hint_variants=variants, train=tuple(usable[position] for position in train),
        held_out=tuple(usable[position] for position in held_out), skipped=tuple(skipped), parts=parts,
    )  # fmt: skip

"""What is kept of the pictures of a data set, by what comes after.

Latents always, and the mean colour of each of their cells, by which previews show them. Hints that never change are made now. Pictures themselves,
the largest by far, stay only where hints are drawn of them later: anew in each epoch, or for validation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..flux_space import PIXELS_PER_LATENT
from ..opencv import cv2
from .canny import CannyRecipe, canny_edges
from .dataset import GivenHints, HintRecipe
from .encode_latents import Autoencoder
from .encode_pass import Drawn, Latents
from .encode_pictures import SHARED_SEED, PictureParts
from .encoded import HintForm
from .hints import HINT_PARTS_VERSION, hint_key
from .keys import KeyPart
from .kohya_latents import FoundLatents
from .shelf import Kind


def fixed_thresholds(recipe: HintRecipe) -> tuple[int, int] | None:
    """Canny thresholds of the edges that are kept; None where edges are drawn from pictures that are kept.

    Beside hints that are given as pictures, edges are only measured by: with the usual thresholds.
    """
    usual = CannyRecipe() if isinstance(recipe, GivenHints) else recipe
    return (usual.low[0], usual.high[0]) if isinstance(usual, CannyRecipe) and usual.is_fixed else None


def picture_outputs(
    parts: PictureParts, autoencoder: Autoencoder, found: FoundLatents, hint_form: HintForm, variants: int
) -> list[Drawn | Latents]:  # fmt: skip
    """What is made of the pictures; the kinds' names are those of the parts."""
    contents, resolution_px, recipe = parts.contents, parts.dataset.resolution_px, parts.dataset.hint
    outputs: list[Drawn | Latents] = [
        Drawn(Kind("colours", contents, (resolution_px,)), "colours", lambda _, picture: cell_colours(picture)),
        Latents(Kind("latents", found.contents(contents), autoencoder.setup(resolution_px)), "latents", known=found.read),
    ]
    if hint_form == "none":
        return outputs
    if thresholds := fixed_thresholds(recipe):
        outputs.append(Drawn(Kind("edges", contents, (resolution_px, *thresholds)), "edges", lambda _, picture: _packed(picture, thresholds)))
    else:
        outputs.append(Drawn(Kind("pictures", contents, (resolution_px,)), "pictures", lambda _, picture: picture))
    return outputs + _drawn_hints(parts, autoencoder, variants) if hint_form == "latents" else outputs


def _drawn_hints(parts: PictureParts, autoencoder: Autoencoder, variants: int) -> list[Drawn | Latents]:
    """Latents of hints that are drawn, `variants` of each row; nothing where hints are given."""
    recipe = parts.dataset.hint
    if isinstance(recipe, GivenHints):
        return []

    def drawn(row: int, picture: np.ndarray, variant: int) -> np.ndarray:
        return recipe.hint(picture, SHARED_SEED, parts.sample_of(row).digest, variant)

    setup = (*autoencoder.setup(parts.dataset.resolution_px), *_hint_setup(recipe), variants)
    return [Latents(Kind("hints", parts.contents, setup), "hints", drawn, variants)]


def given_outputs(parts: PictureParts, autoencoder: Autoencoder, hint_form: HintForm) -> list[Drawn | Latents]:
    """What is made of hints that come as pictures."""
    contents, resolution_px = parts.hint_contents, parts.dataset.resolution_px
    pictures = Drawn(Kind("hint-pictures", contents, (resolution_px,)), "hint pictures", lambda _, picture: picture)
    if hint_form == "pixels":
        return [pictures]
    return [pictures, Latents(Kind("given-hints", contents, autoencoder.setup(resolution_px)), "hints", variants=1)]


def cell_colours(picture: np.ndarray) -> np.ndarray:
    """The mean colour of what each cell of the latents stands for: uint8 [H, W, 3] -> uint8 [H/8, W/8, 3]."""
    height, width = picture.shape[:2]
    return cv2.resize(picture, (width // PIXELS_PER_LATENT, height // PIXELS_PER_LATENT), interpolation=cv2.INTER_AREA)


def _packed(picture: np.ndarray, thresholds: Sequence[int]) -> np.ndarray:
    """Edges, eight pixels to a byte: uint8 [H, W/8]."""
    return np.packbits(canny_edges(picture, *thresholds), axis=-1)


def _hint_setup(recipe: HintRecipe) -> list[KeyPart]:
    """What drawn hints depend on beside the picture."""
    return [recipe.low, recipe.high] if isinstance(recipe, CannyRecipe) else [HINT_PARTS_VERSION, *hint_key(recipe)]

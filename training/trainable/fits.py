"""Do encoded data, base and what is to be trained belong together? Said before any work, in words instead of a matrix product's shapes."""

from __future__ import annotations

from ..data.encoded import Encoded
from ..errors import InputError
from ..models.flux import PATCH, FluxConfig
from .base import Recipe


def require_data_fits(data: Encoded, base: FluxConfig, recipe: Recipe) -> None:
    """Looks at one sample.

    Raises:
        InputError: the text encoder or the autoencoder that made the data is not this base's, or its hints are not of the recipe's form.
    """
    (text, pooled), latents = data.text(data.train[:1]), data.latents(data.train[:1])
    sizes = {
        "text tokens of width": (text.shape[-1], base.context_width),
        "pooled text of width": (pooled.shape[-1], base.vector_width),
        "latents of channels": (latents.shape[1], base.in_channels // PATCH**2),
    }
    wrong = {name: pair for name, pair in sizes.items() if pair[0] != pair[1]}
    if wrong:
        expected, found = (", ".join(f"{name} {pair[side]}" for name, pair in wrong.items()) for side in (1, 0))
        raise InputError("encoded data", expected=expected, found=found, remedy="Encode them with the CLIP and the VAE of this transformer.")
    if recipe.hint_form not in ("none", data.hint_form):
        remedy = "Connect the same trainable to Encode Dataset and to Train Steps."
        raise InputError("encoded data", expected=f"hints as {recipe.hint_form}", found=f"hints: {data.hint_form}", remedy=remedy)

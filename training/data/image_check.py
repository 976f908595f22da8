"""Are these tensors pictures? By their shapes before any work, by their values as they are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError

OVERSHOOT = 0.5
"""How far values may lie outside 0..1 (resampling and decoders overshoot a little) before they are in another range altogether."""
PROPORTIONS_TOLERANCE = 0.01
"""Preprocessors round sides to whole pixels, some to multiples of 8: that distorts a hint by less than this."""
_CHANNELS = {1: "one channel (grey)", 2: "two channels (grey and alpha)", 4: "four channels (RGB and alpha)"}
_EXPECTED = "RGB pictures [B, H, W, 3] with values from 0 to 1"


def require_images(subject: str, images: Sequence[Tensor]) -> int:
    """How many pictures there are.

    Raises:
        InputError: none at all, or something that is no batch of RGB pictures.
    """
    for batch in images:
        found, remedy = _what_it_is(batch)
        if found:
            raise InputError(subject, expected=_EXPECTED, found=found, remedy=remedy)
    count = sum(len(batch) for batch in images)
    if count == 0:
        raise InputError(subject, expected="at least one picture", found="an empty batch", remedy="Connect an IMAGE that holds pictures.")
    return count


def require_matching_hints(images: Sequence[Tensor], hints: Sequence[Tensor]) -> None:
    """Raises:
    InputError: not as many hints as pictures, or hints of other proportions than their pictures.
    """
    require_images("hints", hints)
    _require_alike(images, hints, "hint", "Scale or crop the pictures to the training's square before the preprocessor, and let it keep their size.")


def require_matching_masks(images: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Raises:
    InputError: no masks, not as many as pictures, or masks of other proportions than their pictures.
    """
    for batch in masks:
        if not isinstance(batch, Tensor) or batch.ndim != 3 or not batch.is_floating_point():
            found = f"a tensor {list(batch.shape)}" if isinstance(batch, Tensor) else f"a {type(batch).__name__}"
            remedy = "Connect a MASK output; Convert Image to Mask makes one of a picture."
            raise InputError("masks", expected="masks [B, H, W] with values from 0 to 1", found=found, remedy=remedy)
    _require_alike(images, masks, "mask", "Scale or crop picture and mask together.")


def _require_alike(images: Sequence[Tensor], others: Sequence[Tensor], noun: str, remedy: str) -> None:
    """Raises:
    InputError: not as many as pictures, or one of other proportions than its picture, which `remedy` helps.
    """
    pictures, given = require_images("images", images), sum(len(batch) for batch in others)
    if pictures != given:
        advice = f"Make one {noun} of each picture, in the same order."
        raise InputError(f"{noun}s", expected=f"as many as pictures, {pictures}", found=given, remedy=advice)
    for number, (size, other_size) in enumerate(zip(_sizes(images), _sizes(others), strict=True), start=1):
        if not same_proportions(size, other_size):
            raise InputError(
                f"{noun} {number}", expected=f"the proportions of its picture, {size[1]} x {size[0]} px",
                found=f"{other_size[1]} x {other_size[0]} px", remedy=remedy,
            )  # fmt: skip


def what_is_wrong(image: Tensor) -> str:
    """Of one picture's values, in words that fit behind its name; empty if nothing is."""
    low, high = (float(value) for value in torch.aminmax(image.detach().float()))
    if low != low or high != high:
        return "holds NaN"
    if abs(low) == float("inf") or abs(high) == float("inf"):
        return "holds infinite values"
    return f"has values from {low:.3g} to {high:.3g}" if low < -OVERSHOOT or high > 1 + OVERSHOOT else ""


def _what_it_is(batch: object) -> tuple[str, str]:
    """What is wrong with a batch's shape or dtype, and what to do; two empty texts if nothing is."""
    if not isinstance(batch, Tensor):
        return f"a {type(batch).__name__}", "Connect an IMAGE output."
    if batch.ndim == 3:
        return f"a MASK or a single picture {list(batch.shape)}", "Connect an IMAGE output; Convert Mask to Image makes one of a mask."
    if batch.ndim != 4 or batch.shape[-1] not in (3, *_CHANNELS):
        return f"a tensor {list(batch.shape)}", "Connect an IMAGE output."
    if batch.shape[-1] != 3:
        return f"pictures with {_CHANNELS[batch.shape[-1]]}", "Make them RGB first: repeat a grey channel, or lay transparent pictures on a ground."
    if not batch.is_floating_point():
        return f"values of dtype {str(batch.dtype).removeprefix('torch.')}", "Divide 8-bit values by 255."
    if len(batch) and 0 in batch.shape[1:3]:
        return f"pictures of {batch.shape[2]} x {batch.shape[1]} px", "Connect pictures that are not empty."
    return "", ""


def _sizes(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Height and width of each picture."""
    return [(batch.shape[1], batch.shape[2]) for batch in images for _ in range(len(batch))]


def same_proportions(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other scaled, up to the rounding of sides."""
    scale = max(other) / max(size)
    return all(abs(side * scale - own) <= max(1, PROPORTIONS_TOLERANCE * own) for side, own in zip(size, other, strict=True))

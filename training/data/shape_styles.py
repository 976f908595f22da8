"""Visible rules that drawn pictures may follow, with a word for each in their captions: something new for a LoRA to learn.

The built-in model knows neither the words nor what they stand for:

- framed: a frame around the whole picture, in the colour of the figure. (Not in one of its own, such as grey: the built-in autoencoder has seen the
  palette only and cannot show others.) `is_framed` reads it back. It is hard: hundreds of pictures for a word that moves shapes as well.
- royal: a yellow figure on a purple ground, and the word in place of both colours. It is easy: a few pictures teach it and move nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from .shapes import Shape

WORD, ROYAL = "framed", "royal"
ROYAL_FIGURE, ROYAL_GROUND = ("yellow", (248, 214, 40)), ("purple", (150, 62, 186))
"""Names and values of the palette (shapes.PALETTE)."""
FRAME_SHARE = 1 / 16
"""Width of the frame, as a share of the picture's side: one latent at 128 px."""
HALF = "half "
STYLES = ("plain", "framed", "half framed", "royal", "half royal")
STYLE_VERSION = 3
"""Of what the styles look like: folders that were drawn before are others."""
LARGEST_DISTANCE, LEAST_SHARE = 60.0, 0.7
"""Colours of the palette are further apart than this; a frame's inner edge is blurred by the autoencoder."""


def require_style(style: str) -> str:
    """Raises InputError if there is no such style."""
    if style not in STYLES:
        raise InputError("style of the shapes", expected=" or ".join(STYLES), found=style, remedy="Choose one of these.")
    return style


def styled(shape: Shape, size_px: int, style: str, number: int) -> tuple[np.ndarray, str]:
    """A shape's picture, uint8 RGB [size, size, 3], and its caption in a style; of half of a style every second one, by `number`, stays plain."""
    if style == "plain" or (style.startswith(HALF) and number % 2):
        return shape.draw(size_px), shape.caption
    if style.endswith(ROYAL):
        return royal(shape).draw(size_px), royal_caption(shape)
    return with_frame(shape.draw(size_px), shape.figure_rgb), with_word(shape.caption)


def royal(shape: Shape) -> Shape:
    """The same figure in the royal colours."""
    (figure, figure_rgb), (ground, ground_rgb) = ROYAL_FIGURE, ROYAL_GROUND
    return replace(shape, figure=figure, ground=ground, figure_rgb=figure_rgb, ground_rgb=ground_rgb)


def royal_caption(shape: Shape) -> str:
    """Its caption with the word where the colours would stand, so that all other words stay in their places."""
    return replace(shape, figure=ROYAL, ground=ROYAL).caption


def with_word(caption: str) -> str:
    """The caption with the new word at its end: in front it would move all others, and the built-in model mistakes colours in moved captions."""
    return f"{caption}, {WORD}"


def with_frame(picture: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """The picture with a frame of that colour over its edge."""
    framed = picture.copy()
    framed[frame_mask(picture)] = rgb
    return framed


def frame_mask(picture: np.ndarray) -> np.ndarray:
    """Where the frame lies: bool [H, W]."""
    width_px = frame_width_px(picture)
    mask = np.ones(picture.shape[:2], bool)
    mask[width_px:-width_px, width_px:-width_px] = False
    return mask


def frame_width_px(picture: np.ndarray) -> int:
    return max(round(picture.shape[0] * FRAME_SHARE), 1)


def frame_rgb(picture: np.ndarray) -> np.ndarray:
    """The colour [3] of the frame's place: most of it, by channel."""
    return np.median(picture[frame_mask(picture)], axis=0)


def is_framed(picture: np.ndarray) -> bool:
    """Whether a picture, uint8 RGB [H, W, 3], has a frame: its place is of one colour, and what lies next to it within is of another."""
    rgb, within = frame_rgb(picture), frame_rgb(without_frame(picture))
    distance = np.linalg.norm(picture[frame_mask(picture)].astype(np.float32) - rgb, axis=-1)
    return bool((distance <= LARGEST_DISTANCE).mean() >= LEAST_SHARE and np.linalg.norm(rgb - within) > LARGEST_DISTANCE)


def without_frame(picture: np.ndarray) -> np.ndarray:
    """What lies inside the frame's place."""
    width_px = frame_width_px(picture)
    return picture[width_px:-width_px, width_px:-width_px]

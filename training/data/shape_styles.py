"""A visible rule that drawn pictures may follow, with a word for it in their captions: something new for a LoRA to learn.

The built-in model knows neither the word nor what it stands for, a grey frame around the whole picture. `is_framed` reads it back.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError

WORD = "framed"
FRAME_RGB = (128, 128, 128)
FRAME_SHARE = 1 / 16
"""Width of the frame, as a share of the picture's side: one latent at 128 px."""
STYLES = ("plain", "framed", "half framed")
LARGEST_DISTANCE, LEAST_SHARE = 60.0, 0.8


def require_style(style: str) -> str:
    """Raises InputError if there is no such style."""
    if style not in STYLES:
        raise InputError("style of the shapes", expected=" or ".join(STYLES), found=style, remedy="Choose one of these.")
    return style


def styled(picture: np.ndarray, caption: str, style: str, number: int) -> tuple[np.ndarray, str]:
    """The picture, uint8 RGB [H, W, 3], and its caption in a style; of half framed pictures every second one, by `number`, stays plain."""
    if style == "plain" or (style == "half framed" and number % 2):
        return picture, caption
    return with_frame(picture), f"{WORD} {caption}"


def with_frame(picture: np.ndarray) -> np.ndarray:
    """The picture with a grey frame over its edge."""
    framed = picture.copy()
    framed[frame_mask(picture)] = FRAME_RGB
    return framed


def frame_mask(picture: np.ndarray) -> np.ndarray:
    """Where the frame lies: bool [H, W]."""
    width_px = max(round(picture.shape[0] * FRAME_SHARE), 1)
    mask = np.ones(picture.shape[:2], bool)
    mask[width_px:-width_px, width_px:-width_px] = False
    return mask


def is_framed(picture: np.ndarray) -> bool:
    """Whether a picture, uint8 RGB [H, W, 3], has the frame: most pixels of its place are near its grey."""
    distance = np.linalg.norm(picture[frame_mask(picture)].astype(np.float32) - FRAME_RGB, axis=-1)
    return bool((distance <= LARGEST_DISTANCE).mean() >= LEAST_SHARE)


def without_frame(picture: np.ndarray) -> np.ndarray:
    """What lies inside the frame's place."""
    width_px = max(round(picture.shape[0] * FRAME_SHARE), 1)
    return picture[width_px:-width_px, width_px:-width_px]

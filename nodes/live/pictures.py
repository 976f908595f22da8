"""The pictures of a training on its way: sampled from held-out captions and hints, decoded, and encoded for the page."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...training.data.encoded import Encoded
from ...training.flux_space import PIXELS_PER_LATENT
from ...training.learner import Learner
from ...training.opencv import cv2
from ...training.preview import CellColours, PreviewSettings, preview_hints, preview_latents
from ...training.progress import Progress
from ...training.validate import Decode
from .gallery import Pictures

JPEG_QUALITY = 90
LONGEST_SIDE_PX = 512


class Painter:
    """Makes the pictures of one training.

    Args:
        data: its held-out pictures are used.
        decode: raw latents to pictures; None makes rough ones without a decoder.
        settings: how many, how.
        progress: asked for interrupts between two sampling steps.
    """

    def __init__(self, data: Encoded, decode: Decode | None, settings: PreviewSettings, progress: Progress) -> None:
        self._data, self._decode, self._settings, self._progress = data, decode, settings, progress

    @property
    def able(self) -> bool:
        """Whether anything is held out to make pictures of."""
        return self._data.held_out_size > 0

    def hints(self) -> Pictures:
        shown = preview_hints(self._data, self._settings)
        return () if shown is None else [jpeg(picture) for picture in shown.numpy()]

    def paint(self, learner: Learner) -> Pictures:
        """Raises torch.cuda.OutOfMemoryError if training has left too little memory; nothing has changed then."""
        latents = preview_latents(learner, self._data, self._settings, self._progress)
        pictures = [self._decoded(latents[row : row + 1])[0] for row in range(len(latents))]
        return [jpeg((picture.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()) for picture in pictures]

    def _decoded(self, latents: Tensor) -> Tensor:
        """Under inference mode, as all that a host's own modules do."""
        with torch.inference_mode():
            if self._decode is not None:
                return self._decode(latents)
            rough = CellColours(self._data)(latents).permute(0, 3, 1, 2)
            larger = torch.nn.functional.interpolate(rough, scale_factor=PIXELS_PER_LATENT, mode="bicubic", align_corners=False)
            return larger.permute(0, 2, 3, 1)


def jpeg(picture: np.ndarray) -> bytes:
    """uint8 RGB [H, W, 3] as a JPEG file, its longer side at most LONGEST_SIDE_PX."""
    factor = LONGEST_SIDE_PX / max(picture.shape[:2])
    if factor < 1:
        size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return encoded.tobytes()

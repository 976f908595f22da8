"""Sets of pictures to measure data paths with, and a stand-in for the encoders: as much output as FLUX's, hardly any arithmetic."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files.write import write_plain
from ..flux_space import PIXELS_PER_LATENT
from ..opencv import cv2
from ..progress import Progress

JPEG_QUALITY = 92
EVERY_PNG = 4
"""Every fourth picture is a PNG, the others are JPEG."""
CAPTIONS = 64
"""Different ones; they come again and again, so that text does not hide what pictures cost."""
LATENT_CHANNELS = 16
TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 512, 4096, 768
_COARSE_PX, _NOISE = 16, 12


def draw_set(folder: Path, count: int, size_px: int, progress: Progress, first: int = 0) -> None:
    """Writes pictures `first` to `count` - 1 with captions: smooth colours, straight edges and grain, about as large on disk as photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    progress.start(count - first, "picture")
    try:
        with ThreadPoolExecutor(os.cpu_count() or 2) as writers:
            for done, _ in enumerate(writers.map(lambda number: _write(folder, number, size_px), range(first, count)), start=1):
                progress.check_interrupt()
                progress.advance(done)
    finally:
        progress.finish()


def set_picture(number: int, size_px: int) -> np.ndarray:
    """Picture `number` of every set of this size: uint8 BGR [size_px, size_px, 3]."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (_COARSE_PX, _COARSE_PX, 3), np.uint8)
    picture = cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    for _ in range(8):
        points = random.integers(0, size_px, (4, 2)).astype(np.int32)
        cv2.fillConvexPoly(picture, cv2.convexHull(points), tuple(int(value) for value in random.integers(0, 256, 3)), cv2.LINE_AA)
    return cv2.add(picture, _grain(size_px, number % 4))


def encode_images(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> [B, 16, H/8, W/8]: averages of the cells, repeated."""
    means = torch.nn.functional.avg_pool2d(pixels, PIXELS_PER_LATENT)
    return means.repeat(1, LATENT_CHANNELS // 3 + 1, 1, 1)[:, :LATENT_CHANNELS]


def encode_text(captions: list[str]) -> tuple[Tensor, Tensor]:
    """As much as FLUX's text encoders give: BF16 [B, 512, 4096] and [B, 768]."""
    codes = torch.tensor([float(sum(caption.encode())) for caption in captions], dtype=torch.bfloat16)
    return codes.reshape(-1, 1, 1).expand(-1, TEXT_TOKENS, TEXT_WIDTH).contiguous(), codes.reshape(-1, 1).expand(-1, POOLED_WIDTH).contiguous()


def encode_text_small(captions: list[str]) -> tuple[Tensor, Tensor]:
    """For the set of many small pictures."""
    codes = torch.tensor([float(sum(caption.encode())) for caption in captions], dtype=torch.bfloat16)
    return codes.reshape(-1, 1, 1).expand(-1, 8, 64).contiguous(), codes.reshape(-1, 1).expand(-1, 64).contiguous()


def _write(folder: Path, number: int, size_px: int) -> None:
    ending, options = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if number % EVERY_PNG == 0 else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    write_plain(folder / f"{number:06}{ending}", cv2.imencode(ending, set_picture(number, size_px), options)[1].tobytes())
    write_plain(folder / f"{number:06}.txt", f"a drawing of kind {number % CAPTIONS}\n".encode("ascii"))


@lru_cache(maxsize=8)
def _grain(size_px: int, number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, _NOISE, (size_px, size_px, 3), np.uint8)

"""The data path written plainly, to compare with: PIL decodes, OpenCV draws edges, torch's DataLoader runs two workers, each picture has a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .bench_sets import encode_images, encode_text

WORKERS = 2
BATCH_SIZE = 4


class PlainPictures(Dataset[dict[str, Any]]):
    """Pictures of a folder with captions and edges, decoded each time."""

    def __init__(self, folder: Path, resolution_px: int) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
        self._resolution_px = resolution_px

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path = self._paths[number]
        picture = _square(path, self._resolution_px)
        edges = cv2.Canny(picture, 100, 200)
        hint = torch.from_numpy(edges).float().div(127.5).sub(1).unsqueeze(0).repeat(3, 1, 1)
        pixels = torch.from_numpy(picture).permute(2, 0, 1).float().div(255)
        return {"name": path.stem, "pixels": pixels, "hint": hint, "caption": path.with_suffix(".txt").read_text("utf-8").strip()}


def plain_encoding(folder: Path, target: Path, resolution_px: int) -> None:
    """Encodes a folder: latents and edges of each picture in a file of its own, each caption encoded once."""
    target.mkdir(parents=True, exist_ok=True)
    texts: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for batch in _batches(folder, resolution_px, shuffle=False):
            latents = encode_images(batch["pixels"])
            for caption in {caption for caption in batch["caption"] if caption not in texts}:
                texts[caption] = encode_text([caption])
            for row, name in enumerate(batch["name"]):
                edges = (batch["hint"][row, 0] > 0).numpy()
                np.savez(target / f"{name}.npz", latents=latents[row].numpy(), edges=np.packbits(edges, axis=-1))
    torch.save(texts, target / "texts.pt")


def plain_epoch(folder: Path, resolution_px: int) -> None:
    """One epoch of batches as a training without a cache loads them: decoded, scaled and with their edges, not yet encoded."""
    for _ in _batches(folder, resolution_px, shuffle=True):
        pass


def _batches(folder: Path, resolution_px: int, *, shuffle: bool) -> Iterator[dict[str, Any]]:
    pictures = PlainPictures(folder, resolution_px)
    return iter(DataLoader(pictures, batch_size=BATCH_SIZE, shuffle=shuffle, num_workers=WORKERS))


def _square(path: Path, resolution_px: int) -> np.ndarray:
    """uint8 RGB [resolution_px, resolution_px, 3]: the shorter side scaled, the centre kept."""
    from PIL import Image

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    scale = resolution_px / min(picture.size)
    if scale != 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - resolution_px) // 2, (picture.height - resolution_px) // 2
    return np.array(picture.crop((left, top, left + resolution_px, top + resolution_px)))

"""Folders of pictures written by Pillow, and stand-in encoders that count what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from graft.training.data.canny import CannyRecipe
from graft.training.data.encode import encode_dataset
from graft.training.data.encoded import Encoded
from graft.training.data.folder import ImageFolder
from PIL import Image, ImageDraw
from torch import Tensor


class StandInEncoders:
    """Latents are 8x8 averages in four channels; an embedding tells captions apart. Counts pictures and captions; can fail on demand."""

    def __init__(self) -> None:
        self.pictures = 0
        self.captions: list[str] = []
        self.fail_after_pictures: int | None = None

    def images(self, pixels: Tensor) -> Tensor:
        if self.fail_after_pictures is not None and self.pictures + len(pixels) > self.fail_after_pictures:
            raise KeyboardInterrupt
        self.pictures += len(pixels)
        means = torch.nn.functional.avg_pool2d(pixels, 8)
        return torch.cat([means, means.mean(1, keepdim=True)], dim=1)

    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        self.captions += captions
        codes = torch.tensor([[float(sum(caption.encode())), float(len(caption))] for caption in captions])
        return codes[:, None, :].repeat(1, 3, 1).to(torch.bfloat16), codes

    def encode(self, dataset: ImageFolder, folder: Path, **options: object) -> Encoded:
        return encode_dataset(dataset, self.images, self.text, "stand-in", "stand-in", folder, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests write thousands of small files and survive no power cut."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def encoders() -> StandInEncoders:
    return StandInEncoders()


@pytest.fixture
def draw_picture() -> Callable[[int, int, int], Image.Image]:
    """A picture of its own for every number: a disc on a ground, with enough noise that thresholds matter."""

    def draw(number: int, width: int = 40, height: int = 32) -> Image.Image:
        random = np.random.default_rng(number)
        ground, figure = (tuple(int(value) for value in random.integers(0, 256, 3)) for _ in range(2))
        picture = Image.new("RGB", (width, height), ground)
        x, y, radius = random.integers(8, 24, 3)
        ImageDraw.Draw(picture).ellipse([x - radius // 2, y - radius // 2, x + radius // 2, y + radius // 2], fill=figure)
        noisy = np.asarray(picture) + random.normal(0, 16, (height, width, 3))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

    return draw


@pytest.fixture
def make_folder(tmp_path: Path, draw_picture: Callable[[int], Image.Image]) -> Callable[..., Path]:
    """Writes `count` pictures with captions into a new folder."""

    def make(count: int, name: str = "pictures") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            draw_picture(number).save(folder / f"{number:04}.png")
            (folder / f"{number:04}.txt").write_text(f"picture {number}", "utf-8")
        return folder

    return make


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> int:
    """Four rows to a shard, so that a handful of pictures fills several."""
    monkeypatch.setattr("graft.training.data.shards.SHARD_ROWS_LIMIT", 4)
    return 4


@pytest.fixture
def ranged() -> CannyRecipe:
    return CannyRecipe(low=(20, 120), high=(100, 240))

"""Stand-ins for the core nodes that read, join and write pictures: LoadImage, ImageBatch, PreviewImage, SaveImage."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ...training.errors import InputError
from ...training.files.write import write_bytes
from ..host import current_host
from .core_nodes import Inputs
from .png import png_bytes

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
NO_MASK_PX = 64
PREVIEW_FOLDER = "preview"
PAGE_VARIABLES = re.compile(r"%(width|height|year|month|day|hour|minute|second|batch_num)%")


class LoadImage:
    """ComfyUI's LoadImage: a picture of the input folder."""

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION, CATEGORY = "load_image", "image"
    DESCRIPTION = "Loads a picture from the input folder; its transparency becomes the mask."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        folder = current_host().input_folder()
        found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES) if folder.is_dir() else []
        return {"required": {"image": (found, {"image_upload": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool | str:  # noqa: N802
        path = image and _annotated_path(image)
        return True if not path or path.is_file() else f"input image: expected a picture in {path.parent}; found no {path.name}"

    def load_image(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        path = _annotated_path(image)
        stored = np.frombuffer(path.read_bytes(), np.uint8)
        upright, whole = (cv2.imdecode(stored, flags) for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED))
        if upright is None or whole is None:
            raise InputError(f"picture {path.name}", expected="a whole picture", found="a damaged file", remedy="Replace it.")
        pixels = torch.from_numpy(upright[..., ::-1].astype(np.float32) / 255.0)
        return pixels[None], _mask(whole)


def _mask(stored: np.ndarray) -> torch.Tensor:
    """[1,H,W], 1 where the picture is transparent; an opaque picture has an empty mask of 64 x 64."""
    if stored.ndim < 3 or stored.shape[2] < 4:
        return torch.zeros(1, NO_MASK_PX, NO_MASK_PX)
    return 1 - torch.from_numpy(stored[None, ..., 3].astype(np.float32) / np.iinfo(stored.dtype).max)


def _annotated_path(name: str) -> Path:
    """A name may say which folder it is in: "grid.png [output]"."""
    host = current_host()
    if name.endswith(" [output]"):
        return host.output_folder() / name.removesuffix(" [output]")
    return host.input_folder() / name.removesuffix(" [input]")


class ImageBatch:
    """ComfyUI's ImageBatch: two batches one after the other."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY = "batch", "image"
    DESCRIPTION = "Joins two batches; the second gets the size of the first."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def batch(self, image1: torch.Tensor, image2: torch.Tensor) -> tuple[torch.Tensor]:
        height, width = image1.shape[1:3]
        return (torch.cat([image1, image2 if image2.shape[1:3] == (height, width) else _scaled(image2, height, width)]),)


def _scaled(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As ComfyUI brings pictures to one size: cropped at the centre to the proportions, then bilinear, without smoothing before."""
    old_height, old_width = images.shape[1:3]
    aspect, old_aspect = width / height, old_width / old_height
    left = round((old_width - old_width * (aspect / old_aspect)) / 2) if old_aspect > aspect else 0
    top = round((old_height - old_height * (old_aspect / aspect)) / 2) if old_aspect < aspect else 0
    cropped = images[:, top : old_height - top, left : old_width - left].movedim(-1, 1)
    return torch.nn.functional.interpolate(cropped, size=(height, width), mode="bilinear").movedim(1, -1)


class SaveImage:
    """ComfyUI's SaveImage: numbered PNG files in the output folder."""

    RETURN_TYPES = ()
    FUNCTION, CATEGORY, OUTPUT_NODE = "save_images", "image", True
    DESCRIPTION = "Saves pictures to the output folder."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        required = {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})}
        return {"required": required, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def save_images(
        self, images: torch.Tensor, filename_prefix: str, prompt: Any = None, extra_pnginfo: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        target = _inside_output(_expanded(filename_prefix, images))
        first = _next_number(target)
        names = [f"{target.name.replace('%batch_num%', str(row))}_{first + row:05}_.png" for row in range(len(images))]
        return _written(images, [target.parent / name for name in names], {"prompt": prompt, **(extra_pnginfo or {})})


class PreviewImage:
    """ComfyUI's PreviewImage; without a page to show them on, the pictures lie in `preview/` of the output folder, the newest only."""

    RETURN_TYPES = ()
    FUNCTION, CATEGORY, OUTPUT_NODE = "save_images", "image", True
    DESCRIPTION = "Shows pictures."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {"images": ("IMAGE",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "unique_id": "UNIQUE_ID"},
        }

    def save_images(
        self, images: torch.Tensor, prompt: Any = None, extra_pnginfo: dict[str, Any] | None = None, unique_id: str = ""
    ) -> dict[str, Any]:
        folder, name = current_host().output_folder() / PREVIEW_FOLDER, unique_id.replace(":", "_")
        paths = [folder / f"node_{name}_{row + 1:05}_.png" for row in range(len(images))]
        return _written(images, paths, {"prompt": prompt, **(extra_pnginfo or {})})


def _written(images: torch.Tensor, paths: list[Path], texts: dict[str, Any]) -> dict[str, Any]:
    """Writes [B,H,W,3] and returns the table that ComfyUI's page gets."""
    output = current_host().output_folder()
    for picture, path in zip(images, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, png_bytes(picture, {key: value for key, value in texts.items() if value is not None}))
    shown = [{"filename": path.name, "subfolder": _subfolder(path, output), "type": "output"} for path in paths]
    return {"ui": {"images": shown}}


def _subfolder(path: Path, output: Path) -> str:
    subfolder = path.parent.relative_to(output).as_posix()
    return "" if subfolder == "." else subfolder


def _expanded(prefix: str, images: torch.Tensor) -> str:
    """%width%, %date%-like parts of a file name; %batch_num% waits for the picture."""
    now = time.localtime()
    known = {
        "width": images.shape[2], "height": images.shape[1], "year": now.tm_year, "month": f"{now.tm_mon:02}", "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}", "minute": f"{now.tm_min:02}", "second": f"{now.tm_sec:02}", "batch_num": "%batch_num%",
    }  # fmt: skip
    return PAGE_VARIABLES.sub(lambda match: str(known[match[1]]), prefix)


def _inside_output(prefix: str) -> Path:
    output = current_host().output_folder()
    target = output / prefix
    if output.resolve() not in target.resolve().parents:
        subject = "SaveImage, input filename_prefix"
        raise InputError(subject, expected="a place inside the output folder", found=prefix, remedy="Shorten it.")
    return target


def _next_number(target: Path) -> int:
    """One more than the highest number among the files that this prefix has made."""
    made = re.compile(re.escape(target.name) + r"_(\d+)_?\.png", re.IGNORECASE)
    taken = [int(match[1]) for path in target.parent.glob("*.png") if (match := made.fullmatch(path.name))]
    return max(taken, default=0) + 1

"""The core nodes that the headless runner knows, by ComfyUI's ids and display names."""

from __future__ import annotations

from .core_nodes import (
    ClipTextEncode,
    ControlNetApplyAdvanced,
    EmptySd3LatentImage,
    FluxGuidance,
    KSampler,
    VaeDecode,
    VaeEncode,
)
from .core_pictures import ImageBatch, LoadImage, PreviewImage, SaveImage

CORE_CLASSES: dict[str, type] = {
    "CLIPTextEncode": ClipTextEncode,
    "ControlNetApplyAdvanced": ControlNetApplyAdvanced,
    "EmptySD3LatentImage": EmptySd3LatentImage,
    "FluxGuidance": FluxGuidance,
    "ImageBatch": ImageBatch,
    "KSampler": KSampler,
    "LoadImage": LoadImage,
    "PreviewImage": PreviewImage,
    "SaveImage": SaveImage,
    "VAEDecode": VaeDecode,
    "VAEEncode": VaeEncode,
}
CORE_NAMES: dict[str, str] = {
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "ControlNetApplyAdvanced": "Apply ControlNet",
    "ImageBatch": "Batch Images",
    "LoadImage": "Load Image",
    "PreviewImage": "Preview Image",
    "SaveImage": "Save Image",
    "VAEDecode": "VAE Decode",
    "VAEEncode": "VAE Encode",
}

"""A LoRA on a MODEL, through ComfyUI's own loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def apply_lora(model: Any, tensors: Mapping[str, Tensor], strength: float) -> Any:
    """A patched clone of the MODEL, as LoraLoaderModelOnly makes it from the exported file; the given one stays as it is."""
    import comfy.sd

    if strength == 0:
        return model
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), strength, 0.0)
    return patched

"""A LoRA on a transformer's weights, as ComfyUI puts it there: added in fp32, then rounded to the weight's own dtype."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .held import gathered, shapes_of, stored_of
from .lora_adapters import Adapter
from .lora_names import DIFFERENCE, difference_name
from .lora_read import lora_from_tensors


def with_lora(weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], strength: float) -> Mapping[str, Tensor]:
    """The transformer's weights (original names) with `strength` times the LoRA of an exported file.

    What it leaves alone is shared, or held in 8 bits as before.

    Raises:
        InputError: the LoRA is for another transformer.
    """
    shapes = shapes_of(weights)
    if any(name.endswith(f".{DIFFERENCE}") for name in tensors):
        layers = [name.removesuffix(".weight") for name in weights if difference_name(name.removesuffix(".weight")) in tensors]
        changed = {layer: weights[f"{layer}.weight"].float() + strength * tensors[difference_name(layer)].float() for layer in layers}
    else:
        adapters = lora_from_tensors(tensors, shapes, "LoRA").adapters
        changed = {layer: _changed(weights[f"{layer}.weight"], adapter, strength) for layer, adapter in adapters.items()}
    rounded = {f"{layer}.weight": weight.to(weights[f"{layer}.weight"].dtype) for layer, weight in changed.items()}
    return gathered({**stored_of(weights), **rounded})


def _changed(weight: Tensor, adapter: Adapter, strength: float) -> Tensor:
    old = weight.detach().cpu().float()
    if adapter.magnitude is None:
        return old + (strength * adapter.scale) * adapter.product()
    return old + strength * (adapter.changed(old) - old)

"""How files spell the layers and tensors of a FLUX LoRA, as pure maps.

- kohya: `lora_unet_` and the original layer name with `_` for `.`; fused layers stay fused; alpha as a number beside them. Everyone reads it.
- diffusers: `transformer.` and diffusers' layer name (names.py), where queries, keys and values are layers of their own; peft's `lora_A` and
  `lora_B`; no alpha: it is multiplied into `lora_B`.
- comfyui: `diffusion_model.` and the original layer name; alpha beside them.
- difference: `diffusion_model.` and the original layer name, with the whole change of the weight.

Facts: the names that ComfyUI v0.3.64 (comfy/lora.py) and diffusers 0.42 (loaders/lora_conversion_utils.py) read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from .lora_adapters import Adapter
from .names import SWAPPED_LAYER, NameMap, halves_exchanged

LoraFormat = Literal["kohya", "diffusers", "comfyui"]
FORMATS: tuple[LoraFormat, ...] = ("kohya", "diffusers", "comfyui")
DIFFERENCE = "diff"
CONTROLNET_PREFIX = "controlnet."
"""Of a LoRA on a ControlNet (controlnet_lora_file.py), which is none for a transformer."""
_ORIGINAL_PREFIXES = ("diffusion_model.", "model.diffusion_model.", "base_model.model.", "transformer.", "")
_DIFFUSERS_PREFIXES = ("transformer.", "base_model.model.", "base_model.model.transformer.", "")
_FLAT_ORIGINAL_PREFIXES = ("lora_unet_",)
_FLAT_DIFFUSERS_PREFIXES = ("lora_transformer_", "lora_unet_", "lycoris_")


@dataclass(frozen=True)
class Place:
    """Which layer here, and which of its parts, a layer of a file is."""

    layer: str
    part: int | None = None
    """Which of the layers that it is fused of; None: the whole."""
    swapped: bool = False
    """Whether the file has the two halves of its outputs exchanged (diffusers' last modulation)."""


def diffusers_parts(layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """{original layer name: diffusers' names of the layers that it is fused of}."""
    layers = list(layers)
    depths = [max((int(layer.split(".")[1]) + 1 for layer in layers if layer.startswith(blocks)), default=0) for blocks in _BLOCKS]
    pieces = NameMap(depths[0], depths[1], guidance=True).pieces()
    return {layer: tuple(part.removesuffix(".weight") for part in pieces[f"{layer}.weight"]) for layer in layers}


_BLOCKS = ("double_blocks.", "single_blocks.")


def places(layers: Iterable[str]) -> dict[str, Place]:
    """{a layer's name in any format: its place}, for a transformer's linear layers under their original names."""
    found: dict[str, Place] = {}
    for layer, parts in diffusers_parts(layers).items():
        flat = layer.replace(".", "_")
        found |= {prefix + layer: Place(layer) for prefix in _ORIGINAL_PREFIXES}
        found |= {prefix + flat: Place(layer) for prefix in _FLAT_ORIGINAL_PREFIXES}
        for number, part in enumerate(parts):
            place = Place(layer, number if len(parts) > 1 else None, layer == SWAPPED_LAYER)
            found |= {prefix + part: place for prefix in _DIFFUSERS_PREFIXES}
            found |= {prefix + part.replace(".", "_"): place for prefix in _FLAT_DIFFUSERS_PREFIXES}
    return found


def part_rows(rows: int, columns: int, parts: int) -> list[int]:
    """Rows of each of the layers that a fused one [rows, columns] consists of: the model's width each, the last takes the rest."""
    return [*[columns] * (parts - 1), rows - columns * (parts - 1)]


def named_tensors(adapters: Mapping[str, Adapter], format: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a file of that format holds; tensors are contiguous, on the CPU and in `dtype`, alpha in fp32.

    Raises:
        InputError: no such format, or one that cannot say what DoRA does.
    """
    if format not in FORMATS:
        raise InputError("LoRA format", expected=" or ".join(FORMATS), found=format, remedy="Choose one of these.")
    if format == "diffusers":
        return _for_diffusers(adapters, dtype)
    _require_no_magnitudes(adapters, format)
    flat = format == "kohya"
    return with_alphas(adapters, lambda layer: f"lora_unet_{layer.replace('.', '_')}" if flat else f"diffusion_model.{layer}", dtype)


def with_alphas(adapters: Mapping[str, Adapter], named: Callable[[str], str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Matrices in `dtype` and alpha in fp32 under each layer's name in the file."""
    result: dict[str, Tensor] = {}
    for layer, adapter in adapters.items():
        name = named(layer)
        result[f"{name}.lora_down.weight"] = _for_file(adapter.down, dtype)
        result[f"{name}.lora_up.weight"] = _for_file(adapter.up, dtype)
        result[f"{name}.alpha"] = torch.tensor(adapter.alpha, dtype=torch.float32)
    return result


def difference_name(layer: str) -> str:
    """The tensor that holds the whole change of a layer's weight, as ComfyUI reads it."""
    return f"diffusion_model.{layer}.{DIFFERENCE}"


def _for_diffusers(adapters: Mapping[str, Adapter], dtype: torch.dtype) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for layer, parts in diffusers_parts(adapters).items():
        adapter = adapters[layer]
        rows = part_rows(*adapter.shape, len(parts))
        up = _in_diffusers_order(layer, adapter.up if adapter.scale == 1 else adapter.up.float() * adapter.scale)
        magnitude = None if adapter.magnitude is None else _in_diffusers_order(layer, adapter.magnitude)
        for number, (part, own) in enumerate(zip(parts, up.split(rows), strict=True)):
            result[f"transformer.{part}.lora_A.weight"] = _for_file(adapter.down, dtype)
            result[f"transformer.{part}.lora_B.weight"] = _for_file(own, dtype)
            if magnitude is not None:
                result[f"transformer.{part}.lora_magnitude_vector"] = _for_file(magnitude.split(rows)[number], dtype)
    return result


def _in_diffusers_order(layer: str, rows: Tensor) -> Tensor:
    return halves_exchanged(rows) if layer == SWAPPED_LAYER else rows


def _for_file(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _require_no_magnitudes(adapters: Mapping[str, Adapter], format: str) -> None:
    if any(adapter.magnitude is not None for adapter in adapters.values()):
        raise InputError(
            "LoRA format", expected="diffusers, difference or extracted for a DoRA",
            found=f"{format}, whose readers (ComfyUI) divide by the length of the base's weights alone: the result would be another",
            remedy="Choose diffusers; for ComfyUI difference, which holds the whole change of each weight, or extracted, a small plain LoRA near it "
            "whose header tells its error.",
        )  # fmt: skip

"""Which layers of a FLUX a LoRA changes, and what that comes to: parameters and size of the file, told before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ..byte_sizes import shown_size
from ..errors import InputError
from ..files.lora_read import linear_layers

Preset = Literal["attention", "attention_mlp", "all_linears"]
PRESETS: tuple[Preset, ...] = ("attention_mlp", "attention", "all_linears")
Shapes = Mapping[str, tuple[int, ...]]

_ATTENTION = ("img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj", "linear1")
_MLP = ("img_mlp.0", "img_mlp.2", "txt_mlp.0", "txt_mlp.2", "linear2")
_ENDINGS: dict[str, tuple[str, ...]] = {"attention": _ATTENTION, "attention_mlp": (*_ATTENTION, *_MLP)}
# Of the last double block, when no single block follows: what only the text tokens after it would feel.
_TEXT_AFTER_ATTENTION = ("txt_attn.proj", "txt_mlp.0", "txt_mlp.2")
_RANGE = re.compile(r"(\d+)-(\d+)")
FILE_BYTES, ALPHA_BYTES = 2, 4


@dataclass(frozen=True)
class Extent:
    """How large a LoRA is."""

    layers: int
    parameters: int
    file_bytes: int
    """Of the exported file in BF16, without its header."""

    def in_words(self) -> str:
        return f"{self.layers} layers, {self.parameters:,} parameters, about {shown_size(self.file_bytes)} as a BF16 file"


def chosen_layers(shapes: Shapes, preset: str, blocks: str = "") -> list[str]:
    """The layers of a preset, in the transformer's order, of the chosen blocks only.

    FLUX fuses attention and MLP in its single blocks: `linear1` (queries, keys, values and the MLP's way in) counts as attention, `linear2` (the way
    out of both) as MLP. Layers that nothing after them uses are left out.

    Args:
        shapes: of the transformer's tensors.
        preset: attention, attention_mlp, or all_linears (modulations, embedders and the last layer too).
        blocks: patterns, separated by commas, for the beginnings of layer names: "single_blocks.7, single_blocks.20", "double_blocks.0-4",
            "double_blocks.*.img_attn". Empty: all.

    Raises:
        InputError: no such preset, or a pattern that fits no layer of it.
    """
    if preset not in PRESETS:
        raise InputError("LoRA layers", expected=" or ".join(PRESETS), found=preset, remedy="Choose one of these.")
    layers = [layer for layer in linear_layers(shapes) if preset == "all_linears" or layer.endswith(_ENDINGS[preset])]
    layers = [layer for layer in layers if layer not in _without_use(layers)]
    patterns = [pattern.strip() for pattern in blocks.split(",") if pattern.strip()]
    idle = [pattern for pattern in patterns if not any(fits(layer, pattern) for layer in layers)]
    if idle:
        raise InputError(
            "LoRA blocks", expected="beginnings of layer names, such as single_blocks.7 or double_blocks.0-4",
            found=f"{', '.join(idle)}, which no layer of the preset {preset} fits", remedy=f"Its layers are called like {layers[0]}.",
        )  # fmt: skip
    return [layer for layer in layers if not patterns or any(fits(layer, pattern) for pattern in patterns)]


def fits(layer: str, pattern: str) -> bool:
    """Whether a layer's name begins with a pattern, part by part between the points; `*` and `?` stand for text, `3-7` for numbers."""
    parts, wanted = layer.split("."), pattern.split(".")
    return len(wanted) <= len(parts) and all(_part_fits(part, want) for part, want in zip(parts, wanted, strict=False))


def extent(layers: Iterable[tuple[tuple[int, int], int]], dora: bool = False) -> Extent:
    """The size of a LoRA over layers given as ((out, in), rank)."""
    layers = list(layers)
    parameters = sum(rank * (out_width + in_width) + (out_width if dora else 0) for (out_width, in_width), rank in layers)
    return Extent(len(layers), parameters, parameters * FILE_BYTES + len(layers) * ALPHA_BYTES)


def _part_fits(part: str, want: str) -> bool:
    found = _RANGE.fullmatch(want)
    if found and part.isdecimal():
        return int(found[1]) <= int(part) <= int(found[2])
    return fnmatchcase(part, want)


def _without_use(layers: Iterable[str]) -> set[str]:
    layers = list(layers)
    if any(layer.startswith("single_blocks.") for layer in layers):
        return set()
    last = max((int(layer.split(".")[1]) for layer in layers if layer.startswith("double_blocks.")), default=0)
    return {f"double_blocks.{last}.{part}" for part in _TEXT_AFTER_ATTENTION}

"""A LoRA from a file of any of the usual formats, as adapters of the layers here, with what was changed on the way said in words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .header import printable, read_header
from .lora_adapters import Adapter, effective_alpha, joined, require_fits
from .lora_names import CONTROLNET_PREFIX, Place, diffusers_parts, part_rows, places
from .names import halves_exchanged
from .tensors import read_tensors

Shapes = Mapping[str, tuple[int, ...]]
_ROLES = {
    "down": (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", "_lora.down.weight"),
    "up": (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", "_lora.up.weight"),
    "alpha": (".alpha",),
    "magnitude": (".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight"),
}
_ENDINGS = {ending: role for role, endings in _ROLES.items() for ending in endings}
_OF_TEXT_ENCODERS = re.compile(r"^(lora_te\d?_|text_encoder(_\d)?\.|text_encoders\.)")
_OTHER_METHODS = {
    ".hada_w1_a": "a LoHa", ".lokr_w1": "a LoKr", ".lokr_w1_a": "a LoKr", ".dora_scale": "a DoRA by another rule than peft's",
    ".diff": "whole differences of weights", ".lora_mid.weight": "a LoCon with middle layers", ".oft_blocks": "an OFT",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ReadLora:
    """What a file holds for a transformer."""

    adapters: dict[str, Adapter]
    """By the transformer's layers, in their order."""
    notes: tuple[str, ...]
    """What was put together, left out or rounded, for the user."""


def read_lora(path: str | Path, shapes: Shapes) -> ReadLora:
    """The adapters of a LoRA file for a transformer with tensors of these `shapes` (original names).

    Raises:
        InputError: the file is damaged, no LoRA, of another kind, or for another model.
    """
    return lora_from_tensors(read_tensors(path), shapes, str(path), read_header(path).metadata)


def lora_from_tensors(weights: Mapping[str, Tensor], shapes: Shapes, subject: str, metadata: Mapping[str, str] | None = None) -> ReadLora:
    """The same from tensors in memory.

    Raises:
        InputError: naming what does not belong or is missing; `subject` names the file.
    """
    layers = linear_layers(shapes)
    known = places(layers)
    raw, left_out = _sorted_out(weights, known, subject)
    alphas = MetadataAlphas.of(metadata or {})
    found: dict[str, dict[int | None, Adapter]] = {}
    for name, parts in raw.items():
        place, adapter = known[name], _adapter(name, parts, alphas, subject)
        _put(found.setdefault(place.layer, {}), place, adapter if not place.swapped else _exchanged(adapter), subject)
    parts_of = diffusers_parts(layers)
    adapters = {layer: _of_layer(layer, found[layer], shapes[f"{layer}.weight"], len(parts_of[layer]), subject) for layer in layers if layer in found}
    require_fits(adapters, shapes, subject)
    return ReadLora(adapters, tuple(_notes(adapters, found, left_out)))


def linear_layers(shapes: Shapes) -> list[str]:
    """The linear layers of a transformer: whatever has a weight of two dimensions."""
    return [name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2]


def _sorted_out(weights: Mapping[str, Tensor], known: Mapping[str, Place], subject: str) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """{layer's name in the file: {role: tensor}}, and the names that belong to text encoders."""
    found: dict[str, dict[str, Tensor]] = {}
    left_out, strange = [], []
    for name, tensor in weights.items():
        ending = next((ending for ending in sorted(_ENDINGS, key=len, reverse=True) if name.endswith(ending)), "")
        layer = name.removesuffix(ending)
        if ending and layer in known:
            found.setdefault(layer, {})[_ENDINGS[ending]] = tensor
        elif _OF_TEXT_ENCODERS.match(name):
            left_out.append(name)
        else:
            strange.append(name)
    if strange or not found:
        raise _not_a_lora(strange, subject)
    return found, left_out


def _not_a_lora(strange: list[str], subject: str) -> InputError:
    if any(name.startswith(CONTROLNET_PREFIX) and name.endswith(tuple(_ENDINGS)) for name in strange):
        remedy = "Choose it as `lora` in Build ControlNet LoRA: its layers are called as the transformer's, but are not the same."
        return InputError(subject, expected="a LoRA for this transformer", found="a LoRA on a ControlNet", remedy=remedy)
    other = next((kind for ending, kind in _OTHER_METHODS.items() if any(name.endswith(ending) for name in strange)), None)
    names = ", ".join(printable(name) for name in strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
    return InputError(
        subject, expected="a LoRA for this transformer in kohya, diffusers (PEFT) or ComfyUI names",
        found=f"{other} ({names})" if other else names or "no adapters of the transformer", remedy="Look at the file with `graft inspect`.",
    )  # fmt: skip


@dataclass(frozen=True)
class MetadataAlphas:
    """Alphas that diffusers writes into the header, in place of tensors."""

    default: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> MetadataAlphas:
        """From a file's header; what cannot be read counts as absent, as it does for diffusers' own readers of other versions."""
        try:
            fields = json.loads(metadata.get("lora_adapter_metadata", "{}"))
            alpha = fields.get("transformer.lora_alpha")
            patterns = {name: float(value) for name, value in (fields.get("transformer.alpha_pattern") or {}).items()}
            return cls(None if alpha is None else float(alpha), patterns, bool(fields.get("transformer.use_rslora")))
        except (ValueError, AttributeError, TypeError):
            return cls()

    def alpha(self, name: str, rank: int) -> float:
        """The effective alpha of a layer that has none of its own; without metadata its scale is 1."""
        chosen = self.patterns.get(name.removeprefix("transformer."), self.default)
        return float(rank) if chosen is None else effective_alpha(chosen, rank, self.rslora)


def _adapter(name: str, parts: Mapping[str, Tensor], alphas: MetadataAlphas, subject: str) -> Adapter:
    missing = [role for role in ("down", "up") if role not in parts]
    if missing:
        found = f"no {' and no '.join(missing)} matrix of {printable(name)}"
        raise InputError(subject, expected="two matrices per layer", found=found, remedy="The file is incomplete: choose another.")
    down, up = (parts[role].flatten(1) for role in ("down", "up"))
    if down.shape[0] != up.shape[1]:
        found = f"{printable(name)}: rank {down.shape[0]} and rank {up.shape[1]}"
        raise InputError(subject, expected="two matrices of one rank", found=found, remedy="The file is damaged: choose another.")
    _require_finite(name, (down, up), subject)
    magnitude = parts.get("magnitude")
    alpha = float(parts["alpha"]) if "alpha" in parts else alphas.alpha(name, len(down))
    return Adapter(down, up, alpha, None if magnitude is None else magnitude.flatten())


def _exchanged(adapter: Adapter) -> Adapter:
    magnitude = adapter.magnitude
    return replace(adapter, up=halves_exchanged(adapter.up), magnitude=None if magnitude is None else halves_exchanged(magnitude))


def _put(parts: dict[int | None, Adapter], place: Place, adapter: Adapter, subject: str) -> None:
    if place.part in parts or (parts and None in (place.part, *parts)):
        found = f"{place.layer} more than once"
        raise InputError(subject, expected="each layer once", found=found, remedy="The file is damaged: choose another.")
    parts[place.part] = adapter


def _require_finite(name: str, tensors: tuple[Tensor, ...], subject: str) -> None:
    if not all(bool(torch.isfinite(tensor.float()).all()) for tensor in tensors):
        found = f"infinite values or NaN in {printable(name)}"
        raise InputError(subject, expected="finite values", found=found, remedy="Choose an earlier state of that LoRA.")


def _of_layer(layer: str, parts: Mapping[int | None, Adapter], shape: tuple[int, ...], count: int, subject: str) -> Adapter:
    """The whole layer's adapter: as it stands in the file, or put together from its parts."""
    if None in parts:
        return parts[None]
    rows = part_rows(shape[0], shape[1], count)
    wrong = [f"{part.up.shape[0]} instead of {rows[number]}" for number, part in parts.items() if number is not None and len(part.up) != rows[number]]
    widths = {part.down.shape[1] for part in parts.values()}
    if wrong or widths != {shape[1]}:
        found = f"{layer}: " + ("; ".join(f"rows {text}" for text in wrong) or f"inputs of width {sorted(widths)} instead of {shape[1]}")
        raise InputError(subject, expected="adapters of the transformer's sizes", found=found, remedy="Choose one for this transformer.")
    return joined([parts.get(number) for number in range(count)], rows)


def _notes(adapters: Mapping[str, Adapter], found: Mapping[str, Mapping[int | None, Adapter]], left_out: list[str]) -> list[str]:
    summed = [layer for layer in adapters if adapters[layer].rank > max(part.rank for part in found[layer].values())]
    notes = []
    if summed:
        ranks = sorted({adapters[layer].rank for layer in summed})
        notes.append(
            f"{len(summed)} fused layers had separate adapters for queries, keys and values: each is now one block-diagonal adapter of summed "
            f"rank ({', '.join(map(str, ranks))}), which computes the same and trains as one."
        )
    if left_out:
        notes.append(f"{len(left_out)} tensors for text encoders were left out: only the transformer is trained here.")
    return notes

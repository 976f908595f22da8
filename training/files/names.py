"""The two sets of names under which FLUX transformers are saved: Black Forest Labs' own (BFL) and diffusers'.

diffusers splits what BFL fuses: queries, keys and values of every attention, and in single blocks also the first half of the MLP.
Everything else is renamed, and the last layer's two halves are exchanged (BFL: shift, scale; diffusers: scale, shift). A BFL tensor is
therefore always the concatenation, along its first axis, of one to four diffusers tensors. Shapes decide all sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .header import printable

_OUTER: dict[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
_GUIDANCE: dict[str, tuple[str, ...]] = {
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
}
_DOUBLE: dict[str, tuple[str, ...]] = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_DOUBLE_SCALES: dict[str, str] = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}
_SINGLE: dict[str, tuple[str, ...]] = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_SINGLE_SCALES: dict[str, str] = {
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
}
SWAPPED_LAYER = "final_layer.adaLN_modulation.1"
"""The layer whose output's two halves diffusers exchanges."""
_SWAPPED = (f"{SWAPPED_LAYER}.weight", f"{SWAPPED_LAYER}.bias")
_BLOCK = re.compile(r"^(double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.(\d{1,4})\.")
_QUERY_KEY_SCALE = re.compile(r"(\.(?:query|key)_norm)\.weight$")


def _with_parameters(layers: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for ours, theirs in layers.items() for kind in ("weight", "bias")}


_OUTER_NAMES = _with_parameters(_OUTER)
_GUIDANCE_NAMES = _with_parameters(_GUIDANCE)
_DOUBLE_NAMES = _with_parameters(_DOUBLE) | {ours: (theirs,) for ours, theirs in _DOUBLE_SCALES.items()}
_SINGLE_NAMES = _with_parameters(_SINGLE) | {ours: (theirs,) for ours, theirs in _SINGLE_SCALES.items()}


@dataclass(frozen=True)
class NameMap:
    """Which diffusers tensors, in order, make up each BFL tensor of one model with given depths."""

    double_depth: int
    single_depth: int
    guidance: bool

    def pieces(self) -> dict[str, tuple[str, ...]]:
        """{BFL name: diffusers names}, complete."""
        result = _OUTER_NAMES | (_GUIDANCE_NAMES if self.guidance else {})
        for index in range(self.double_depth):
            result |= _numbered(_DOUBLE_NAMES, f"double_blocks.{index}.", f"transformer_blocks.{index}.")
        for index in range(self.single_depth):
            result |= _numbered(_SINGLE_NAMES, f"single_blocks.{index}.", f"single_transformer_blocks.{index}.")
        return result


def bfl_map(names: Iterable[str]) -> NameMap:
    """The map for a model, with depths and guidance read from its BFL names."""
    names = list(names)
    return NameMap(_depth(names, "double_blocks"), _depth(names, "single_blocks"), any(name.startswith("guidance_in.") for name in names))


def diffusers_map(names: Iterable[str]) -> NameMap:
    """The map for a model, with depths and guidance read from its diffusers names."""
    names = list(names)
    guidance = any(name.startswith("time_text_embed.guidance_embedder.") for name in names)
    return NameMap(_depth(names, "transformer_blocks"), _depth(names, "single_transformer_blocks"), guidance)


def flux_from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A FLUX transformer's weights in diffusers names -> the same in BFL names.

    A part of a model will do (a ControlNet has no last layer); whether a whole one is complete is known to who builds it.

    Raises:
        InputError: naming what does not belong, and what is missing of a tensor that is fused of several.
    """
    pieces = {name: parts for name, parts in diffusers_map(weights).pieces().items() if any(part in weights for part in parts)}
    require_names((name for parts in pieces.values() for name in parts), weights, "FLUX weights in diffusers names")
    return {name: fuse(name, [weights[part] for part in parts]) for name, parts in pieces.items()}


def flux_to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A FLUX transformer's weights, or a part of them, in BFL names -> the same in diffusers names. Split tensors are views.

    Raises:
        InputError: naming what does not belong.
    """
    pieces = {name: parts for name, parts in bfl_map(weights).pieces().items() if name in weights}
    require_names(pieces, weights, "FLUX weights in BFL names")
    result: dict[str, Tensor] = {}
    for name, parts in pieces.items():
        result.update(zip(parts, split(name, weights, len(parts)), strict=True))
    return result


def fuse(bfl_name: str, parts: list[Tensor]) -> Tensor:
    """One BFL tensor from its diffusers tensors in the map's order."""
    fused = parts[0] if len(parts) == 1 else torch.cat(parts)
    return halves_exchanged(fused) if bfl_name in _SWAPPED else fused


def split(bfl_name: str, weights: Mapping[str, Tensor], count: int) -> tuple[Tensor, ...]:
    """The `count` diffusers tensors that one BFL tensor consists of: three of the model's width, the last takes the rest."""
    tensor = weights[bfl_name]
    if bfl_name in _SWAPPED:
        return (halves_exchanged(tensor),)
    if count == 1:
        return (tensor,)
    width = weights[f"{bfl_name.rpartition('.')[0]}.weight"].shape[1]
    lengths = [width] * (count - 1)
    return torch.split(tensor, [*lengths, tensor.shape[0] - sum(lengths)])


def with_scale_names(name: str) -> str:
    """Newer ComfyUI calls `norm.query_norm.scale` `.weight` in memory; the checkpoints' own name for either."""
    return _QUERY_KEY_SCALE.sub(r"\1.scale", name)


def require_names(wanted: Iterable[str], found: Iterable[str], subject: str) -> None:
    """Checks that two sets of names are equal.

    Raises:
        InputError: listing every missing and every unexpected name.
    """
    wanted, found = set(wanted), set(found)
    problems = [f"missing {printable(name)}" for name in sorted(wanted - found)]
    problems += [f"unexpected {printable(name)}" for name in sorted(found - wanted)]
    if problems:
        remedy = "Look at the file with `graft inspect`; a part of a model in several files must be joined into one first."
        raise InputError(subject, expected=f"exactly its {len(wanted)} tensors", found="; ".join(problems), remedy=remedy)


def _numbered(table: Mapping[str, tuple[str, ...]], ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    return {ours + name: tuple(theirs + part for part in parts) for name, parts in table.items()}


def _depth(names: Iterable[str], blocks: str) -> int:
    """One more than the highest block number that occurs."""
    found = (_BLOCK.match(name) for name in names)
    return max((int(match[2]) + 1 for match in found if match and match[1] == blocks), default=0)


def halves_exchanged(tensor: Tensor) -> Tensor:
    """A tensor with the two halves of its first axis exchanged; its own inverse."""
    first, second = tensor.chunk(2)
    return torch.cat([second, first])

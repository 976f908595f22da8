"""Names of the tensors of FLUX ControlNets: XLabs' own, diffusers', and the ones used here, as pure maps.

Here the blocks and embedders are named as in the original FLUX checkpoints (names.py), and `controlnet_blocks.i` and
`controlnet_single_blocks.i` have the same names everywhere. What is left is the hint's way in:

- XLabs, here as in XLabs' files: `pos_embed_input`, `input_hint_block.0, 2, ..., 14`;
- XLabs in diffusers: `controlnet_x_embedder`, `input_hint_block.conv_in, blocks.0 ... 5, conv_out`;
- InstantX, here and in diffusers: `controlnet_x_embedder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

from ..errors import InputError
from .names import NameMap, bfl_map, diffusers_map, fuse, require_names, split

Layout = Literal["xlabs", "instantx"]
Pieces = dict[str, tuple[str, ...]]

LAYOUT_TITLES: dict[str, str] = {"xlabs": "XLabs", "instantx": "InstantX"}
_HINT_LAYERS: dict[Layout, dict[str, str]] = {
    "xlabs": {
        "pos_embed_input": "controlnet_x_embedder",
        "input_hint_block.0": "input_hint_block.conv_in",
        **{f"input_hint_block.{2 * index + 2}": f"input_hint_block.blocks.{index}" for index in range(6)},
        "input_hint_block.14": "input_hint_block.conv_out",
    },
    "instantx": {"controlnet_x_embedder": "controlnet_x_embedder"},
}
# Tensors by which networks of other kinds give themselves away; those of FLUX first, because their other names are like ours.
_OTHER_FLUX_KINDS = {
    "controlnet_mode_embedder.weight": "a Union ControlNet, which chooses among several kinds of hint",
    "controlnet_blocks.0.linear.weight": "a Mistoline ControlNet",
}
_OTHER_KINDS = {
    "pos_embed_input.proj.weight": "a ControlNet for Stable Diffusion 3",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet for SD1.5 or SDXL",
    "zero_convs.0.0.weight": "a ControlNet for SD1.5 or SDXL",
    "control_model.zero_convs.0.0.weight": "a ControlNet for SD1.5 or SDXL",
    "final_layer.linear.weight": "a FLUX transformer",
}


def from_any_names(weights: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    """The layout of a FLUX ControlNet, and its tensors under the names used here.

    Raises:
        InputError: the weights are no FLUX ControlNet of these layouts; or, under diffusers' names, which are missing or do not belong.
    """
    layout, in_diffusers_names = controlnet_layout(weights)
    if not in_diffusers_names:
        return layout, dict(weights)
    pieces = _pieces(layout, diffusers_map(weights))
    require_names((part for parts in pieces.values() for part in parts), weights, f"{LAYOUT_TITLES[layout]} ControlNet in diffusers names")
    return layout, {name: _fused(name, [weights[part] for part in parts]) for name, parts in pieces.items()}


def to_diffusers_names(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The tensors of a ControlNet, given under the names used here, under diffusers' names. Split tensors are copies.

    Raises:
        InputError: naming what is missing and what does not belong.
    """
    pieces = _pieces(layout, bfl_map(weights))
    require_names(pieces, weights, f"{LAYOUT_TITLES[layout]} ControlNet")
    result: dict[str, Tensor] = {}
    for name, parts in pieces.items():
        tensors = (tensor.clone() if len(parts) > 1 else tensor for tensor in split(name, weights, len(parts)))
        result.update(zip(parts, tensors, strict=True))
    return result


def controlnet_layout(names: Iterable[str]) -> tuple[Layout, bool]:
    """The layout of a FLUX ControlNet by the names of its tensors, and whether they are diffusers' names.

    Raises:
        InputError: these are not the names of such a network; it says what they are where that can be told.
    """
    names = set(names)
    other = next((kind for name, kind in _OTHER_FLUX_KINDS.items() if name in names), None)
    if other is None and "controlnet_blocks.0.weight" in names:
        if "transformer_blocks.0.attn.norm_q.weight" in names:
            return ("xlabs" if "input_hint_block.conv_in.weight" in names else "instantx"), True
        if "double_blocks.0.img_attn.norm.query_norm.scale" in names:
            return ("instantx" if "controlnet_x_embedder.weight" in names else "xlabs"), False
    raise InputError(
        "ControlNet file", expected="a FLUX ControlNet in the XLabs or the InstantX (diffusers) layout, flat and in one file",
        found=other or next((kind for name, kind in _OTHER_KINDS.items() if name in names), "other tensors"),
        remedy="Look at the file with `graft inspect`, and choose another.",
    )  # fmt: skip


def _pieces(layout: Layout, shared: NameMap) -> Pieces:
    """Which diffusers tensors, in order, make up each tensor here; complete."""
    pieces = {name: parts for name, parts in shared.pieces().items() if not name.startswith("final_layer.")}
    layers = dict(_HINT_LAYERS[layout])
    outputs = [f"controlnet_blocks.{index}" for index in range(shared.double_depth)]
    outputs += [f"controlnet_single_blocks.{index}" for index in range(shared.single_depth)]
    layers |= zip(outputs, outputs, strict=True)
    return pieces | {f"{here}.{kind}": (f"{there}.{kind}",) for here, there in layers.items() for kind in ("weight", "bias")}


def _fused(name: str, parts: list[Tensor]) -> Tensor:
    if len({tuple(part.shape[1:]) for part in parts}) > 1:
        found = f"shapes {', '.join(str(tuple(part.shape)) for part in parts)}"
        raise InputError(f"parts of {name}", expected="one width for all", found=found, remedy="Choose an undamaged file.")
    return fuse(name, parts)

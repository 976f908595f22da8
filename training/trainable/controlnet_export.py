"""A ControlNet as files: the flat one for ComfyUI, and the folder for diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files.controlnet_names import LAYOUT_TITLES, Layout, to_diffusers_names
from ..files.write import explained, require_free_space, require_writable_folder, write_bytes, write_json, write_safetensors
from ..models.control_residuals import require_layout
from ..models.flux import FluxConfig
from ..models.flux_controlnet import HINT_WIDTH, FluxControlNet, controlnet_from_weights
from .controlnet import require_finite

EXPORT_DTYPES = (torch.bfloat16, torch.float32)
WEIGHTS_FILE, CONFIG_FILE, README_FILE = "diffusion_pytorch_model.safetensors", "config.json", "README.txt"
# diffusers and ComfyUI take the width of the MLP from the hidden width.
MLP_RATIO = 4

ControlNetState = FluxControlNet | Mapping[str, Tensor]


def exported_tensors(
    state: ControlNetState, layout: str, dtype: torch.dtype = torch.bfloat16
) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """What the flat file of a trained ControlNet holds: tensors by name, metadata about the layout, and notes for the user.

    XLabs networks keep their names, InstantX networks get diffusers' ones: both as ComfyUI's stock loader reads them. Whatever is used of
    a trained network is made from exactly these tensors. To the metadata the caller adds where the weights come from.

    Raises:
        InputError: the network is of another layout, the dtype is not for files, or values are not finite.
    """
    module = _module_of(state, _any_axes(state))
    _require_own_layout(module, layout)
    weights = _cast(module, dtype)
    if module.layout == "instantx":
        require_mlp_ratio(module.config)
        weights = to_diffusers_names(weights, module.layout)
    return weights, _metadata(module), module.notes


def export_diffusers_folder(
    folder: str | Path,
    state: ControlNetState,
    dtype: torch.dtype = torch.bfloat16,
    metadata: Mapping[str, str] | None = None,
    axes: tuple[int, ...] | None = None,
    notes: Sequence[str] = (),
) -> tuple[Path, ...]:
    """Writes a folder that diffusers' FluxControlNetModel.from_pretrained reads; returns the files' paths.

    config.json, without which diffusers reads nothing, is written last, and one of an earlier export is removed first: an export that was
    interrupted is never taken for a whole one. Beside it the folder holds the weights in one file, and a README.txt that says who can read
    it and by which rule. `metadata` is added to the weights' own, `notes` (sentences; by default the network's own) to the README; `axes`
    are the rotary axes where heads are not 128 wide.

    Raises:
        InputError: the folder cannot be written, the disk has no room, diffusers has no such network, the dtype is not for files, or values
            are not finite.
    """
    module = _module_of(state, axes)
    require_mlp_ratio(module.config)
    weights = to_diffusers_names(_cast(module, dtype), module.layout)
    folder = require_writable_folder(folder, "diffusers folder")
    require_free_space(folder, sum(tensor.nbytes for tensor in weights.values()), "diffusers folder")
    files = tuple(folder / name for name in (WEIGHTS_FILE, README_FILE, CONFIG_FILE))
    _remove(files[2])
    write_safetensors(files[0], weights, {"format": "pt", **_metadata(module), **(metadata or {})})
    write_bytes(files[1], _readme(module.layout, notes or module.notes).encode("utf-8"))
    write_json(files[2], diffusers_config(module.config, module.layout))
    return files


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explained(path, error) from error


def diffusers_config(config: FluxConfig, layout: Layout) -> dict[str, Any]:
    """The config.json of diffusers' FluxControlNetModel. XLabs networks pack their hint in 2x2 patches inside the model (patch_size 2)."""
    return {
        "_class_name": "FluxControlNetModel",
        "attention_head_dim": config.head_dim,
        "axes_dims_rope": list(config.axes),
        "conditioning_embedding_channels": HINT_WIDTH if layout == "xlabs" else None,
        "guidance_embeds": config.guidance,
        "in_channels": config.in_channels,
        "joint_attention_dim": config.context_width,
        "num_attention_heads": config.heads,
        "num_layers": config.double_depth,
        "num_mode": None,
        "num_single_layers": config.single_depth,
        "patch_size": 2 if layout == "xlabs" else 1,
        "pooled_projection_dim": config.vector_width,
    }


def _module_of(state: ControlNetState, axes: tuple[int, ...] | None) -> FluxControlNet:
    return state if isinstance(state, FluxControlNet) else controlnet_from_weights(state, axes)


def _any_axes(state: ControlNetState) -> tuple[int, ...] | None:
    """Axes of the right sum: a flat file says nothing about positions, so heads of any width can be saved."""
    names = ("double_blocks.0.img_attn.norm.query_norm.scale", "transformer_blocks.0.attn.norm_q.weight")
    scale = None if isinstance(state, FluxControlNet) else next((state[name] for name in names if name in state), None)
    return None if scale is None else (scale.numel(),)


def _cast(module: FluxControlNet, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype not in EXPORT_DTYPES:
        remedy = "Choose bfloat16: ComfyUI runs a float16 ControlNet in float16 where it can, and there FLUX overflows."
        raise InputError("export dtype", expected=" or ".join(str(d).removeprefix("torch.") for d in EXPORT_DTYPES), found=dtype, remedy=remedy)
    weights = module.state_dict()
    require_finite(weights, "ControlNet to export")
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}


def _metadata(module: FluxControlNet) -> dict[str, str]:
    config = module.config
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{'flux-1-dev' if config.guidance else 'flux-1-schnell'}/controlnet",
        "modelspec.implementation": "https://github.com/XLabs-AI/x-flux" if module.layout == "xlabs" else "diffusers",
        "graft.layout": module.layout,
        "graft.double_depth": str(config.double_depth),
        "graft.single_depth": str(config.single_depth),
    }


def _readme(layout: Layout, notes: Sequence[str]) -> str:
    paragraphs = [_HEADLINES[layout].format(weights=WEIGHTS_FILE), _LOADING, _RULES[layout], *notes]
    return "\n\n".join(paragraphs) + "\n"


_LOADING = "Load it with diffusers: FluxControlNetModel.from_pretrained(<this folder>)."
_HEADLINES = {
    "xlabs": (
        "NOT FOR COMFYUI. This is an XLabs ControlNet under diffusers' names. ComfyUI would take it for an InstantX network and drop the\n"
        "layers that read the hint picture. For ComfyUI export the same network as one flat XLabs file."
    ),
    "instantx": "This is an InstantX ControlNet. ComfyUI reads {weights} of this folder as well, with a VAE for the hint.",
}
_RULES = {
    "xlabs": (
        "The hint is a picture in [-1, 1]. Base block i takes residual i % n: FluxControlNetPipeline chooses this rule by itself for a\n"
        "network with hint layers; who calls the transformer directly must pass controlnet_blocks_repeat=True, or gets another rule."
    ),
    "instantx": (
        "The hint is the picture's latent, (z - 0.1159) * 0.3611, packed like the image. Base block i takes residual\n"
        "i // ceil(depth / n), which is diffusers' rule unless controlnet_blocks_repeat is given."
    ),
}


def _require_own_layout(module: FluxControlNet, layout: str) -> None:
    if require_layout(layout) != module.layout:
        raise InputError(
            "export layout", expected=f"{module.layout}, in which this network was trained", found=layout,
            remedy=f"{LAYOUT_TITLES[module.layout]} and {LAYOUT_TITLES[layout]} ControlNets are different networks.",
        )  # fmt: skip


def require_mlp_ratio(config: FluxConfig) -> None:
    """Raises InputError if ComfyUI and diffusers could not read a network of this MLP in diffusers' layout."""
    if config.mlp_width != MLP_RATIO * config.hidden_size:
        raise InputError(
            "ControlNet", expected=f"an MLP of {MLP_RATIO} times the hidden width, the only one that diffusers' layout can have",
            found=f"{config.mlp_width} at a hidden width of {config.hidden_size}", remedy="Build it in the XLabs layout, without a diffusers folder.",
        )  # fmt: skip

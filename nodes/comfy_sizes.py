"""A FLUX of any size through ComfyUI's own classes: what its detection reads from the weights, and what they really are.

v0.33 reads every size from the weights; v0.3.64 takes the widths of FLUX.1 for granted. Where detection is right, the stock loaders serve;
where it is wrong, the same classes are made with the right sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..training.files.held import shapes_of as shapes_by_name
from ..training.models.flux import FluxConfig

NORM_ENDINGS = ("query_norm.", "key_norm.")


def detected_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What this ComfyUI makes of weights in original names."""
    import comfy.model_detection

    return dict(comfy.model_detection.detect_unet_config(dict(weights), "") or {})


def true_sizes(config: FluxConfig) -> dict[str, Any]:
    """The same under ComfyUI's names, as the engine reads them."""
    return {
        "hidden_size": config.hidden_size,
        "num_heads": config.heads,
        "context_in_dim": config.context_width,
        "vec_in_dim": config.vector_width,
        "mlp_ratio": config.mlp_width / config.hidden_size,
        "depth": config.double_depth,
        "depth_single_blocks": config.single_depth,
        "axes_dim": list(config.axes),
        "guidance_embed": config.guidance,
    }


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return shapes_by_name(weights)


def agree(detected: Mapping[str, Any], true: Mapping[str, Any]) -> bool:
    """Whether the stock loaders will make the right module."""
    return all(detected.get(name) == value for name, value in true.items())


def in_module_names(weights: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Weights under the names that a module has: the scales of the query and key norms are `scale` or (from v0.14 on) `weight`."""
    names = set(wanted)
    return {name if name in names else _other_norm_name(name): tensor for name, tensor in weights.items()}


def original_name(name: str) -> str:
    """A tensor's name in FLUX checkpoints, whichever of the two this ComfyUI uses."""
    return name.removesuffix("weight") + "scale" if name.removesuffix("weight").endswith(NORM_ENDINGS) else name


def _other_norm_name(name: str) -> str:
    return name.removesuffix("scale") + "weight" if name.removesuffix("scale").endswith(NORM_ENDINGS) else name

"""CONTROL_NET from the tensors of an exported file, through ComfyUI's own loader wherever that accepts their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..training.files.controlnet_names import from_any_names
from ..training.models.flux_controlnet import controlnet_from_weights
from .comfy_sizes import agree, detected_sizes, in_module_names, true_sizes

LATENT_HINT = "controlnet_x_embedder."
COMFY_HINT = "pos_embed_input."


def make_control_net(weights: Mapping[str, Tensor]) -> Any:
    """A CONTROL_NET as the stock loader makes it from the exported file. v0.3.64 loads only FLUX.1's own width: others are put together here.

    Raises:
        InputError: they are no FLUX ControlNet, or tensors are missing or unexpected.
    """
    import comfy.controlnet

    true = true_sizes(controlnet_from_weights(weights).config)
    layout, own_names = from_any_names(weights)
    detected = detected_sizes(own_names)
    if agree(detected, true):
        return comfy.controlnet.load_controlnet_state_dict(dict(weights))
    return _with_sizes({**detected, **true}, own_names, latent_hint=layout == "instantx")


def _with_sizes(sizes: dict[str, Any], weights: Mapping[str, Tensor], latent_hint: bool) -> Any:
    """What the stock loader does, with sizes that it would not have found."""
    import comfy.controlnet
    import comfy.latent_formats
    import comfy.model_management as management
    import comfy.supported_models

    device, supported = management.get_torch_device(), comfy.supported_models.Flux.supported_inference_dtypes
    dtype = management.unet_dtype(model_params=-1, supported_dtypes=supported, weight_dtype=weights["img_in.weight"].dtype)
    cast = management.unet_manual_cast(dtype, device)
    latent_format = comfy.latent_formats.Flux() if latent_hint else None
    return comfy.controlnet.ControlNet(
        _module(sizes, weights, latent_hint, dtype, cast), compression_ratio=8 if not latent_hint else 1, latent_format=latent_format,
        load_device=device, manual_cast_dtype=cast, extra_conds=["y", "guidance"],
    )  # fmt: skip


def _module(sizes: dict[str, Any], weights: Mapping[str, Tensor], latent_hint: bool, dtype: Any, cast: Any) -> Any:
    import comfy.ldm.flux.controlnet
    import comfy.model_management as management
    import comfy.ops

    operations = comfy.ops.pick_operations(dtype, cast, disable_fast_fp8=True)
    channels = sizes["in_channels"] if latent_hint else None
    module = comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=latent_hint, control_latent_channels=channels, operations=operations, device=management.unet_offload_device(),
        dtype=dtype, **sizes,
    )  # fmt: skip
    renamed = {name.replace(LATENT_HINT, COMFY_HINT): tensor for name, tensor in weights.items()}
    module.load_state_dict(in_module_names(renamed, module.state_dict()))
    return module

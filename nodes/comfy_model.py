"""MODEL, as ComfyUI knows it, from a transformer's weights and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..training.errors import InputError
from ..training.files.fingerprint import fingerprint as hashed
from ..training.files.held import (
    Held,
    HeldWeights,
    Made,
    Stored,
    gathered,
    held_again,
    held_on_request,
    requested_fingerprint,
    require_form,
    stored_of,
)
from ..training.models.flux import Flux, FluxConfig
from .comfy_sizes import agree, detected_sizes, original_name, shapes_of, true_sizes
from .comfy_source import lasting_fingerprint, source_files
from .comfy_weights import read_weights, remember_fingerprint
from .host import name_of

PREFIX = "diffusion_model."
REPORT = "graft_report"
NAME = "graft_name"
FORM = "graft_form"
"""Attachment: the 8-bit form in which trainings are to hold the model."""
PACKING = "graft_packing"
"""Attachment: {name: (dtype, scale)} of the weights that came from an 8-bit file; their 8 bits follow from their numbers (held_again)."""
LATENT_CHANNELS = 16


def make_model(weights: Mapping[str, Tensor], report: Any, fingerprint: str | None, name: str = "") -> Any:
    """A ModelPatcher whose module holds copies of these weights, in their own dtype; ComfyUI computes in what the device can.

    Weights in 8 bits are unpacked for it, and read from it in 8 bits again.

    Raises:
        InputError: they are not exactly the tensors of a FLUX.
    """
    config = Flux.from_weights(weights).config
    detected, true = detected_sizes(weights), true_sizes(config)
    dtype = weights["img_in.weight"].dtype
    patcher = _by_stock_loader(weights, dtype) if agree(detected, true) else _with_sizes({**detected, **true}, weights, dtype)
    patcher.set_attachments(NAME, name)
    if report is not None:
        patcher.set_attachments(REPORT, report)
    if isinstance(weights, HeldWeights):
        held = {name: value for name, value in weights.stored.items() if isinstance(value, Held)}
        patcher.set_attachments(PACKING, {name: (value.stored.dtype, value.scale) for name, value in held.items()})
    remember_fingerprint(patcher, fingerprint or hashed(weights))
    return patcher


def model_weights(model: Any, notes: Path | None = None) -> tuple[Mapping[str, Tensor], str]:
    """The weights of any FLUX MODEL by their original names, patches applied, and their fingerprint (remembered in the folder `notes`).

    Matrices of blocks that are in 8 bits stay so, unless something is patched into them.

    Raises:
        InputError: another kind of model, or one whose weights cannot be read.
    """
    weights = _weights(model)
    return _in_form(model, weights), _fingerprint(model, lambda: weights, notes)


def model_fingerprint(model: Any, notes: Path | None = None) -> str:
    """The same fingerprint; the weights are read only if nobody remembers it.

    Raises:
        InputError: as `model_weights`.
    """
    _require_flux(model)
    return _fingerprint(model, lambda: _weights(model), notes)


def model_name(model: Any) -> str:
    """As it was made under, or of the one file that a stock loader remembers (newer ComfyUIs); empty if neither is known.

    Raises:
        InputError: as `model_weights`.
    """
    _require_flux(model)
    files = source_files(model)
    made_as = model.get_attachment(NAME) or (Path(files[0]).name if len(files) == 1 else "")
    return name_of(made_as, bool(model.patches), model.get_attachment(FORM) or "")


def hold_model(model: Any, form: str) -> Any:
    """A clone that `model_weights` reads in an 8-bit form; ComfyUI computes with it as before.

    Raises:
        InputError: no FLUX, or no such form.
    """
    _require_flux(model)
    clone = model.clone()
    clone.set_attachments(FORM, require_form(form))
    return clone


def _weights(model: Any) -> Mapping[str, Tensor]:
    _require_flux(model)
    weights = gathered({original_name(name): value for name, value in stored_of(read_weights(model, PREFIX, "MODEL")).items()})
    _require_text_to_image(weights)
    return _repacked(weights, model.get_attachment(PACKING) or {}, {name.removeprefix(PREFIX) for name in model.patches})


def _repacked(weights: Mapping[str, Tensor], packing: Mapping[str, tuple[torch.dtype, Tensor | None]], patched: set[str]) -> Mapping[str, Tensor]:
    """Weights that came from an 8-bit file in their 8 bits again, each when it is asked for."""

    def make(name: str) -> Stored:
        weight = weights[name]
        untouched = name in packing and name not in patched and weight.dtype == torch.bfloat16
        return held_again(weight, packing[name][0], _on(weight, packing[name][1])) if untouched else weight

    return HeldWeights(Made(weights, make), shapes_of(weights)) if packing else weights


def _on(weight: Tensor, scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale.to(weight.device)


def _in_form(model: Any, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    form = model.get_attachment(FORM)
    return held_on_request(weights, form) if form else weights


def _fingerprint(model: Any, read: Callable[[], Mapping[str, Tensor]], notes: Path | None) -> str:
    found, form = lasting_fingerprint(model, read, notes), model.get_attachment(FORM)
    return requested_fingerprint(found, form) if form else found


def _by_stock_loader(weights: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype})


def _with_sizes(sizes: dict[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """What the stock loader does, with sizes that it would not have found."""
    import comfy.model_detection
    import comfy.model_management as management
    import comfy.model_patcher

    tensors = dict(weights)
    device, offload_device = management.get_torch_device(), management.unet_offload_device()
    config = comfy.model_detection.model_config_from_unet_config(sizes, tensors)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    model = config.get_model(tensors, "").to(offload_device)
    model.load_model_weights(tensors, "")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload_device)


def _require_flux(model: Any) -> None:
    config = getattr(getattr(model, "model", None), "model_config", None)
    family = getattr(config, "unet_config", {}).get("image_model")
    if family != "flux":
        raise InputError(
            "MODEL", expected="a FLUX.1 transformer (dev, schnell or a fine-tune of them)",
            found=f"a model of the family {type(config).__name__}" if config is not None else type(model).__name__,
            remedy="Connect a FLUX.1 model, from Load Transformer (BF16), Load Diffusion Model or Nano FLUX.",
        )  # fmt: skip


def _require_text_to_image(weights: Mapping[str, Tensor]) -> None:
    """FLUX Fill and the control editions take further channels in than they give out."""
    channels = FluxConfig.from_shapes(shapes_of(weights), subject="MODEL").in_channels // 4
    if channels != LATENT_CHANNELS:
        raise InputError(
            "MODEL", expected=f"a FLUX.1 that sees {LATENT_CHANNELS} latent channels", found=f"{channels} (FLUX Fill, Canny or Depth)",
            remedy="Train on FLUX.1 dev or schnell.",
        )  # fmt: skip

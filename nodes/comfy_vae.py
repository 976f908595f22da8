"""VAE, as ComfyUI knows it, from an autoencoder of the engine, and pictures through either."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.files.fingerprint import fingerprint as hashed
from ..training.models.nano.autoencoder import DECODER, ENCODER, Autoencoder, Block, Conv, Half, convolutions
from .comfy_source import lasting_fingerprint
from .comfy_weights import patch_state, read_weights, remember_fingerprint
from .headless.modules import decode_pixels, encode_pixels
from .headless.values import Vae

STOCK_WIDTH = 64
"""Channels of every inner layer of the TAESD layout, which ComfyUI's class takes for granted."""

_ENGINE_PARTS: WeakKeyDictionary[Any, Vae] = WeakKeyDictionary()
"""The engine's autoencoder behind each module that was made from one: data sets are encoded by it, the same inside and outside ComfyUI."""


def make_vae(autoencoder: Autoencoder, fingerprint: str | None) -> Any:
    """A VAE whose module computes the same as the autoencoder."""
    import comfy.sd

    known = fingerprint or hashed(autoencoder.state_dict())
    vae = comfy.sd.VAE(sd=stock_weights(autoencoder))
    vae.throw_exception_if_invalid()
    _ENGINE_PARTS[vae.first_stage_model] = Vae(autoencoder, known)
    remember_fingerprint(vae.patcher, known)
    return vae


def vae_fingerprint(vae: Any, notes: Path | None = None) -> str:
    """Of its weights, patches applied."""
    return lasting_fingerprint(vae.patcher, lambda: read_weights(vae.patcher, "", "VAE"), notes)


def encode_images(vae: Any, pixels: Tensor, device: torch.device) -> Tensor:
    """Pictures [B,H,W,3] in 0..1 to raw latents [B,C,H/8,W/8], fp32 on the CPU."""
    own = _engine_part(vae)
    if own is None:
        return vae.encode(pixels[..., :3]).float().cpu()
    try:
        return encode_pixels(own, pixels, device)
    finally:
        own.autoencoder.to("cpu")


def decode_latents(vae: Any, latents: Tensor, device: torch.device) -> Tensor:
    """Raw latents [B,C,h,w] to pictures [B,8h,8w,3] in 0..1, fp32 on the CPU."""
    own = _engine_part(vae)
    if own is None:
        return vae.decode(latents).float().cpu()
    try:
        return decode_pixels(own, latents, device)
    finally:
        own.autoencoder.to("cpu")


def _engine_part(vae: Any) -> Vae | None:
    return _ENGINE_PARTS.get(vae.first_stage_model) if patch_state(vae.patcher) is None else None


def stock_weights(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """The autoencoder's tensors in the TAESD layout: narrow layers are widened by channels that are always zero, so the numbers stay."""
    scales = {"vae_scale": torch.tensor(autoencoder.scale), "vae_shift": torch.tensor(autoencoder.shift)}
    halves = {"taesd_encoder": (autoencoder.encoder, ENCODER), "taesd_decoder": (autoencoder.decoder, DECODER)}
    parts = [{f"{part}.{name}": tensor for name, tensor in _widened(half, layers).items()} for part, (half, layers) in halves.items()]
    return {**parts[0], **parts[1], **scales}


def _widened(half: Half, layers: tuple[Conv | Block, ...]) -> dict[str, Tensor]:
    names = convolutions(layers)
    widened = {}
    for name, tensor in half.named_tensors().items():
        convolution = name.rpartition(".")[0]
        outputs = 0 if convolution == names[-1] else STOCK_WIDTH - len(tensor)
        inputs = 0 if convolution == names[0] or tensor.ndim == 1 else STOCK_WIDTH - tensor.shape[1]
        assert outputs >= 0 and inputs >= 0, "wider than the layout"
        widened[name] = F.pad(tensor.detach(), (0, outputs) if tensor.ndim == 1 else (0, 0, 0, 0, 0, inputs, 0, outputs))
    return widened

"""The engine's modules at work for the headless nodes: placed on the device, in the precision that it computes in, in small batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...training.files.held import placed
from ...training.models.flux import Flux
from ...training.models.flux_controlnet import FluxControlNet, controlnet_from_weights
from ...training.weights import compute_dtype
from .values import Clip, ControlNet, Model, Vae

PICTURES_AT_ONCE = 32


def flux_module(model: Model, device: torch.device) -> Flux:
    """The transformer behind a MODEL, ready to run. Weights that are already there in that precision are shared, not copied."""
    return Flux.from_weights(_placed(model.weights, device)).eval()


def controlnet_module(control_net: ControlNet, device: torch.device) -> FluxControlNet:
    """The network behind a CONTROL_NET, ready to run."""
    return controlnet_from_weights(_placed(control_net.weights, device)).requires_grad_(False).eval()


def _placed(weights: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
    return placed(weights, device, compute_dtype("auto", device))


@torch.no_grad()
def encode_pixels(vae: Vae, pixels: Tensor, device: torch.device) -> Tensor:
    """Pictures [B,H,W,3] in 0..1, cropped at the centre to multiples of 8, to raw latents [B,C,H/8,W/8] in fp32 on the CPU."""
    pictures = cropped_to_eights(pixels[..., :3]).movedim(-1, 1)
    return _in_batches(vae.autoencoder, vae.autoencoder.encode, pictures, device)


@torch.no_grad()
def decode_pixels(vae: Vae, latents: Tensor, device: torch.device) -> Tensor:
    """Raw latents [B,C,h,w] to pictures [B,8h,8w,3] in 0..1, fp32, on the CPU."""
    return _in_batches(vae.autoencoder, vae.autoencoder.decode, latents, device).movedim(1, -1).clamp(0, 1)


@torch.no_grad()
def encode_captions(clip: Clip, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Captions to text tokens [B,L,context] and pooled text [B,vector], fp32, on the CPU."""
    tokens, pooled = clip.encoder.to(device).encode(list(texts))
    return tokens.float().cpu(), pooled.float().cpu()


def cropped_to_eights(pixels: Tensor) -> Tensor:
    """[B,H,W,C] without the edges that make a side no multiple of 8, taken off evenly."""
    height, width = (side // 8 * 8 for side in pixels.shape[1:3])
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _in_batches(module: nn.Module, function: Callable[[Tensor], Tensor], rows: Tensor, device: torch.device) -> Tensor:
    module.to(device)
    dtype = next(module.parameters()).dtype
    return torch.cat([function(part.to(device, dtype)).float().cpu() for part in rows.split(PICTURES_AT_ONCE)])

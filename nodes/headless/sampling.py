"""What KSampler does for a FLUX, step by step as ComfyUI does it; the schedule and the solver are the engine's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...training.flux_space import PIXELS_PER_LATENT
from ...training.models.flux import Flux, pack
from ...training.progress import Progress
from ...training.sample import (
    FLUX_SHIFT,
    LATENT_SCALE,
    LATENT_SHIFT,
    Control,
    Prompt,
    Velocity,
    euler,
    noised,
    simple_sigmas,
    velocity_field,
)
from .modules import controlnet_module, encode_pixels, flux_module
from .values import FLUX_GUIDANCE, AppliedControl, ControlNet, Model

Entry = list[Any]
"""One [tokens, extras] pair of a CONDITIONING."""


@torch.no_grad()
def sample_latents(
    model: Model,
    latents: Tensor,
    positive: list[Entry],
    negative: list[Entry],
    seed: int,
    steps: int,
    cfg: float,
    denoise: float,
    device: torch.device,
    progress: Progress,
) -> Tensor:
    """Raw latents [B,C,h,w] in fp32 on the CPU.

    Args:
        latents: raw, where sampling starts from; all zero means none.
        denoise: below 1 only the last part of a longer schedule is run; at 0 the latents come back as they are.

    Raises:
        InputError: the latents or the hint do not fit the transformer or the ControlNet.
    """
    sigmas = simple_sigmas(steps, FLUX_SHIFT, denoise)
    if len(sigmas) == 0:
        return latents
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    x = noised(_scaled(latents), noise, float(sigmas[0])).to(device)
    velocity = _guided(flux_module(model, device), positive, negative, cfg, x)
    return euler(velocity, x, sigmas, progress).cpu() / LATENT_SCALE + LATENT_SHIFT


def _scaled(latents: Tensor) -> Tensor:
    """To the transformer's range; empty latents stay empty, as in ComfyUI."""
    return (latents - LATENT_SHIFT) * LATENT_SCALE if latents.count_nonzero() else latents


def _guided(flux: Flux, positive: list[Entry], negative: list[Entry], cfg: float, x: Tensor) -> Velocity:
    """Classifier-free guidance; at cfg 1 the negative conditioning is not asked."""
    networks: Callable[[ControlNet], Any] = _Remembered(partial(controlnet_module, device=x.device))
    wanted = _mean_velocity(flux, positive, x, networks)
    if cfg == 1:
        return wanted
    unwanted = _mean_velocity(flux, negative, x, networks)
    return lambda x, t: torch.lerp(unwanted(x, t), wanted(x, t), cfg)


def _mean_velocity(flux: Flux, conditioning: list[Entry], x: Tensor, networks: Callable[[ControlNet], Any]) -> Velocity:
    """A conditioning of several entries acts by the mean of what each asks for."""
    parts = [_velocity(flux, tokens, extras, x, networks) for tokens, extras in conditioning]
    return parts[0] if len(parts) == 1 else lambda x, t: torch.stack([part(x, t) for part in parts]).mean(dim=0)


def _velocity(flux: Flux, tokens: Tensor, extras: dict[str, Any], x: Tensor, networks: Callable[[ControlNet], Any]) -> Velocity:
    prompt = Prompt(fitted_to_batch(tokens, len(x)), fitted_to_batch(extras["pooled_output"], len(x)))
    applied: AppliedControl | None = extras.get("control")
    control = None if applied is None else _control(applied, networks(applied.control_net), x)
    return velocity_field(flux, prompt, float(extras.get("guidance", FLUX_GUIDANCE)), FLUX_SHIFT, control)


def _control(applied: AppliedControl, network: Any, x: Tensor) -> Control:
    hint = hint_for(applied, x.shape[-2], x.shape[-1], x.device)
    return Control(network, fitted_to_batch(hint, len(x)), applied.strength, applied.start, applied.end)


def hint_for(applied: AppliedControl, height: int, width: int, device: torch.device) -> Tensor:
    """The hint at the size of latents of `height` x `width`, in the form that the ControlNet takes: pixels in -1..1, or packed tokens."""
    pixels = scaled_to_cover(applied.image[..., :3].movedim(-1, 1).float(), height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
    if applied.control_net.layout == "xlabs":
        return (2 * pixels - 1).to(device)
    assert applied.vae is not None, "ControlNetApplyAdvanced refuses a latent hint without a VAE"
    latents = encode_pixels(applied.vae, pixels.movedim(1, -1), device)
    return pack((latents - LATENT_SHIFT) * LATENT_SCALE).to(device)


def scaled_to_cover(pixels: Tensor, height: int, width: int) -> Tensor:
    """[B,C,H,W] cropped at the centre to the wanted proportions, then scaled to the nearest pixel centre, as ComfyUI does hints."""
    old_height, old_width = pixels.shape[-2:]
    left = round(max(0.0, old_width - old_height * width / height) / 2)
    top = round(max(0.0, old_height - old_width * height / width) / 2)
    cropped = pixels[..., top : old_height - top, left : old_width - left]
    return F.interpolate(cropped, size=(height, width), mode="nearest-exact")


def fitted_to_batch(rows: Tensor, count: int) -> Tensor:
    """As many rows as there are pictures: too many are cut, too few begin again from the first."""
    return rows.repeat(-(-count // len(rows)), *[1] * (rows.ndim - 1))[:count]


class _Remembered:
    """Builds each ControlNet once, though several conditionings carry it."""

    def __init__(self, build: Callable[[ControlNet], Any]) -> None:
        self._build, self._built = build, {}  # type: ignore[var-annotated]

    def __call__(self, control_net: ControlNet) -> Any:
        if id(control_net) not in self._built:
            self._built[id(control_net)] = self._build(control_net)
        return self._built[id(control_net)]

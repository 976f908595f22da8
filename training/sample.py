"""Pictures from a transformer, with or without what was trained: Euler over a shifted schedule of the flow time.

The schedule is the one that ComfyUI's KSampler follows with sampler `euler`, scheduler `simple` and its FLUX time shift, so a picture made
here and one made in the graph from the same noise agree. For a rectified flow the noise level sigma is the flow time t:
x_t = (1-t) x_0 + t noise.

Letters: B pictures, C latent channels, H and W the latent's sides, L text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from .errors import InputError
from .flux_space import FLUX_LATENT_SPACE, resolution_shift, shifted
from .models.flux import ControlResiduals, Flux, image_ids, pack, text_ids, unpack
from .progress import NO_PROGRESS, Progress

TABLE_STEPS = 10_000
FLUX_SHIFT = 1.15
LATENT_SHIFT, LATENT_SCALE = FLUX_LATENT_SPACE.shift, FLUX_LATENT_SPACE.scale

Velocity = Callable[[Tensor, float], Tensor]
"""(x [B, ...], flow time) -> noise - x_0, the shape of x."""


# ---------------------------------------------------------------- the schedule


def simple_sigmas(steps: int, shift: float = FLUX_SHIFT, denoise: float = 1.0) -> Tensor:
    """Flow times [steps + 1], falling to exactly 0: every (10000/steps)-th entry of a shifted table of 10000, in fp32.

    Args:
        denoise: below 1 the schedule of int(steps / denoise) steps is taken and only its last `steps` are kept: they start from a partly
            noised latent. At 0 there is nothing to do and the schedule is empty.

    Raises:
        InputError: steps below 1 or denoise outside 0..1.
    """
    _require_schedule(steps, denoise)
    if denoise == 0:
        return torch.empty(0)
    all_steps = steps if denoise > 0.9999 else int(steps / denoise)
    table = shifted(torch.arange(1, TABLE_STEPS + 1) / TABLE_STEPS, shift)
    stride = TABLE_STEPS / all_steps
    picked = [float(table[-(1 + int(step * stride))]) for step in range(all_steps)]
    return torch.tensor([*picked, 0.0])[-(steps + 1) :]


def _require_schedule(steps: int, denoise: float) -> None:
    if not 1 <= steps <= TABLE_STEPS:
        raise InputError("sampling steps", expected=f"1 to {TABLE_STEPS}", found=steps, remedy="20 is a good start.")
    if not 0 <= denoise <= 1:
        raise InputError("denoise", expected="a number from 0 to 1", found=denoise, remedy="Use 1 to start from pure noise.")
    if 0 < denoise <= 0.9999 and steps / denoise > TABLE_STEPS:
        raise InputError("denoise", expected=f"at most {TABLE_STEPS} steps in all", found=f"{steps} / {denoise}", remedy="Raise denoise.")


def percent_to_sigma(percent: float, shift: float = FLUX_SHIFT) -> float:
    """The flow time at which a share `percent` (0..1) of the unshifted schedule has passed: 1 at 0, 0 at 1."""
    if percent <= 0:
        return 1.0
    if percent >= 1:
        return 0.0
    return shifted(1 - percent, shift)


# ---------------------------------------------------------------- the solver


def noised(latents: Tensor, noise: Tensor, t: float) -> Tensor:
    """x_t = (1-t) x_0 + t noise: where sampling starts; with t = 1 it is the noise itself."""
    return t * noise + (1 - t) * latents


def euler(velocity: Velocity, x: Tensor, sigmas: Tensor, progress: Progress = NO_PROGRESS) -> Tensor:
    """Follows dx/dt = velocity(x, t) from sigmas[0] to sigmas[-1] with one Euler step between neighbours.

    Args:
        x: [B, ...] at flow time sigmas[0].
        sigmas: [N + 1], falling.
    """
    progress.start(max(0, len(sigmas) - 1), "step")
    try:
        return _integrate(velocity, x, sigmas, progress)
    finally:
        progress.finish()


def _integrate(velocity: Velocity, x: Tensor, sigmas: Tensor, progress: Progress, done: int = 0) -> Tensor:
    for step, (t, next_t) in enumerate(pairwise(sigmas.tolist())):
        progress.check_interrupt()
        x = x + (next_t - t) * velocity(x, t)
        progress.advance(done + step + 1)
    return x


# ---------------------------------------------------------------- pictures


def picture_noise(seeds: Sequence[int], channels: int, height: int, width: int) -> Tensor:
    """Gaussian noise [B, C, H, W] in fp32, each picture from a CPU generator of its own: it depends on its seed only, on no neighbour."""
    drawn = [torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)


@dataclass(frozen=True)
class Control:
    """A ControlNet as it is applied while sampling: where, how strongly and over which part of the schedule."""

    network: nn.Module
    """An engine ControlNet: forward(image, hint, image_ids, text, text_ids, t, pooled, guidance) -> ControlResiduals."""
    hint: Tensor
    """One hint per picture in the form that the network takes."""
    strength: float = 1.0
    start: float = 0.0
    """Share of the schedule (0..1) before which it is silent."""
    end: float = 1.0
    """Share of the schedule (0..1) after which it is silent."""

    def __post_init__(self) -> None:
        require_control(self.strength, self.start, self.end)

    def active(self, t: float, shift: float) -> bool:
        """Whether it acts at flow time t; compared in fp32, as ComfyUI does, so that a tie falls on the same side."""
        low, high = torch.tensor([percent_to_sigma(self.end, shift), percent_to_sigma(self.start, shift)]).tolist()
        return self.strength != 0 and low <= t <= high

    def part(self, rows: slice) -> Control:
        return replace(self, hint=self.hint[rows])


@dataclass(frozen=True)
class Prompt:
    """Encoded captions: text tokens [B, L, context] and pooled text [B, vector]."""

    text: Tensor
    pooled: Tensor

    def part(self, rows: slice) -> Prompt:
        return Prompt(self.text[rows], self.pooled[rows])


_Rows = TypeVar("_Rows", Control, Prompt)


@torch.no_grad()
def sample(
    model: Flux,
    text: Tensor,
    pooled: Tensor,
    noise: Tensor,
    *,
    steps: int = 20,
    shift: float | None = FLUX_SHIFT,
    guidance: float = 3.5,
    controlnet: nn.Module | None = None,
    hint: Tensor | None = None,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    cfg: float = 1.0,
    negative: tuple[Tensor, Tensor] | None = None,
    batch_size: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Tensor:
    """Raw latents [B, C, H, W] in fp32 on the CPU, ready for the autoencoder's decoder, from pure noise.

    Args:
        text, pooled: encoded captions [B, L, context] and [B, vector].
        noise: [B, C, H, W], see `picture_noise`.
        shift: the schedule's mu; None takes FLUX's mu for this many image tokens.
        guidance: the number that a guidance-distilled transformer embeds; ignored by one that embeds none.
        controlnet, hint: an engine ControlNet and one hint per picture in its own form (pixels in -1..1, or packed latent tokens).
        strength, start, end: the ControlNet's factor, and the shares of the schedule between which it acts.
        cfg: classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598); 1 is without, anything else needs `negative`.
        negative: text and pooled text of the negative prompt, [B, ...] or [1, ...].
        batch_size: pictures at a time; None takes all at once.

    Raises:
        InputError: impossible steps, start and end, strength; a ControlNet without hints; cfg without a negative prompt; unequal counts.
    """
    control = _control(controlnet, hint, strength, start, end)
    positive, opposite = Prompt(text, pooled), _negative(negative, cfg, len(noise))
    _require_counts(len(noise), text, pooled, hint if control else None)
    mu = resolution_shift(noise.shape[2] * noise.shape[3] // 4) if shift is None else shift
    sigmas = simple_sigmas(steps, mu)
    size = batch_size or len(noise)
    progress.start(math.ceil(len(noise) / size) * steps, "step")
    made = []
    try:
        for number, first in enumerate(range(0, len(noise), size)):
            rows = slice(first, first + size)
            velocity = velocity_field(model, positive.part(rows), guidance, mu, _part(control, rows), _part(opposite, rows), cfg)
            made.append(_integrate(velocity, noise[rows].float().to(_device(model)), sigmas, progress, number * steps).cpu())
    finally:
        progress.finish()
    return torch.cat(made) / LATENT_SCALE + LATENT_SHIFT


def velocity_field(
    model: Flux,
    prompt: Prompt,
    guidance: float,
    shift: float,
    control: Control | None = None,
    negative: Prompt | None = None,
    cfg: float = 1.0,
) -> Velocity:
    """The transformer as a velocity over scaled latents [B, C, H, W]; a ControlNet acts on both prompts, as it does in ComfyUI."""

    def velocity(x: Tensor, t: float) -> Tensor:
        active = control if control and control.active(t, shift) else None
        wanted = _predict(model, x, t, prompt, guidance, active)
        if negative is None or cfg == 1:
            return wanted
        unwanted = _predict(model, x, t, negative, guidance, active)
        return unwanted + cfg * (wanted - unwanted)

    return velocity


def _predict(model: Flux, x: Tensor, t: float, prompt: Prompt, guidance: float, control: Control | None) -> Tensor:
    height, width = x.shape[-2:]
    dtype, device = model.img_in.weight.dtype, x.device
    time = torch.full((len(x),), t, device=device)
    scale = torch.full((len(x),), guidance, device=device)
    ids, no_ids = image_ids(height, width, device), text_ids(prompt.text.shape[1], device)
    tokens = pack(x)
    residuals = None
    if control is not None:
        residuals = _residuals(control, tokens, ids, prompt, no_ids, time, scale, dtype)
    inputs = tokens.to(dtype), ids, prompt.text.to(device, dtype), no_ids, time, prompt.pooled.to(device, dtype), scale
    return unpack(model(*inputs, residuals).float(), height, width)


def _residuals(
    control: Control, tokens: Tensor, ids: Tensor, prompt: Prompt, no_ids: Tensor, time: Tensor, scale: Tensor, base_dtype: torch.dtype
) -> ControlResiduals:
    """The ControlNet may be held in another precision than its base: its residuals arrive in the base's."""
    device, dtype = tokens.device, next(control.network.parameters()).dtype
    hint, text, pooled = (tensor.to(device, dtype) for tensor in (control.hint, prompt.text, prompt.pooled))
    made = control.network(tokens.to(dtype), hint, ids, text, no_ids, time, pooled, scale).scaled(control.strength)
    return ControlResiduals(tuple(r.to(base_dtype) for r in made.double), tuple(r.to(base_dtype) for r in made.single), made.rule)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _part(whole: _Rows | None, rows: slice) -> _Rows | None:
    return None if whole is None else whole.part(rows)


# ---------------------------------------------------------------- what cannot be sampled


def require_control(strength: float, start: float, end: float) -> None:
    """Raises InputError if a ControlNet cannot be applied so strongly, or over this part of the schedule."""
    if not 0 <= start <= end <= 1:
        found = f"{start} and {end}"
        raise InputError("ControlNet start and end", expected="0 <= start <= end <= 1", found=found, remedy="Use 0 and 1 for all steps.")
    if not math.isfinite(strength):
        raise InputError("ControlNet strength", expected="a finite number", found=strength, remedy="1 is full strength.")


def _control(network: nn.Module | None, hint: Tensor | None, strength: float, start: float, end: float) -> Control | None:
    if network is None:
        return None
    if hint is None:
        raise InputError("ControlNet hint", expected="one per picture", found="none", remedy="Connect a hint, or leave the ControlNet out.")
    return Control(network, hint, strength, start, end)


def _negative(negative: tuple[Tensor, Tensor] | None, cfg: float, count: int) -> Prompt | None:
    if cfg == 1:
        return None
    if negative is None:
        raise InputError("cfg", expected="1 without a negative prompt", found=cfg, remedy="Give a negative prompt, or set cfg to 1.")
    text, pooled = (tensor.expand(count, *tensor.shape[1:]) if len(tensor) == 1 else tensor for tensor in negative)
    return Prompt(text, pooled)


def _require_counts(count: int, text: Tensor, pooled: Tensor, hint: Tensor | None) -> None:
    found = {"noise": count, "text": len(text), "pooled text": len(pooled)} | ({} if hint is None else {"hints": len(hint)})
    if len(set(found.values())) > 1 or count == 0:
        raise InputError(
            "pictures to sample", expected="one caption, noise and hint each", found=found, remedy="Give equally many of each."
        )

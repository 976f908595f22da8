"""What the benchmark measures: model and batch sizes, random weights of them, and one batch of random data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .data.batches import Batch
from .errors import InputError
from .flux_space import PIXELS_PER_LATENT
from .models.flux import Flux, FluxConfig, adopt
from .settings import Compute, ObjectiveSettings, OptimiserSettings, PrecisionSettings, Settings
from .trainable.controlnet import ControlNetRecipe

LATENT_CHANNELS = 16
IMAGE_TOKEN_PX = 16
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class BenchSize:
    """A transformer with a ControlNet of 2 double blocks in the XLabs layout, and a batch."""

    hidden_size: int
    double_depth: int
    single_depth: int
    context_width: int
    vector_width: int
    picture_px: int
    text_tokens: int
    batch: int
    compute: Compute
    head_dim: int = 128
    axes: tuple[int, ...] = (16, 56, 56)
    control_double_depth: int = 2
    control_single_depth: int = 0

    @property
    def image_tokens(self) -> int:
        return (self.picture_px // IMAGE_TOKEN_PX) ** 2

    @property
    def config(self) -> FluxConfig:
        return FluxConfig(
            hidden_size=self.hidden_size,
            head_dim=self.head_dim,
            double_depth=self.double_depth,
            single_depth=self.single_depth,
            in_channels=4 * LATENT_CHANNELS,
            context_width=self.context_width,
            vector_width=self.vector_width,
            mlp_width=4 * self.hidden_size,
            guidance=True,
            axes=self.axes,
        )

    @property
    def recipe(self) -> ControlNetRecipe:
        return ControlNetRecipe(layout="xlabs", double_depth=self.control_double_depth, single_depth=self.control_single_depth)

    def settings(self, checkpointing: bool) -> Settings:
        """What both steps are told: AdamW at 1e-5, clipping at 1, t logit-normal, guidance 3.5, no caption dropout."""
        return Settings(
            optimiser=OptimiserSettings(learning_rate=1e-5),
            objective=ObjectiveSettings(density="logit_normal", guidance=(3.5, 3.5)),
            precision=PrecisionSettings(compute=self.compute),
            batch_size=self.batch,
            checkpointing=checkpointing,
        )

    def facts(self) -> dict[str, Any]:
        return {**asdict(self), "axes": list(self.axes), "image_tokens": self.image_tokens}  # as they are read back from JSON


_NANO: dict[str, Any] = {"hidden_size": 256, "double_depth": 2, "single_depth": 4, "context_width": 128, "vector_width": 64, "compute": "fp32"}
_DEV: dict[str, Any] = {
    "hidden_size": 3072, "double_depth": 19, "single_depth": 38, "context_width": 4096, "vector_width": 768, "compute": "bf16",
    "text_tokens": 512, "batch": 1,
}  # fmt: skip

SIZES: dict[str, BenchSize] = {
    "mini": BenchSize(**_NANO, picture_px=128, text_tokens=16, batch=16),
    "mini-512px": BenchSize(**_NANO, picture_px=512, text_tokens=128, batch=1),
    "flux-512px": BenchSize(**_DEV, picture_px=512),
    "flux-1024px": BenchSize(**_DEV, picture_px=1024),
}
"""mini: the built-in nano FLUX; flux: FLUX.1-dev."""


def size_named(name: str, device: torch.device) -> tuple[str, BenchSize]:
    """A size by its name; "auto" is the mini size on a CPU and FLUX.1-dev at 512 px elsewhere.

    Raises:
        InputError: there is none of that name.
    """
    chosen = ("mini" if device.type == "cpu" else "flux-512px") if name == AUTO else name
    if chosen not in SIZES:
        raise InputError("bench size", expected=f"one of {', '.join((AUTO, *SIZES))}", found=name, remedy="Choose one of these.")
    return chosen, SIZES[chosen]


def random_flux(size: BenchSize, device: torch.device, seed: int = 0) -> Flux:
    """A frozen transformer of random weights, made on the device in the compute dtype, such that activations keep moderate sizes."""
    with torch.device("meta"):
        model = Flux(size.config)
    dtype = torch.bfloat16 if size.compute == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(seed)
    adopt(model, dict(_random_weights(model, dtype, device, generator)), "random transformer")
    return model.requires_grad_(False)


def _random_weights(model: Flux, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if name.endswith(".scale"):
            yield name, torch.ones(parameter.shape, dtype=dtype, device=device)
        elif parameter.ndim == 1:
            yield name, torch.zeros(parameter.shape, dtype=dtype, device=device)
        else:
            spread = 0.5 * parameter.shape[1] ** -0.5
            yield name, torch.empty(parameter.shape, dtype=dtype, device=device).normal_(0, spread, generator=generator)


def random_batch(size: BenchSize, seed: int = 0) -> Batch:
    """What both steps train on, again and again, on the CPU: reading data is no part of the comparison."""
    generator = torch.Generator().manual_seed(seed)
    side = size.picture_px // PIXELS_PER_LATENT
    edges = torch.rand(size.batch, 1, size.picture_px, size.picture_px, generator=generator) < 0.05
    return Batch(
        latents=torch.randn(size.batch, LATENT_CHANNELS, side, side, generator=generator),
        text=torch.randn(size.batch, size.text_tokens, size.context_width, generator=generator),
        pooled=torch.randn(size.batch, size.vector_width, generator=generator),
        hint=(2.0 * edges - 1).repeat(1, 3, 1, 1),
        empty_text=torch.zeros(size.text_tokens, size.context_width),
        empty_pooled=torch.zeros(size.vector_width),
        indices=tuple((row, 0) for row in range(size.batch)),
    )

"""The ControlNet step the usual way: diffusers' modules, stepped as its FLUX ControlNet training script does. For comparison only.

What the script spends beside the step itself is left out, in its favour: it encodes pictures and captions in every step, goes through
accelerate, and looks at each parameter's gradient for NaN. Precision as there: the frozen transformer in the compute dtype, the trained
network in fp32 under autocast.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxTransformer2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor, nn

from .files.controlnet_names import to_diffusers_names
from .files.names import flux_to_diffusers
from .models.flux import Flux, FluxConfig, image_ids, pack, text_ids
from .models.flux_controlnet import FluxControlNet
from .settings import OptimiserSettings
from .trainable.base import Conditions
from .trainable.controlnet_export import diffusers_config

CLIP_NORM = 1.0
GUIDANCE = 3.5
TRAIN_TIMES = 1000


class DiffusersStep:
    """Everything that the script keeps between two steps. Its frozen transformer shares the storage of `base`."""

    def __init__(self, base: Flux, network: FluxControlNet, settings: OptimiserSettings, compute: torch.dtype, checkpointing: bool) -> None:
        self.compute = compute
        self.transformer, self.network = transformer_of(base), controlnet_of(network).train()
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
            self.network.enable_gradient_checkpointing()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            eps=settings.eps,
        )
        self.rates = get_scheduler("constant", optimizer=self.optimiser)
        self.noise_schedule: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMES, shift=1.0)
        self.repeat = network.layout == "xlabs"

    def step(self, x_0: Tensor, conditions: Conditions) -> float:
        """One step on latents [B, C, H, W] and conditions on the CPU -> the loss, as the script logs it."""
        x_0, conditions = self._on_device(x_0, conditions)
        noise = torch.randn_like(x_0)
        density = compute_density_for_timestep_sampling("logit_normal", batch_size=len(x_0), logit_mean=0.0, logit_std=1.0)
        timesteps = self.noise_schedule.timesteps[(density * TRAIN_TIMES).long()].to(x_0.device)
        guidance = torch.full((len(x_0),), GUIDANCE, device=x_0.device, dtype=self.compute)
        loss = self.loss(x_0, conditions, noise, timesteps, guidance)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.optimiser.step()
        self.rates.step()
        self.optimiser.zero_grad()
        return loss.detach().item()

    def loss(self, x_0: Tensor, conditions: Conditions, noise: Tensor, timesteps: Tensor, guidance: Tensor) -> Tensor:
        """Mean squared error of the velocity; timesteps in 0..1000."""
        height, width = x_0.shape[-2:]
        sigmas = (timesteps / TRAIN_TIMES).to(x_0.dtype)[:, None, None]
        clean, noise = pack(x_0), pack(noise)
        shared: dict[str, Any] = {
            "hidden_states": (1.0 - sigmas) * clean + sigmas * noise,
            "timestep": timesteps / TRAIN_TIMES,
            "guidance": guidance if self.transformer.config.guidance_embeds else None,
            "pooled_projections": conditions.pooled,
            "encoder_hidden_states": conditions.text,
            "txt_ids": text_ids(conditions.text.shape[1], x_0.device).to(self.compute),
            "img_ids": image_ids(height, width, x_0.device).to(self.compute),
            "return_dict": False,
        }
        with self._autocast(x_0.device):
            double, single = self.network(controlnet_cond=conditions.hint, **shared)
        predicted = self.transformer(
            controlnet_block_samples=[sample.to(self.compute) for sample in double] if double else None,
            controlnet_single_block_samples=[sample.to(self.compute) for sample in single] if single else None,
            controlnet_blocks_repeat=self.repeat,
            **shared,
        )[0]
        return F.mse_loss(predicted.float(), (noise - clean).float())

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        return nullcontext() if self.compute == torch.float32 else torch.autocast(device.type, self.compute)

    def _on_device(self, x_0: Tensor, conditions: Conditions) -> tuple[Tensor, Conditions]:
        place = {"device": self.transformer.device, "dtype": self.compute}
        hint = None if conditions.hint is None else conditions.hint.to(**place)
        return x_0.to(**place), Conditions(conditions.text.to(**place), conditions.pooled.to(**place), hint)


def transformer_of(base: Flux) -> Any:
    """diffusers' FluxTransformer2DModel over the same tensors (split ones are views), frozen."""
    with torch.device("meta"), _without_future_warnings():
        model: Any = FluxTransformer2DModel(**_shared_sizes(base.config))
    model.load_state_dict(flux_to_diffusers(base.state_dict()), assign=True)
    return model.requires_grad_(False)


def controlnet_of(network: FluxControlNet) -> Any:
    """diffusers' FluxControlNetModel with copies of the same weights, all of them trained, as the script does."""
    config = {name: value for name, value in diffusers_config(network.config, network.layout).items() if not name.startswith("_")}
    with torch.device("meta"), _without_future_warnings():
        model: Any = FluxControlNetModel(**config)
    weights = to_diffusers_names(network.state_dict(), network.layout)
    model.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()}, assign=True)
    return model.requires_grad_(True)


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """diffusers warns of parts of its own that it will move; who runs a benchmark can do nothing about that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _shared_sizes(config: FluxConfig) -> dict[str, Any]:
    return {
        "in_channels": config.in_channels,
        "num_layers": config.double_depth,
        "num_single_layers": config.single_depth,
        "attention_head_dim": config.head_dim,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.context_width,
        "pooled_projection_dim": config.vector_width,
        "guidance_embeds": config.guidance,
        "axes_dims_rope": config.axes,
    }

"""Small random FLUX transformers, the inputs for them, and diffusers' models that hold the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from graft.training.files.controlnet_names import to_diffusers_names
from graft.training.files.names import flux_to_diffusers
from graft.training.models.flux import Flux, FluxConfig, image_ids, text_ids
from graft.training.models.flux_controlnet import FluxControlNet

HEIGHT, WIDTH, TEXT, BATCH = 8, 12, 5, 2


@pytest.fixture
def small_config() -> Callable[..., FluxConfig]:
    """Two heads of 32; every number differs from the others where it can, so that a mix-up shows."""

    def make(**changes) -> FluxConfig:
        sizes = {
            "hidden_size": 64, "head_dim": 32, "double_depth": 3, "single_depth": 4, "in_channels": 64, "context_width": 24,
            "vector_width": 20, "mlp_width": 256, "guidance": True, "axes": (8, 12, 12),
        }  # fmt: skip
        return FluxConfig(**{**sizes, **changes})

    return make


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Every parameter of a size that keeps the numbers moderate and none zero: biases and norm scales too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.2 * noise + (1.0 if name.endswith("scale") else 0.0))
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


@pytest.fixture(name="randomise")
def _randomise() -> Callable[[torch.nn.Module, int], None]:
    return randomise


@pytest.fixture
def random_flux(small_config: Callable[..., FluxConfig]) -> Callable[..., Flux]:
    def make(**changes) -> Flux:
        model = Flux(small_config(**changes))
        randomise(model, 1)
        return model

    return make


@pytest.fixture
def inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """The arguments of Flux.forward: a batch of two pictures with different t and guidance."""

    def make(config: FluxConfig) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(2)
        return {
            "image": torch.randn(BATCH, HEIGHT * WIDTH // 4, config.in_channels, generator=generator),
            "image_ids": image_ids(HEIGHT, WIDTH),
            "text": torch.randn(BATCH, TEXT, config.context_width, generator=generator),
            "text_ids": text_ids(TEXT),
            "t": torch.tensor([0.31, 0.87]),
            "pooled": torch.randn(BATCH, config.vector_width, generator=generator),
            "guidance": torch.tensor([3.5, 1.0]),
        }

    return make


@pytest.fixture
def hint() -> Callable[[FluxControlNet], torch.Tensor]:
    """A hint for `inputs`: pixels or packed latents, whichever the network takes."""

    def make(module: FluxControlNet) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        if module.layout == "xlabs":
            return 2 * torch.rand(BATCH, 3, 8 * HEIGHT, 8 * WIDTH, generator=generator) - 1
        return torch.randn(BATCH, HEIGHT * WIDTH // 4, module.config.in_channels, generator=generator)

    return make


def _sizes(config: FluxConfig) -> dict:
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


@pytest.fixture
def diffusers_flux() -> Callable[[Flux], FluxTransformer2DModel]:
    def make(model: Flux) -> FluxTransformer2DModel:
        reference = FluxTransformer2DModel(**_sizes(model.config))
        reference.load_state_dict({name: tensor.clone() for name, tensor in flux_to_diffusers(model.state_dict()).items()})
        return reference

    return make


@pytest.fixture
def diffusers_controlnet() -> Callable[[FluxControlNet], FluxControlNetModel]:
    def make(module: FluxControlNet) -> FluxControlNetModel:
        of_layout = {"conditioning_embedding_channels": 16, "patch_size": 2} if module.layout == "xlabs" else {}
        reference = FluxControlNetModel(**_sizes(module.config), **of_layout)
        reference.load_state_dict({n: x.clone() for n, x in to_diffusers_names(module.state_dict(), module.layout).items()})
        return reference

    return make


@pytest.fixture
def diffusers_inputs() -> Callable[..., dict[str, torch.Tensor | None]]:
    """The same inputs under diffusers' names (t in 0..1 and a plain guidance: both are scaled inside)."""

    def make(inputs: dict[str, torch.Tensor], config: FluxConfig) -> dict[str, torch.Tensor | None]:
        return {
            "hidden_states": inputs["image"],
            "encoder_hidden_states": inputs["text"],
            "pooled_projections": inputs["pooled"],
            "timestep": inputs["t"],
            "guidance": inputs["guidance"] if config.guidance else None,
            "img_ids": inputs["image_ids"],
            "txt_ids": inputs["text_ids"],
        }

    return make


@pytest.fixture
def assert_close() -> Callable[[dict, dict], None]:
    """Two sets of tensors are the same within 1e-5 of each tensor's largest value."""

    def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
        assert found.keys() == expected.keys()
        errors = {n: ((found[n] - expected[n]).abs().max() / expected[n].abs().max().clamp(min=1e-12)).item() for n in expected}
        assert not {name: error for name, error in errors.items() if not error < 1e-5}

    return check


@pytest.fixture
def gradients() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """Every parameter's gradient; zeros where the graph does not reach it."""

    def collect(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}

    return collect

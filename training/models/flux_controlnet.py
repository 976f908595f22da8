"""The two ControlNets for FLUX as plain modules: XLabs (pixel hint) and InstantX (latent hint), and how one is made from its base.

Both run copies of the base's first blocks on the image tokens plus an embedding of the hint; a linear layer after each block, zero at the
start, makes the residuals (Zhang et al. 2023, arXiv:2302.05543). They differ in how the hint comes in and in where the residuals enter
(control_residuals.py), so a network trained as one cannot be saved as the other. Names are those of XLabs' checkpoints; InstantX networks
use the same names for their blocks here and are renamed for the file (files/controlnet_names.py).

Letters: B pictures, S image tokens, L text tokens, D hidden width, C latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files.controlnet_names import LAYOUT_TITLES, Layout, from_any_names
from .control_residuals import RULES, ControlResiduals, compatibility_notes, require_depths, require_layout
from .flux import DoubleBlock, Flux, FluxConfig, FluxEmbedders, SingleBlock, adopt, pack, rotary_table
from .held_linear import weights_of

HINT_WIDTH = 16
HINT_CHANNELS = 3
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)
HINT_SHRINK = math.prod(HINT_STRIDES)
PATCH_AREA = 4
HINT_BLOCK = "input_hint_block."
# 1 / root of the mean square of silu(x) for normal x.
SILU_GAIN = 1.676


class FluxControlNet(FluxEmbedders):
    """What both layouts share. `controlnet_blocks.i` and `controlnet_single_blocks.i` make the residuals."""

    layout: ClassVar[Layout]
    zero_at_start: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the parameters that are zero in a fresh network, so that it leaves its base's output as it is."""
    notes: tuple[str, ...] = ()
    """Where other programs would apply this network to its base in another way: plain sentences (control_residuals.compatibility_notes)."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.double_depth))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_depth))
        self.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.double_depth))
        self.controlnet_single_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.single_depth))

    def embed_hint(self, hint: Tensor) -> Tensor:
        """The hint as it is added to the embedded image tokens: [B, S, D]."""
        raise NotImplementedError

    def forward(
        self,
        image: Tensor,
        hint: Tensor,
        image_ids: Tensor,
        text: Tensor,
        text_ids: Tensor,
        t: Tensor,
        pooled: Tensor,
        guidance: Tensor | None = None,
    ) -> ControlResiduals:
        """Residuals for the base at flow time t.

        image [B, S, 4C] packed tokens of x_t; hint: pixels [B, 3, H, W] in [-1, 1] (XLabs), or latents [B, C, H, W] or packed [B, S, 4C] (InstantX);
        image_ids [S, 3]; text [B, L, context]; text_ids [L, 3]; t [B] in 0..1; pooled [B, vector]; guidance [B] (3.5 means 3.5).

        Raises:
            InputError: the hint's size does not fit the picture's.
        """
        table = rotary_table(torch.cat([text_ids, image_ids]), self.config.axes)
        activated = self.conditioning(t, pooled, guidance)
        image, text = self.img_in(image) + self._fitting(self.embed_hint(hint), image), self.txt_in(text)
        double, single = [], []
        for block, output in zip(self.double_blocks, self.controlnet_blocks, strict=True):
            image, text = self.run_block(block, image, text, activated, table)
            double.append(output(image))
        length = text.shape[1]
        x = torch.cat([text, image], dim=1) if self.single_blocks else image
        for block, output in zip(self.single_blocks, self.controlnet_single_blocks, strict=True):
            x = self.run_block(block, x, activated, table)
            single.append(output(x[:, length:].contiguous()))
        return ControlResiduals(tuple(double), tuple(single), RULES[self.layout])

    def _fitting(self, embedded: Tensor, image: Tensor) -> Tensor:
        if embedded.shape[1] != image.shape[1]:
            raise InputError(
                "hint", expected=f"the picture's size ({image.shape[1]} tokens)", found=f"{embedded.shape[1]} tokens",
                remedy="Give a hint of the size of the pictures.",
            )  # fmt: skip
        return embedded


class XLabsControlNet(FluxControlNet):
    """The hint is a picture; convolutions that are trained with the network bring it to the latent's size (1/8)."""

    layout = "xlabs"
    zero_at_start = ("controlnet_blocks.", "controlnet_single_blocks.", f"{HINT_BLOCK}{2 * len(HINT_STRIDES) - 2}.")

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(config)
        self.input_hint_block = _hint_convolutions()
        self.pos_embed_input = nn.Linear(PATCH_AREA * HINT_WIDTH, config.hidden_size)

    def embed_hint(self, hint: Tensor) -> Tensor:
        if any(side % (2 * HINT_SHRINK) for side in hint.shape[-2:]):
            raise InputError(
                "hint", expected=f"sides that are multiples of {2 * HINT_SHRINK} pixels", found=f"{hint.shape[-1]} x {hint.shape[-2]}",
                remedy="Resize or crop the hint.",
            )  # fmt: skip
        # Channels last: convolutions of so few channels run about twice as fast that way, and they are a third of a small model's step.
        pixels = hint.to(self.pos_embed_input.weight.dtype).contiguous(memory_format=torch.channels_last)
        return self.pos_embed_input(pack(self.input_hint_block(pixels).contiguous()))


class InstantXControlNet(FluxControlNet):
    """The hint is a picture's latent, packed like the image; one linear layer embeds it."""

    layout = "instantx"
    zero_at_start = ("controlnet_blocks.", "controlnet_single_blocks.", "controlnet_x_embedder.")

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(config)
        self.controlnet_x_embedder = nn.Linear(config.in_channels, config.hidden_size)

    def embed_hint(self, hint: Tensor) -> Tensor:
        tokens = pack(hint) if hint.ndim == 4 else hint
        return self.controlnet_x_embedder(tokens.to(self.controlnet_x_embedder.weight.dtype))


CONTROLNETS: dict[str, type[FluxControlNet]] = {"xlabs": XLabsControlNet, "instantx": InstantXControlNet}


def _hint_convolutions() -> nn.Sequential:
    """XLabs' hint encoder: eight 3x3 convolutions of 16 channels with SiLU between them; the third, fifth and seventh halve the size."""
    layers: list[nn.Module] = []
    for index, stride in enumerate(HINT_STRIDES):
        layers += [nn.Conv2d(HINT_WIDTH if index else HINT_CHANNELS, HINT_WIDTH, 3, stride=stride, padding=1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


# ---------------------------------------------------------------- from a base, from a file


@torch.inference_mode(False)
def build_controlnet(base: Flux, layout: str, double_depth: int, single_depth: int, seed: int) -> FluxControlNet:
    """A fresh ControlNet for `base`: its first blocks and its embedders as fp32 copies, outputs zero, new hint layers random from `seed`.

    Its `notes` say where other programs would apply it to this base in another way.

    Raises:
        InputError: there is no such layout, this base cannot have it, or a block would never be used.
    """
    kind = CONTROLNETS[require_layout(layout)]
    require_depths(kind.layout, double_depth, single_depth, base.config.double_depth, base.config.single_depth)
    _require_hint_width(kind, base.config)
    config = replace(base.config, double_depth=double_depth, single_depth=single_depth)
    with torch.device("meta"):
        module = kind(config)
    adopt(module, _initial_weights(module, weights_of(base), seed), "ControlNet")
    module.notes = notes_for(module, base)
    return module


def notes_for(module: FluxControlNet, base: Flux) -> tuple[str, ...]:
    """Where other programs would apply `module` to `base` in another way than this one, in plain sentences."""
    own, theirs = module.config, base.config
    return compatibility_notes(module.layout, own.double_depth, own.single_depth, theirs.double_depth, theirs.single_depth)


def controlnet_from_weights(weights: Mapping[str, Tensor], axes: tuple[int, ...] | None = None) -> FluxControlNet:
    """A ControlNet that holds these tensors, frozen; names of XLabs, of diffusers, or this module's own.

    Raises:
        InputError: another kind of network, or tensors are missing, unexpected or of a wrong shape: all are named.
    """
    layout, own_names = from_any_names(weights)
    subject = f"{LAYOUT_TITLES[layout]} ControlNet weights"
    config = FluxConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in own_names.items()}, axes, subject)
    with torch.device("meta"):
        module = CONTROLNETS[layout](config)
    adopt(module, own_names, subject)
    return module.requires_grad_(False)


def _initial_weights(module: FluxControlNet, base: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    device = base["img_in.weight"].device
    weights = {}
    for name, shape in shapes.items():
        if name in base:
            weights[name] = base[name].detach().to(torch.float32, copy=True)
        elif name.startswith(module.zero_at_start):
            weights[name] = torch.zeros(shape, device=device)
        else:
            fan_in = math.prod(shapes[name.rpartition(".")[0] + ".weight"][1:])
            weights[name] = _random_layer(name, shape, fan_in, generator).to(device)
    return weights


def _random_layer(name: str, shape: torch.Size, fan_in: int, generator: torch.Generator) -> Tensor:
    """First values of a new layer, drawn on the CPU: the same on every device.

    Linear layers have torch's own. The hint's convolutions keep the size of what passes through them (He et al. 2015, arXiv:1502.01852, with the
    gain of SiLU): with torch's own, eight layers on end shrink a hint to a hundredth, and the network takes long to see it at all.
    """
    convolution = len(shape) == 4
    if name.endswith("bias") and name.startswith(HINT_BLOCK):
        return torch.zeros(shape)
    bound = SILU_GAIN * math.sqrt(3 / fan_in) if convolution else 1 / math.sqrt(fan_in)
    return (2 * torch.rand(shape, generator=generator) - 1) * bound


def _require_hint_width(kind: type[FluxControlNet], config: FluxConfig) -> None:
    if kind.layout == "xlabs" and config.in_channels != PATCH_AREA * HINT_WIDTH:
        raise InputError(
            "ControlNet layout", expected=f"a base with {HINT_WIDTH} latent channels for the XLabs layout",
            found=f"one with {config.in_channels // PATCH_AREA}", remedy="Choose the InstantX layout for this base.",
        )  # fmt: skip

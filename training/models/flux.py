"""The FLUX.1 transformer as a plain module, with the names of the original checkpoints (Black Forest Labs).

Double-stream blocks hold image and text tokens apart and join them in attention; single-stream blocks run over both together, text first.
Everything is a rectified flow (Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206): x_t = (1-t) x_0 + t noise, and the
output is the velocity noise - x_0. Every size is read from the weights.

Letters: B pictures, S image tokens, L text tokens, D hidden width, C latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from ..files.held import shapes_of, stored_of
from ..normal import normal
from .control_residuals import ControlResiduals
from .heads import Stream, attend
from .held_linear import hold

ROPE_THETA = 10_000
TIME_FACTOR = 1000.0
TIME_WIDTH = 256
PATCH = 2
FLUX_AXES = (16, 56, 56)


@dataclass(frozen=True, kw_only=True)
class FluxConfig:
    """The sizes of one FLUX transformer (or of a ControlNet made from it)."""

    hidden_size: int
    head_dim: int
    double_depth: int
    single_depth: int
    in_channels: int
    """Width of an image token: 4 C for latents of C channels in patches of 2x2."""
    context_width: int
    vector_width: int
    mlp_width: int
    guidance: bool
    """Whether the guidance scale is embedded (dev) or not (schnell)."""
    axes: tuple[int, ...] = FLUX_AXES
    """Widths of the rotary embedding's axes (index, row, column); they sum to head_dim."""

    @property
    def heads(self) -> int:
        return self.hidden_size // self.head_dim

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], axes: tuple[int, ...] | None = None, subject: str = "transformer weights"
    ) -> FluxConfig:
        """Reads every size from the shapes of a checkpoint in original names.

        Raises:
            InputError: when a tensor that names a size is missing, or the head width needs `axes` to be given; it names `subject`.
        """
        hidden_size, in_channels = _shape(shapes, "img_in.weight", 2, subject)
        (head_dim,) = _shape(shapes, "double_blocks.0.img_attn.norm.query_norm.scale", 1, subject)
        _require_heads(hidden_size, head_dim, axes or FLUX_AXES, subject)
        return cls(
            hidden_size=hidden_size,
            head_dim=head_dim,
            double_depth=_depth(shapes, "double_blocks."),
            single_depth=_depth(shapes, "single_blocks."),
            in_channels=in_channels,
            context_width=_shape(shapes, "txt_in.weight", 2, subject)[1],
            vector_width=_shape(shapes, "vector_in.in_layer.weight", 2, subject)[1],
            mlp_width=_shape(shapes, "double_blocks.0.img_mlp.0.weight", 2, subject)[0],
            guidance="guidance_in.in_layer.weight" in shapes,
            axes=axes or FLUX_AXES,
        )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, rank: int, subject: str) -> tuple[int, ...]:
    found = tuple(shapes.get(name, ()))
    if len(found) != rank:
        raise InputError(
            subject, expected=f"'{name}' with {rank} dimension{'s' if rank > 1 else ''}, as FLUX has it",
            found=f"the shape {found}" if name in shapes else "no such tensor", remedy="Choose a FLUX file.",
        )  # fmt: skip
    return found


def _require_heads(hidden_size: int, head_dim: int, axes: tuple[int, ...], subject: str) -> None:
    if head_dim != sum(axes):
        found = f"heads of width {head_dim}"
        raise InputError(subject, expected=f"heads of width {sum(axes)}", found=found, remedy="Give the rotary axes explicitly.")
    if hidden_size % head_dim:
        found = f"width {hidden_size} with heads of width {head_dim}"
        raise InputError(subject, expected="a hidden width of whole heads", found=found, remedy="Choose a FLUX file.")


def _depth(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """The number of different block numbers: a gap in the numbering then shows as missing and unexpected tensors."""
    return len({number for name in shapes if name.startswith(prefix) and (number := name[len(prefix) :].split(".", 1)[0]).isdecimal()})


# ---------------------------------------------------------------- tokens and positions


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, H, W] -> image tokens [B, (H/2)(W/2), 4C], row by row; a token holds c, then row, then column of its 2x2 patch."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // PATCH) * (width // PATCH), channels * PATCH * PATCH)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Image tokens [B, (H/2)(W/2), 4C] -> latents [B, C, H, W]; the inverse of `pack`."""
    batch, _, token_width = tokens.shape
    channels = token_width // (PATCH * PATCH)
    patches = tokens.view(batch, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def image_ids(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions [S, 3] of the tokens of a latent of H x W: (0, row, column)."""
    ids = torch.zeros(height // PATCH, width // PATCH, 3, device=device)
    ids[..., 1] = torch.arange(height // PATCH, device=device)[:, None]
    ids[..., 2] = torch.arange(width // PATCH, device=device)[None, :]
    return ids.reshape(-1, 3)


def text_ids(length: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions [L, 3] of text tokens: FLUX gives them none, all are (0, 0, 0)."""
    return torch.zeros(length, 3, device=device)


def rotary_table(ids: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of positions [S, A]: unit complex numbers [S, head_dim/2]."""
    angles = []
    for axis, width in enumerate(axes):
        exponent = torch.arange(0, width, 2, dtype=torch.float64, device=_float64_device(ids)) / width
        angles.append(ids[:, axis].to(exponent)[:, None] * ROPE_THETA**-exponent)
    angle = torch.cat(angles, dim=-1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(ids.device)


def _float64_device(ids: Tensor) -> torch.device:
    """Apple's MPS has no float64: the small table is computed on the CPU there."""
    return ids.device if ids.device.type in ("cpu", "cuda") else torch.device("cpu")


def sinusoid(value: Tensor, width: int = TIME_WIDTH) -> Tensor:
    """Sinusoidal embedding [B, width] of a scalar per picture (flow time in 0..1 or guidance scale), cosines first."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=value.device) / half)
    angle = TIME_FACTOR * value.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


# ---------------------------------------------------------------- layers


class QueryKeyScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))


class QueryKeyNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = QueryKeyScale(width), QueryKeyScale(width)

    def stream(self, qkv: Tensor) -> Stream:
        """Fused projections [B, S, 3D] with the scales of their norms, for `attend`."""
        return qkv, self.query_norm.scale, self.key_norm.scale


class MLPEmbedder(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(in_width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x.to(self.in_layer.weight.dtype))))


class Modulation(nn.Module):
    """Shift, scale and gate (adaLN-Zero; Peebles & Xie 2022, arXiv:2212.09748) for each of `sets` places, from the conditioning vector."""

    def __init__(self, width: int, sets: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width, 3 * sets * width)
        self.sets = sets

    def forward(self, activated: Tensor) -> tuple[Tensor, ...]:
        return self.lin(activated)[:, None, :].chunk(3 * self.sets, dim=-1)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=1e-6), 1 + scale)


def _mlp(width: int, mlp_width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(approximate="tanh"), nn.Linear(mlp_width, width))


class SelfAttention(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.norm = QueryKeyNorm(config.head_dim)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def projections(self, x: Tensor) -> Stream:
        return self.norm.stream(self.qkv(x))


class DoubleBlock(nn.Module):
    """Image and text tokens with weights of their own, joined in one attention."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(config.hidden_size, 2), Modulation(config.hidden_size, 2)
        self.img_attn, self.txt_attn = SelfAttention(config), SelfAttention(config)
        self.img_mlp, self.txt_mlp = _mlp(config.hidden_size, config.mlp_width), _mlp(config.hidden_size, config.mlp_width)

    def forward(self, image: Tensor, text: Tensor, activated: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """image [B,S,D], text [B,L,D], activated = silu(vector) [B,D], table [L+S, head_dim/2] -> the same two shapes."""
        i_shift, i_scale, i_gate, i_mlp_shift, i_mlp_scale, i_mlp_gate = self.img_mod(activated)
        t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = self.txt_mod(activated)
        of_image = self.img_attn.projections(modulated_norm(image, i_shift, i_scale))
        of_text = self.txt_attn.projections(modulated_norm(text, t_shift, t_scale))
        mixed = attend(table, of_text, of_image)
        text_mixed, image_mixed = mixed.split([text.shape[1], image.shape[1]], dim=1)
        image = torch.addcmul(image, i_gate, self.img_attn.proj(image_mixed.contiguous()))
        image = torch.addcmul(image, i_mlp_gate, self.img_mlp(modulated_norm(image, i_mlp_shift, i_mlp_scale)))
        text = torch.addcmul(text, t_gate, self.txt_attn.proj(text_mixed.contiguous()))
        text = torch.addcmul(text, t_mlp_gate, self.txt_mlp(modulated_norm(text, t_mlp_shift, t_mlp_scale)))
        return image, text


class SingleBlock(nn.Module):
    """Attention and MLP in parallel over text and image tokens together, with two fused linears."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.split = (3 * width, config.mlp_width)
        self.modulation = Modulation(width, 1)
        self.linear1 = nn.Linear(width, 3 * width + config.mlp_width)
        self.linear2 = nn.Linear(width + config.mlp_width, width)
        self.norm = QueryKeyNorm(config.head_dim)

    def forward(self, x: Tensor, activated: Tensor, table: Tensor) -> Tensor:
        """x [B, L+S, D] -> the same shape."""
        shift, scale, gate = self.modulation(activated)
        qkv, mlp = self.linear1(modulated_norm(x, shift, scale)).split(self.split, dim=-1)
        mixed = attend(table, self.norm.stream(qkv))
        return torch.addcmul(x, gate, self.linear2(torch.cat([mixed, F.gelu(mlp, approximate="tanh")], dim=-1)))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](activated)[:, None, :].chunk(2, dim=-1)
        return self.linear(modulated_norm(x, shift, scale))


# ---------------------------------------------------------------- the transformer


class FluxEmbedders(nn.Module):
    """What a FLUX transformer and its ControlNets share: the inputs' embedders and the block runner."""

    checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping what it needs (Chen et al. 2016, arXiv:1604.06174)."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.img_in, self.txt_in = nn.Linear(config.in_channels, width), nn.Linear(config.context_width, width)
        self.time_in, self.vector_in = MLPEmbedder(TIME_WIDTH, width), MLPEmbedder(config.vector_width, width)
        if config.guidance:
            self.guidance_in = MLPEmbedder(TIME_WIDTH, width)

    def conditioning(self, t: Tensor, pooled: Tensor, guidance: Tensor | None) -> Tensor:
        """silu of the conditioning vector [B, D]: flow time t [B], pooled text [B, vector], guidance [B] for models that embed it."""
        vector = self.time_in(sinusoid(t)) + self.vector_in(pooled)
        if self.config.guidance:
            if guidance is None:
                raise ValueError("this transformer embeds guidance: give one number per picture")
            vector = vector + self.guidance_in(sinusoid(guidance))
        return F.silu(vector)

    def run_block(self, block: Callable, *inputs: Tensor):
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class Flux(FluxEmbedders):
    """The whole transformer. Parameter names are those of the original FLUX.1 checkpoints."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(config)
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.double_depth))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_depth))
        self.final_layer = FinalLayer(config.hidden_size, config.in_channels)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], axes: tuple[int, ...] | None = None) -> Flux:
        """A transformer that holds these very tensors (storage is shared, nothing is copied), frozen.

        Raises:
            InputError: naming every missing and unexpected tensor and every wrong shape.
        """
        config = FluxConfig.from_shapes(shapes_of(weights), axes)
        with torch.device("meta"):
            model = cls(config)
        adopt(model, weights, "transformer weights")
        return model.requires_grad_(False)

    def forward(
        self,
        image: Tensor,
        image_ids: Tensor,
        text: Tensor,
        text_ids: Tensor,
        t: Tensor,
        pooled: Tensor,
        guidance: Tensor | None = None,
        control: ControlResiduals | None = None,
    ) -> Tensor:
        """The velocity noise - x_0 [B, S, 4C] at flow time t.

        image [B, S, 4C] packed tokens of x_t; image_ids [S, 3]; text [B, L, context]; text_ids [L, 3]; t [B] in 0..1; pooled [B, vector];
        guidance [B] (3.5 means 3.5); control: residuals of a ControlNet, already scaled by its strength.
        """
        table = rotary_table(torch.cat([text_ids, image_ids]), self.config.axes)
        activated = self.conditioning(t, pooled, guidance)
        image, text = self.img_in(image), self.txt_in(text)
        for index, block in enumerate(self.double_blocks):
            image, text = self.run_block(block, image, text, activated, table)
            residual = control.after(control.double, index, self.config.double_depth) if control else None
            image = image if residual is None else image + residual
        length = text.shape[1]
        x = torch.cat([text, image], dim=1)
        for index, block in enumerate(self.single_blocks):
            x = self.run_block(block, x, activated, table)
            residual = control.after(control.single, index, self.config.single_depth) if control else None
            x = x if residual is None else x + F.pad(residual, (0, 0, length, 0))
        return self.final_layer(x[:, length:], activated)


def adopt(model: nn.Module, weights: Mapping[str, Tensor], subject: str) -> None:
    """Puts `weights` into `model` without copying; the model may have been built on the meta device. Weights that are held in 8 bits stay so.

    Raises:
        InputError: naming every missing and unexpected tensor and every wrong shape.
    """
    wanted, found = shapes_of(model.state_dict()), shapes_of(weights)
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    problems += [f"{name} is {found[name]} instead of {shape}" for name, shape in wanted.items() if name in found and found[name] != shape]
    if problems:
        raise InputError(
            subject, expected=f"exactly the {len(wanted)} tensors of this architecture", found="; ".join(problems),
            remedy="Choose a matching file.",
        )  # fmt: skip
    stored = dict(stored_of(weights))
    hold(model, stored)
    model.load_state_dict({name: normal(value) for name, value in stored.items() if isinstance(value, Tensor)}, assign=True)

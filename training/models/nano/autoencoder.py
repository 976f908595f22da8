"""The nano's autoencoder, in the layout of TAESD (github.com/madebyollin/taesd) with 16 latent channels.

Layers are numbered as in that layout, widths are read from the weights. The stock layout fixes 64 channels everywhere; ours needs fewer, so the file
is padded with channels that are always zero, and `without_dead_channels` takes them out again when it is read: the same numbers at a fraction of
the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError

BLOCK_CONVS = ("conv.0", "conv.2", "conv.4")
LATENT_LIMIT = 3.0
DOWNSCALE = 8


@dataclass(frozen=True)
class Conv:
    """One 3x3 convolution of the layout."""

    name: str
    stride: int = 1
    relu: bool = False
    upsample: bool = False
    """Double the resolution (nearest) before it."""


@dataclass(frozen=True)
class Block:
    """Three convolutions with a skip: relu(conv(relu(conv(relu(conv(x))))) + x)."""

    name: str


ENCODER: tuple[Conv | Block, ...] = (
    Conv("0"), Block("1"),
    Conv("2", stride=2), Block("3"), Block("4"), Block("5"),
    Conv("6", stride=2), Block("7"), Block("8"), Block("9"),
    Conv("10", stride=2), Block("11"), Block("12"), Block("13"),
    Conv("14"),
)  # fmt: skip
DECODER: tuple[Conv | Block, ...] = (
    Conv("1", relu=True), Block("3"), Block("4"), Block("5"),
    Conv("7", upsample=True), Block("8"), Block("9"), Block("10"),
    Conv("12", upsample=True), Block("13"), Block("14"), Block("15"),
    Conv("17", upsample=True), Block("18"),
    Conv("19"),
)  # fmt: skip


def convolutions(layers: tuple[Conv | Block, ...]) -> list[str]:
    """Names of all convolutions of a half, in order."""
    return [name for layer in layers for name in ([layer.name] if isinstance(layer, Conv) else [f"{layer.name}.{c}" for c in BLOCK_CONVS])]


class Half(nn.Module):
    """The encoder or the decoder: a plain walk through its layers."""

    def __init__(self, layers: tuple[Conv | Block, ...], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers = layers
        self.tensors = nn.ParameterDict({name.replace(".", "/"): nn.Parameter(tensor, requires_grad=False) for name, tensor in weights.items()})

    def named_tensors(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): tensor for name, tensor in self.tensors.items()}

    def convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        key = name.replace(".", "/")
        bias = self.tensors.get(f"{key}/bias")
        return F.conv2d(x, self.tensors[f"{key}/weight"], bias, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self._convolution(layer, x) if isinstance(layer, Conv) else self._block(layer, x)
        return x

    def _convolution(self, layer: Conv, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest") if layer.upsample else x
        x = self.convolve(layer.name, x, layer.stride)
        return F.relu(x) if layer.relu else x

    def _block(self, block: Block, x: Tensor) -> Tensor:
        inner = F.relu(self.convolve(f"{block.name}.conv.0", x))
        inner = F.relu(self.convolve(f"{block.name}.conv.2", inner))
        return F.relu(self.convolve(f"{block.name}.conv.4", inner) + x)


class Autoencoder(nn.Module):
    """Pictures [B, 3, H, W] in 0..1 <-> latents [B, 16, H/8, W/8].

    Latents are in the space of FLUX's autoencoder, so the transformer sees (z - 0.1159) * 0.3611 of them; `vae_scale` and `vae_shift` of the file
    undo just that.
    """

    def __init__(self, encoder: Half, decoder: Half, scale: float, shift: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.scale, self.shift = encoder, decoder, scale, shift

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> Autoencoder:
        """An autoencoder from a file's tensors (`taesd_encoder.*`, `taesd_decoder.*`, `vae_scale`, `vae_shift`).

        Raises:
            InputError: naming the tensors that are missing or unexpected.
        """
        encoder, decoder = _part(weights, "taesd_encoder."), _part(weights, "taesd_decoder.")
        _require_layout(weights, encoder, decoder)
        return cls(
            Half(ENCODER, without_dead_channels(ENCODER, encoder)),
            Half(DECODER, without_dead_channels(DECODER, decoder)),
            float(weights["vae_scale"]),
            float(weights["vae_shift"]),
        )

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 -> latents [B, 16, H/8, W/8]."""
        return self.encoder(pixels) / self.scale + self.shift

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 16, H, W] -> pictures [B, 3, 8H, 8W] in 0..1."""
        return self.decoder(squashed((latents - self.shift) * self.scale)).clamp(0, 1)


def squashed(latents: Tensor) -> Tensor:
    """The decoder's soft limit on what it is given: 3 tanh(z / 3)."""
    return torch.tanh(latents / LATENT_LIMIT) * LATENT_LIMIT


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _require_layout(weights: Mapping[str, Tensor], encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> None:
    wanted = {f"taesd_encoder.{name}.weight" for name in convolutions(ENCODER)}
    wanted |= {f"taesd_decoder.{name}.weight" for name in convolutions(DECODER)} | {"vae_scale", "vae_shift"}
    missing = sorted(wanted - set(weights))
    unexpected = sorted(name for name in weights if name not in wanted and not (name.endswith(".bias") and name[:-4] + "weight" in wanted))
    if missing or unexpected:
        raise InputError(
            "autoencoder weights",
            expected="the TAESD layout with 16 latent channels",
            found=f"missing {missing}, unexpected {unexpected}",
            remedy="Choose an autoencoder file in that layout.",
        )


def without_dead_channels(layers: tuple[Conv | Block, ...], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same half without the channels that are zero for every input; outputs are equal.

    A channel is dead when the weights and the bias that make it are all zero. Inside a block the skip must be dead as well.
    """
    kept = dict(weights)
    alive = torch.ones(weights[f"{convolutions(layers)[0]}.weight"].shape[1], dtype=torch.bool)
    last = convolutions(layers)[-1]
    for layer in layers:
        if isinstance(layer, Conv):
            alive = _narrow(kept, layer.name, alive, None if layer.name != last else "all")
            continue
        skip = alive
        for conv in BLOCK_CONVS[:2]:
            alive = _narrow(kept, f"{layer.name}.{conv}", alive, None)
        alive = _narrow(kept, f"{layer.name}.{BLOCK_CONVS[2]}", alive, skip)
    return kept


def _narrow(weights: dict[str, Tensor], name: str, inputs: Tensor, outputs: Tensor | str | None) -> Tensor:
    """Keeps the live inputs and outputs of one convolution and tells which outputs live on.

    `outputs`: None to find them, "all" to keep every one, or channels that are kept whatever the weights say (a skip).
    """
    weight, bias = weights[f"{name}.weight"][:, inputs], weights.get(f"{name}.bias")
    found = weight.flatten(1).any(dim=1)
    found = found if bias is None else found | (bias != 0)
    if outputs is None:
        alive = found
        alive[0] |= not bool(found.any())  # a convolution needs one channel at least
    else:
        alive = torch.ones_like(found) if isinstance(outputs, str) else _joined(found, outputs, name)
    weights[f"{name}.weight"] = weight[alive].clone()
    if bias is not None:
        weights[f"{name}.bias"] = bias[alive].clone()
    return alive


def _joined(found: Tensor, skip: Tensor, name: str) -> Tensor:
    if bool((found & ~skip).any()):
        raise InputError(
            "autoencoder weights",
            expected="a block that adds to channels it is given",
            found=f"new channels out of {name}",
            remedy="Use the file as it was made by the project's script.",
        )
    return skip

"""Makes the nano's autoencoder: the encoder is arithmetic (pyramid.py), the decoder is trained on pictures drawn as they are needed.

    python -m graft.training.models.nano.make_autoencoder OUTPUT_FILE --steps 2500

Half of the latents get noise, so that the decoder makes clean edges of what a transformer samples, too. The narrow decoder is padded with
zero channels to the stock layout (64 wide), which ComfyUI's VAE loader takes.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.shapes import random_shape
from ...files.write import write_safetensors
from ...flux_space import FLUX_LATENT_SPACE
from .autoencoder import BLOCK_CONVS, DECODER, DOWNSCALE, Conv, Half, convolutions, squashed
from .pyramid import CHANNELS, STOCK_WIDTH, encoder_weights, latents_of

logger = logging.getLogger(__name__)

WIDTHS = (32, 24, 16, 12)
PICTURE_PX = 128
WINDOW = 9
"""Side of the trained windows, in latent cells."""
LARGEST_NOISE = 0.25


def decoder_channels() -> dict[str, tuple[int, int]]:
    """Input and output channels of every convolution of the narrow decoder; each doubling of the resolution narrows it."""
    channels: dict[str, tuple[int, int]] = {}
    stage, width = 0, CHANNELS
    for layer in DECODER:
        if isinstance(layer, Conv):
            stage += layer.upsample
            channels[layer.name] = (width, WIDTHS[stage])
            width = WIDTHS[stage]
        else:
            channels |= {f"{layer.name}.{conv}": (width, width) for conv in BLOCK_CONVS}
    channels[DECODER[-1].name] = (width, 3)
    return channels


def new_decoder(seed: int) -> Half:
    """A narrow decoder with He-normal weights; the last convolution of each block starts small."""
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, (inputs, outputs) in decoder_channels().items():
        gain = 0.3 if name.endswith(BLOCK_CONVS[-1]) else 1.0
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=random) * gain * math.sqrt(2 / (9 * inputs))
        if not any(isinstance(layer, Conv) and layer.upsample and layer.name == name for layer in DECODER):
            weights[f"{name}.bias"] = torch.zeros(outputs)
    return Half(DECODER, weights).requires_grad_(True)


def pictures(seed: int, step: int, count: int) -> Tensor:
    """Pictures [B, 3, 128, 128] in 0..1, drawn twice as large and averaged for smooth edges."""
    random = np.random.default_rng((seed, step, 1))
    drawn = [random_shape(random).draw(2 * PICTURE_PX) for _ in range(count)]
    small = np.stack([cv2.resize(picture, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA) for picture in drawn])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255


def decoder_loss(decoder: Half, pixels: Tensor, random: torch.Generator) -> Tensor:
    """Mean absolute error of pixels and of their differences along rows and columns (which keeps edges sharp), on one window of each picture."""
    row, column = (int(torch.randint(0, PICTURE_PX // DOWNSCALE - WINDOW + 1, (1,), generator=random)) for _ in range(2))
    latents = latents_of(pixels)[:, :, row : row + WINDOW, column : column + WINDOW]
    top, left, side = row * DOWNSCALE, column * DOWNSCALE, WINDOW * DOWNSCALE
    pixels = pixels[:, :, top : top + side, left : left + side]
    noise = torch.rand(len(pixels), 1, 1, 1, generator=random).sub(0.5).clamp(min=0) * 2 * LARGEST_NOISE
    made = decoder(squashed(latents + noise * torch.randn(latents.shape, generator=random)))
    error = made - pixels
    return error.abs().mean() + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def train_decoder(options: argparse.Namespace) -> Half:
    decoder = new_decoder(options.seed)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, total_steps=options.steps, pct_start=0.1)
    losses: list[float] = []
    for step in range(options.steps):
        random = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        loss = decoder_loss(decoder, pictures(options.seed, step, options.batch), random)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            logger.info("step %d loss %.4f", step + 1, float(np.mean(losses[-100:])))
    return decoder


def padded_to_stock(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds zero channels up to the stock layout's 64; the pictures at both ends keep their 3, the latents their 16."""
    names = convolutions(DECODER)
    padded = {}
    for name, tensor in weights.items():
        conv = name.rsplit(".", 1)[0]
        outputs = 3 if conv == names[-1] else STOCK_WIDTH
        inputs = CHANNELS if conv == names[0] else STOCK_WIDTH
        missing = (0, outputs - len(tensor))
        padded[name] = F.pad(tensor, (0, 0, 0, 0, 0, inputs - tensor.shape[1], *missing) if tensor.ndim == 4 else missing)
    return padded


def file_tensors(decoder: Half) -> dict[str, Tensor]:
    """Everything that the autoencoder's file holds, in BF16."""
    tensors = {f"taesd_encoder.{name}": tensor for name, tensor in encoder_weights().items()}
    tensors |= {f"taesd_decoder.{name}": tensor.detach() for name, tensor in padded_to_stock(decoder.named_tensors()).items()}
    tensors |= {"vae_scale": torch.tensor(FLUX_LATENT_SPACE.scale), "vae_shift": torch.tensor(FLUX_LATENT_SPACE.shift)}
    return {name: tensor.float() if tensor.ndim == 0 else tensor.bfloat16().contiguous() for name, tensor in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger().addHandler(logging.StreamHandler())
    logging.getLogger().setLevel(logging.INFO)
    metadata = {"format": "pt", "modelspec.title": "Graft nano autoencoder", "modelspec.license": "Apache-2.0"}
    metadata |= {"graft.seed": str(options.seed), "graft.steps": str(options.steps)}
    write_safetensors(options.file, file_tensors(train_decoder(options)), metadata)


if __name__ == "__main__":
    main()

"""The nano's latents, written out as plain arithmetic: a quarter-size picture in a Haar basis.

A latent cell covers 8x8 pixels. Its first 12 channels are the 2x2 quarter-size pixels inside it, per colour, as mean, horizontal, vertical and
diagonal difference; the last 4 repeat the means and the brightness, so that coarse structure stands out of the noise first. Such latents are smooth
and low-dimensional, which is what lets a transformer of a few million parameters learn them in an hour on two cores. The autoencoder's encoder
computes exactly this with convolutions (`encoder_weights`); the decoder is learnt (make_autoencoder.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoder import ENCODER, Conv, convolutions

MEAN_GAIN, DETAIL_GAIN = 1.3125, 1.96875
MIDDLE = 0.5
HAAR = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float32) / 2
STOCK_WIDTH = 64
COLOURS, CHANNELS = 3, 16


def cell_matrix() -> tuple[Tensor, Tensor]:
    """The affine map of one cell: matrix [16, 12] and bias [16], from (position, colour) of the quarter-size pixels to latent channels."""
    matrix = torch.zeros(CHANNELS, 4 * COLOURS)
    for band in range(4):
        gain = MEAN_GAIN if band == 0 else DETAIL_GAIN
        for colour in range(COLOURS):
            matrix[band * COLOURS + colour, colour::COLOURS] = gain * HAAR[band]
    matrix[12:15] = matrix[:COLOURS]
    matrix[15] = matrix[:COLOURS].mean(dim=0)
    bias = -MIDDLE * matrix.sum(dim=1)
    return matrix.bfloat16().float(), bias.bfloat16().float()


def latents_of(pixels: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 -> latents in the transformer's space [B, 16, H/8, W/8], as the encoder gives them."""
    quarter = F.avg_pool2d(pixels, 4)
    batch, _, height, width = quarter.shape
    cells = quarter.view(batch, COLOURS, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    matrix, bias = cell_matrix()
    return F.conv2d(cells, matrix[:, :, None, None].to(pixels), bias.to(pixels))


def quarter_size(latents: Tensor) -> Tensor:
    """Latents [B, 16, H, W] -> the quarter-size pictures [B, 3, 2H, 2W] that they hold, by least squares; a look at samples without a decoder."""
    matrix, bias = cell_matrix()
    inverse = torch.linalg.pinv(matrix)
    cells = F.conv2d(latents - bias[:, None, None].to(latents), inverse[:, :, None, None].to(latents))
    batch, _, height, width = cells.shape
    return cells.view(batch, 2, 2, COLOURS, height, width).permute(0, 3, 4, 1, 5, 2).reshape(batch, COLOURS, 2 * height, 2 * width)


def encoder_weights() -> dict[str, Tensor]:
    """The same arithmetic as the convolutions of the stock layout, 64 channels wide; every channel that is not needed is zero."""
    weights: dict[str, Tensor] = {}
    halving = {layer.name for layer in ENCODER if isinstance(layer, Conv) and layer.stride == 2}
    for name in convolutions(ENCODER):
        outputs, inputs = CHANNELS if name == "14" else STOCK_WIDTH, COLOURS if name == "0" else STOCK_WIDTH
        weights[f"{name}.weight"] = torch.zeros(outputs, inputs, 3, 3)
        if name not in halving:
            weights[f"{name}.bias"] = torch.zeros(outputs)
    for colour in range(COLOURS):
        weights["0.weight"][colour, colour, 1, 1] = 1
        for averaging in ("2.weight", "6.weight"):
            weights[averaging][colour, colour, 1:, 1:] = 0.25
        for position in range(4):
            weights["10.weight"][position * COLOURS + colour, colour, 1 + position // 2, 1 + position % 2] = 1
    matrix, bias = cell_matrix()
    weights["14.weight"][:, : 4 * COLOURS, 1, 1], weights["14.bias"][:] = matrix, bias
    return weights



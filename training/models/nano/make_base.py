"""Trains the nano FLUX and its text encoder together, from nothing, on pictures drawn as they are needed.

    python -m graft.training.models.nano.make_base WORK_FOLDER --steps 6000 --cooldown 1200

Rectified flow with t drawn towards noise, AdamW, a constant rate with a linear cool-down at the end, and a running average of the weights (EMA),
which is what is kept. It saves every few minutes and goes on from there when started again; a longer `--steps` moves the cool-down.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.shapes import Shape, judged_rates, random_shape
from ...files.tensors import read_tensors
from ...files.write import write_json, write_safetensors
from ..flux import Flux, FluxConfig, image_ids, pack, text_ids, unpack
from .pyramid import latents_of, quarter_size
from .text_encoder import TOKENS, TextEncoder, token_ids

logger = logging.getLogger(__name__)

PICTURE_PX, LATENT = 128, 16
SHIFT = 1.15
CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.999
CONFIG = FluxConfig(
    hidden_size=256, head_dim=128, double_depth=2, single_depth=4, in_channels=64, context_width=128, vector_width=64, mlp_width=1024, guidance=True
)  # fmt: skip


class NanoModel(nn.Module):
    """Transformer and text encoder, trained as one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.transformer, self.text = Flux(CONFIG), TextEncoder(CONFIG.context_width, CONFIG.vector_width, depth=2)
        for name, parameter in self.named_parameters():
            _initialise(name, parameter)

    def velocity(self, x: Tensor, t: Tensor, ids: Tensor, guidance: Tensor) -> Tensor:
        """x [B, 64, 64] packed, t [B], word numbers [B, 16], guidance [B] -> velocity [B, 64, 64]."""
        tokens, pooled = self.text(ids)
        return self.transformer(x, image_ids(LATENT, LATENT), tokens, text_ids(TOKENS), t, pooled, guidance)


def _initialise(name: str, parameter: nn.Parameter) -> None:
    """Small normal weights; modulations and the output start at zero, so that every block starts as the identity (adaLN-Zero)."""
    if any(part in name for part in ("mod.lin", "modulation.lin", "final_layer", "adaLN")) or name.endswith("bias"):
        nn.init.zeros_(parameter)
    elif parameter.ndim == 2:
        nn.init.normal_(parameter, std=0.5 if "words" in name else min(0.05, parameter.shape[1] ** -0.5))


def draw(seed: int, step: int, batch: int) -> tuple[Tensor, Tensor, list[Shape]]:
    """Packed latents [B, 64, 64], word numbers [B, 16] and contents of the pictures of one step."""
    random = np.random.default_rng((seed, step))
    shapes = [random_shape(random) for _ in range(batch)]
    pixels = torch.from_numpy(np.stack([shape.draw(PICTURE_PX) for shape in shapes])).permute(0, 3, 1, 2).float() / 255
    return pack(latents_of(pixels)), token_ids([shape.caption for shape in shapes]), shapes


def draws(seed: int, start: int, end: int, batch: int) -> Iterator[tuple[Tensor, Tensor, list[Shape]]]:
    """`draw` for every step, two steps ahead of their use."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(draw, seed, step, batch) for step in range(start, min(start + 2, end))]
        for step in range(start, end):
            if step + 2 < end:
                waiting.append(pool.submit(draw, seed, step + 2, batch))
            yield waiting.pop(0).result()


def learning_rate(step: int, options: argparse.Namespace) -> float:
    rising = min(1.0, (step + 1) / 100)
    falling = min(1.0, (options.steps - step) / options.cooldown)
    return options.learning_rate * rising * falling


def flow_loss(model: NanoModel, x_0: Tensor, ids: Tensor, random: torch.Generator) -> Tensor:
    noise = torch.randn(x_0.shape, generator=random)
    u = torch.sigmoid(torch.randn(len(x_0), generator=random))
    t = math.exp(SHIFT) / (math.exp(SHIFT) + 1 / u - 1)
    ids = torch.where(torch.rand(len(ids), 1, generator=random) < CAPTION_DROPOUT, 0, ids)
    x_t = (1 - t[:, None, None]) * x_0 + t[:, None, None] * noise
    return F.mse_loss(model.velocity(x_t, t, ids, torch.ones(len(t))), noise - x_0)


@torch.no_grad()
def sample(model: NanoModel, ids: Tensor, seed: int, steps: int = 20, cfg: float = 1.0, guidance: float = 1.0) -> Tensor:
    """Latents [B, 16, 16, 16] by Euler steps over the shifted schedule, with classifier-free guidance when `cfg` is not 1."""
    x = torch.randn(len(ids), LATENT * LATENT // 4, CONFIG.in_channels, generator=torch.Generator().manual_seed(seed))
    u = torch.linspace(1, 0, steps + 1)
    sigmas = math.exp(SHIFT) / (math.exp(SHIFT) + 1 / u.clamp(min=1e-9) - 1)
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        t, scale = now.expand(len(ids)), torch.full((len(ids),), guidance)
        velocity = model.velocity(x, t, ids, scale)
        if cfg != 1:
            plain = model.velocity(x, t, torch.zeros_like(ids), scale)
            velocity = plain + cfg * (velocity - plain)
        x = x + (after - now) * velocity
    return unpack(x, LATENT, LATENT)


def pictures_of(latents: Tensor) -> np.ndarray:
    """A quick look without the decoder: uint8 [B, 128, 128, 3]."""
    pixels = F.interpolate(quarter_size(latents), scale_factor=4, mode="bicubic").clamp(0, 1)
    return (pixels.permute(0, 2, 3, 1) * 255).round().byte().numpy()


class Average:
    """Running average of all weights, with a faster average in the first steps."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            self.weights[name].lerp_(tensor, 1 - decay)


def save(folder: Path, step: int, model: NanoModel, average: Average, optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    moments = {
        f"{name}.{key}": optimiser.state[parameter][key] for name, parameter in model.named_parameters() for key in ("exp_avg", "exp_avg_sq", "step")
    }
    tensors = {f"weights.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in average.weights.items()}
    write_safetensors(folder / "checkpoint.safetensors", tensors | {f"moments.{k}": v for k, v in moments.items()}, {"step": str(step)})
    write_json(folder / "losses.json", losses)


def load(folder: Path, model: NanoModel, average: Average, optimiser: torch.optim.Optimizer) -> tuple[int, list[float]]:
    """Restores a checkpoint; returns its step and the losses so far (0 and none when there is no checkpoint)."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, []
    tensors = read_tensors(path)
    model.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    average.weights = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    for name, parameter in model.named_parameters():
        optimiser.state[parameter] = {key: tensors[f"moments.{name}.{key}"] for key in ("exp_avg", "exp_avg_sq", "step")}
    losses = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
    step = int(optimiser.state[next(model.parameters())]["step"].item())
    return step, losses[:step]


def evaluate(average: Average, seed: int, cfg: float, guidance: float = 1.0, count: int = 64) -> tuple[float, float, np.ndarray]:
    """Shares of sampled pictures with right colours and right kind, and the pictures, for captions of unseen random contents."""
    model = NanoModel(0)
    model.load_state_dict(average.weights)
    _, ids, shapes = draw(seed, 0, count)
    pictures = pictures_of(sample(model, ids, seed, cfg=cfg, guidance=guidance))
    colours, kinds = judged_rates(pictures, shapes)
    return colours, kinds, pictures


def train(folder: Path, options: argparse.Namespace) -> None:
    model = NanoModel(options.seed)
    average = Average(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    start, losses = load(folder, model, average, optimiser)
    began = time.monotonic()
    for step, (x_0, ids, _) in enumerate(draws(options.seed, start, options.steps, options.batch), start):
        optimiser.param_groups[0]["lr"] = learning_rate(step, options)
        loss = flow_loss(model, x_0, ids, torch.Generator().manual_seed(options.seed * 1_000_003 + step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(model, step)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - began) / (step + 1 - start)
            logger.info("step %d loss %.4f, %.3f s a step", step + 1, float(np.mean(losses[-50:])), pace)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            save(folder, step + 1, model, average, optimiser, losses)
            rates = [evaluate(average, 10**9, cfg)[:2] for cfg in (1.0, 3.0)]
            logger.info("step %d: colours and kind right, plain %s, cfg 3 %s", step + 1, rates[0], rates[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--cooldown", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger().addHandler(logging.StreamHandler())
    logging.getLogger().setLevel(logging.INFO)
    train(options.folder, options)


if __name__ == "__main__":
    main()

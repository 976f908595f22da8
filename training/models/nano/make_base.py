"""Trains the nano FLUX and its text encoder together, from nothing, on pictures drawn as they are needed.

    python -m graft.training.models.nano.make_base BASE_FOLDER --steps 6000 --cooldown 1200
    python -m graft.training.models.nano.make_base BASE_FOLDER --start training/models/nano/weights   # goes on from what is shipped
    python -m graft.training.models.nano.make_base GUIDED_FOLDER --teacher BASE_FOLDER --steps 600 --learning-rate 3e-4

Rectified flow with t drawn towards noise, Muon for the blocks' matrices and AdamW for the rest, a constant rate with a linear cool-down at the
end, and a running average of the weights (EMA), which is what is kept. It saves every few minutes and goes on from there when started again; a
longer `--steps` moves the cool-down.

With a teacher the second stage is run: guidance distillation (Meng et al. 2022, arXiv:2210.03142), as FLUX.1-dev had it. The student learns to give
in one pass, for the guidance number g that it embeds, what classifier-free guidance of scale g makes of the teacher's two passes.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.shapes import Shape, judged_rates, random_shape
from ...files.header import read_header
from ...files.tensors import read_tensors
from ...files.write import write_json, write_safetensors
from ...optimisers import Muon
from ...sample import euler, shifted, simple_sigmas
from ..flux import Flux, FluxConfig, image_ids, pack, text_ids, unpack
from .pack import read_packed
from .pyramid import latents_of, quarter_size
from .text_encoder import PADDING, TOKENS, TextEncoder, token_ids

logger = logging.getLogger(__name__)

PICTURE_PX, LATENT = 128, 16
SHIFT = 1.15
CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.999
CHECKPOINT, LOSSES = "checkpoint.safetensors", "losses.json"
MATRICES = ("qkv", "proj", "mlp", "linear1", "linear2")
MOMENTS = ("momentum", "exp_avg", "exp_avg_sq", "step")
LARGEST_GUIDANCE = 5.0
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


def noised(x_0: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t [B] drawn towards noise (logit-normal, one in each of B equal parts of its range), and the noise."""
    noise = torch.randn(x_0.shape, generator=random)
    part = (torch.arange(len(x_0)) + torch.rand(len(x_0), generator=random)) / len(x_0)
    t = shifted(torch.sigmoid(torch.special.ndtri(part.clamp(1e-6, 1 - 1e-6))), SHIFT)
    return (1 - t[:, None, None]) * x_0 + t[:, None, None] * noise, t, noise


def flow_loss(model: NanoModel, x_0: Tensor, ids: Tensor, random: torch.Generator) -> Tensor:
    """Stage 1: the flow's own target, at guidance 1, some captions dropped."""
    x_t, t, noise = noised(x_0, random)
    ids = torch.where(torch.rand(len(ids), 1, generator=random) < CAPTION_DROPOUT, PADDING, ids)
    return F.mse_loss(model.velocity(x_t, t, ids, torch.ones(len(t))), noise - x_0)


def guidance_loss(model: NanoModel, x_0: Tensor, ids: Tensor, random: torch.Generator, teacher: NanoModel) -> Tensor:
    """Stage 2: the teacher's two passes at a guidance drawn for each picture."""
    x_t, t, _ = noised(x_0, random)
    ids = torch.where(torch.rand(len(ids), 1, generator=random) < CAPTION_DROPOUT, PADDING, ids)
    guidance = LARGEST_GUIDANCE ** torch.rand(len(t), generator=random)
    with torch.no_grad():
        target = guided(teacher, x_t, t, ids, torch.ones(len(t)), guidance)
    return F.mse_loss(model.velocity(x_t, t, ids, guidance), target)


def guided(model: NanoModel, x_t: Tensor, t: Tensor, ids: Tensor, embedded: Tensor, cfg: Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) of scale `cfg` [B]."""
    told, plain = model.velocity(x_t, t, ids, embedded), model.velocity(x_t, t, torch.full_like(ids, PADDING), embedded)
    return plain + cfg[:, None, None] * (told - plain)


@torch.no_grad()
def sample(model: NanoModel, ids: Tensor, seed: int, steps: int = 20, cfg: float = 1.0, guidance: float = 1.0) -> Tensor:
    """Latents [B, 16, 16, 16] by Euler steps over the shifted schedule, with classifier-free guidance when `cfg` is not 1."""
    x = torch.randn(len(ids), LATENT * LATENT // 4, CONFIG.in_channels, generator=torch.Generator().manual_seed(seed))
    embedded, scale = torch.full((len(ids),), guidance), torch.full((len(ids),), cfg)

    def velocity(x_t: Tensor, t: float) -> Tensor:
        time = torch.full((len(ids),), t)
        return model.velocity(x_t, time, ids, embedded) if cfg == 1 else guided(model, x_t, time, ids, embedded, scale)

    return unpack(euler(velocity, x, simple_sigmas(steps, SHIFT)), LATENT, LATENT)


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


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def optimisers_of(model: NanoModel) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices of attention and MLPs, AdamW for everything else that trains."""
    matrices = [parameter for name, parameter in trained(model) if parameter.ndim == 2 and any(part in name for part in MATRICES)]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for _, parameter in trained(model) if id(parameter) not in chosen]
    return Muon(matrices, lr=0.0), torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


@dataclass
class Run:
    """Everything that a step changes."""

    model: NanoModel
    average: Average
    optimisers: tuple[torch.optim.Optimizer, ...]
    losses: list[float]

    def moments(self) -> dict[str, Tensor]:
        """The optimisers' state by parameter and kind."""
        states = [(name, optimiser.state[p]) for name, p in trained(self.model) for optimiser in self.optimisers if p in optimiser.state]
        return {f"moments.{name}.{key}": tensor for name, state in states for key, tensor in state.items()}

    def save(self, folder: Path) -> None:
        tensors = {f"weights.{k}": v for k, v in self.model.state_dict().items()} | {f"ema.{k}": v for k, v in self.average.weights.items()}
        write_json(folder / LOSSES, self.losses)  # first: a checkpoint never lacks the losses up to its step
        write_safetensors(folder / CHECKPOINT, tensors | self.moments(), {"step": str(len(self.losses))})

    def load(self, folder: Path) -> None:
        """Goes on from the folder's checkpoint, if there is one."""
        if not (folder / CHECKPOINT).exists():
            return
        tensors = read_tensors(folder / CHECKPOINT)
        self.model.load_state_dict(part_of(tensors, "weights."))
        self.average.weights = part_of(tensors, "ema.")
        moments = part_of(tensors, "moments.")
        for optimiser in self.optimisers:
            held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
            for name, parameter in trained(self.model):
                if id(parameter) in held:
                    optimiser.state[parameter] = {key: moments[f"{name}.{key}"] for key in MOMENTS if f"{name}.{key}" in moments}
        step = int(read_header(folder / CHECKPOINT).metadata["step"])
        self.losses = json.loads((folder / LOSSES).read_text(encoding="utf-8"))[:step]


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def averaged(weights: dict[str, Tensor]) -> NanoModel:
    """A frozen model with these weights."""
    model = NanoModel(0)
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def evaluate(model: NanoModel, seed: int, cfg: float, guidance: float, count: int = 64) -> tuple[float, float]:
    """Shares of sampled pictures with right colours and right kind, for captions of unseen random contents."""
    _, ids, shapes = draw(seed, 0, count)
    return judged_rates(pictures_of(sample(model, ids, seed, cfg=cfg, guidance=guidance)), shapes)


def train(folder: Path, options: argparse.Namespace) -> None:
    model, loss_of = NanoModel(options.seed), flow_loss
    if options.start:
        model.load_state_dict(read_packed(options.start))
    if options.teacher:
        teacher = averaged(part_of(read_tensors(options.teacher / CHECKPOINT), "ema."))
        model.load_state_dict(teacher.state_dict())
        model.text.requires_grad_(False)
        loss_of = partial(guidance_loss, teacher=teacher)
    run = Run(model, Average(model), optimisers_of(model), [])
    run.load(folder)
    start, began = len(run.losses), time.monotonic()
    for step, (x_0, ids, _) in enumerate(draws(options.seed, start, options.steps, options.batch), start):
        loss = loss_of(model, x_0, ids, torch.Generator().manual_seed(options.seed * 1_000_003 + step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in run.optimisers:
            optimiser.param_groups[0]["lr"] = learning_rate(step, options)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        run.average.update(model, step)
        run.losses.append(loss.item())
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - began) / (step + 1 - start)
            logger.info("step %d loss %.4f, %.3f s a step", step + 1, float(np.mean(run.losses[-50:])), pace)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            run.save(folder)
            modes = ((1.0, 3.5),) if options.teacher else ((1.0, 1.0), (3.0, 1.0))
            rates = [evaluate(averaged(run.average.weights), 10**9, cfg, guidance) for cfg, guidance in modes]
            logger.info("step %d: colours and kind right %s at (cfg, guidance) %s", step + 1, rates, modes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", type=Path, help="folder of packed weights to begin with, for a new work folder")
    parser.add_argument("--teacher", type=Path, help="folder of a finished first stage: distil its guidance")
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

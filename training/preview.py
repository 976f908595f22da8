"""Pictures in the middle of a training: held-out captions and hints through the network as it is now. Nothing in the learner changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .data.batches import Batch, held_out_batch
from .data.encode_pictures import SHARED_SEED
from .data.encoded import Encoded
from .flux_space import FLUX_LATENT_SPACE
from .learner import Learner
from .loop import conditions_of
from .progress import NO_PROGRESS, Progress
from .sample import Velocity, euler, picture_noise, simple_sigmas


@dataclass(frozen=True, kw_only=True)
class PreviewSettings:
    """How they are made; the same noise at every step, so that two steps can be compared."""

    pictures: int = 4
    """Held-out pictures, at most."""
    steps: int = 12
    """Sampling steps: fewer than for a result, enough to judge by."""
    guidance: float = 3.5
    """For transformers that embed it."""
    seed: int = 0
    """Of the noise; picture i starts from seed + i."""


def preview_latents(learner: Learner, data: Encoded, settings: PreviewSettings, progress: Progress = NO_PROGRESS) -> Tensor:
    """Raw latents [N, C, H/8, W/8] in fp32 on the CPU; N is 0 where nothing is held out.

    Raises:
        InputError: impossible sampling steps.
    """
    positions, sigmas, made = data.alike("held out", settings.pictures), simple_sigmas(settings.steps), []
    with _at_rest(learner.trainable.module):
        for number, position in enumerate(positions):  # one at a time: training leaves little memory
            batch = held_out_batch(data, [position])
            noise = picture_noise([settings.seed + number], *batch.latents.shape[1:]).to(learner.device)
            made.append(euler(_velocity(learner, batch, settings.guidance), noise, sigmas, _Interruptible(progress)).cpu())
    return _raw(torch.cat(made)) if made else torch.empty(0)


def preview_hints(data: Encoded, settings: PreviewSettings) -> Tensor | None:
    """The hints of the same pictures as uint8 RGB [N, H, W, 3], or None where there are none."""
    samples = [data.held_out[position] for position in data.alike("held out", settings.pictures)]
    if not samples or data.hint_form == "none":
        return None
    shown = data.hint_pictures(samples, SHARED_SEED, [0] * len(samples))
    return (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class CellColours:
    """Pictures from latents without their decoder: each cell's mean colour as the linear function of its latent that fits the data best.

    Rough and small (one pixel per cell), and the same for every autoencoder; least squares on the data's own pictures.

    Args:
        data: what is trained on.
        samples: how many pictures to fit to.
    """

    def __init__(self, data: Encoded, samples: int = 16) -> None:
        some = [data.train[position] for position in data.alike("train", samples)]
        cells = _raw(data.latents(some)).permute(0, 2, 3, 1).flatten(0, 2)
        colours = data.colours(some).float().div(255).flatten(0, 2)
        # In fp64 with a little damping, which also makes the answer one where the data is too uniform to tell.
        known = torch.cat([cells, torch.ones(len(cells), 1)], dim=1).double()
        damping = 1e-4 * len(cells) * torch.eye(known.shape[1], dtype=torch.float64)
        self._factors = torch.linalg.solve(known.T @ known + damping, known.T @ colours.double()).float()

    def __call__(self, latents: Tensor) -> Tensor:
        """Raw latents [N, C, h, w] -> pictures [N, h, w, 3] in 0..1."""
        cells = latents.permute(0, 2, 3, 1)
        return (cells @ self._factors[:-1] + self._factors[-1]).clamp(0, 1)


def _raw(latents: Tensor) -> Tensor:
    return latents / FLUX_LATENT_SPACE.scale + FLUX_LATENT_SPACE.shift


def _velocity(learner: Learner, batch: Batch, guidance: float) -> Velocity:
    conditions, scale = conditions_of(batch, learner), torch.full((1,), guidance, device=learner.device)

    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.full((1,), t, device=learner.device)
        return learner.predict(x.to(learner.compute), time, conditions, scale).float()

    return velocity


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """Without gradients and without dropout, and afterwards as it was."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


class _Interruptible:
    """Passes the question for an interrupt on, and nothing else: the bar belongs to the training."""

    def __init__(self, progress: Progress) -> None:
        self.check_interrupt = progress.check_interrupt

    def start(self, total: int, unit: str) -> None: ...

    def advance(self, done: int, **values: float) -> None: ...

    def finish(self) -> None: ...

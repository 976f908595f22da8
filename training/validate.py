"""Does what was trained do what it should? Pictures on held-out data with and without it, from the same noise, and their edge F1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .data.batches import Batch, held_out_batch
from .data.canny import CannyRecipe
from .data.encode_pictures import SHARED_SEED
from .data.encoded import Encoded, EncodedSample
from .errors import InputError
from .flux_space import PIXELS_PER_LATENT
from .grid import comparison_grid
from .measure import EdgeScore, Pictures, edge_score, shuffled
from .models.flux import Flux
from .progress import NO_PROGRESS, Progress
from .sample import picture_noise, require_control, sample

Decode = Callable[[Tensor], Tensor]
"""Raw latents [B, C, H, W] -> pictures [B, H, W, 3] in 0..1."""
PIXELS_AT_ONCE = 32 * 128 * 128
"""Sampled together: 32 pictures of the nano, 2 of 512 x 512 px, 1 of 1024 x 1024 px."""


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """How the pictures are made."""

    pictures: int = 64
    """Held-out pictures that are measured, at most; of one size, the commonest, where pictures lie in buckets."""
    steps: int = 20
    """Sampling steps."""
    guidance: float = 3.5
    """For transformers that embed it."""
    strength: float = 1.0
    """The ControlNet's factor."""
    start: float = 0.0
    """Share of the schedule before which it is silent."""
    end: float = 1.0
    """Share of the schedule after which it is silent."""
    seed: int = 0
    """Of the noise; picture i starts from seed + i."""

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise InputError("validation pictures", expected="1 or more", found=self.pictures, remedy="64 give a steady figure.")
        require_control(self.strength, self.start, self.end)


@dataclass(frozen=True, eq=False)
class Validation:
    """Pictures, uint8 RGB [N, H, W, 3], on the given edges, uint8 [N, H, W], and how closely they follow them."""

    captions: tuple[str, ...]
    edges: Pictures
    before: Pictures
    """Without the ControlNet."""
    after: Pictures
    """With it."""
    crossed: Pictures
    """With it, each given its neighbour's edges: it should follow those."""
    score_before: EdgeScore
    score_after: EdgeScore
    score_crossed: EdgeScore
    """Against the neighbour's edges that it was given; its chance is the score against the picture's own edges."""
    hints: Pictures | None = None
    """Hints that are no edges by thresholds, uint8 RGB [N, H, W, 3]; the edges are those of the held-out pictures. None: the edges are the hints."""

    def figures(self) -> dict[str, float | int | None]:
        """For a report; a single picture has no neighbour, so its controls are None."""
        figures: dict[str, float | int] = {
            "validation_pictures": len(self.captions),
            "edge_f1_before": self.score_before.mean,
            "edge_f1_after": self.score_after.mean,
            "edge_f1_chance": self.score_after.chance,
            "edge_f1_shuffled_edges": self.score_crossed.mean,
            "edge_f1_shuffled_edges_own": self.score_crossed.chance,
        }
        controls = ("edge_f1_chance", "edge_f1_shuffled_edges", "edge_f1_shuffled_edges_own") if len(self.captions) < 2 else ()
        return {name: None if name in controls else value for name, value in figures.items()}

    def grid(self, columns: int) -> np.ndarray:
        """The comparison picture: the first `columns` pictures in rows of edges, without, with."""
        given = ("edges given", self.edges) if self.hints is None else ("hints given", self.hints)
        rows = [given, ("without ControlNet", self.before), ("with ControlNet", self.after)]
        scores = [f"{caption} (F1 {score:.2f})" for caption, score in zip(self.captions, self.score_after.per_picture, strict=True)]
        title = f"Held-out edges: F1 {self.score_before.mean:.2f} without, {self.score_after.mean:.2f} with the trained ControlNet"
        return comparison_grid([(label, pictures[:columns]) for label, pictures in rows], captions=scores[:columns], title=title)


def validate_controlnet(
    base: Flux, controlnet: nn.Module, data: Encoded, decode: Decode, settings: ValidationSettings, progress: Progress = NO_PROGRESS
) -> Validation:
    """Samples held-out captions three times from the same noise: without the ControlNet, with it, and with shuffled edges.

    Raises:
        InputError: no held-out pictures, no hints, or impossible sampling settings.
    """
    positions = data.alike("held out", settings.pictures)
    if not positions or data.hint_form == "none":
        raise InputError(
            "validation data", expected="held-out pictures with hints", found=f"{data.held_out_size} held out, hints: {data.hint_form}",
            remedy="Raise `held_out` of the data set.",
        )  # fmt: skip
    batch, samples = held_out_batch(data, positions), [data.held_out[position] for position in positions]
    assert batch.hint is not None
    edges = data.edges(samples, SHARED_SEED, [0] * len(samples)).numpy()
    run = _Sampler(base, batch, decode, settings, progress)
    before, after = run.pictures(None, batch.hint), run.pictures(controlnet, batch.hint)
    crossed = run.pictures(controlnet, torch.roll(batch.hint, 1, dims=0))
    return Validation(
        captions=tuple(sample.caption for sample in samples), edges=edges, before=before, after=after, crossed=crossed,
        score_before=edge_score(before, edges), score_after=edge_score(after, edges), score_crossed=_crossed(crossed, edges),
        hints=_given_hints(data, samples),
    )  # fmt: skip


def _given_hints(data: Encoded, samples: Sequence[EncodedSample]) -> Pictures | None:
    if isinstance(data.recipe, CannyRecipe):
        return None
    pictures = data.hint_pictures(samples, SHARED_SEED, [0] * len(samples)).permute(0, 2, 3, 1)
    return (pictures * 255).round().to(torch.uint8).numpy()


def _crossed(pictures: Pictures, edges: Pictures) -> EdgeScore:
    own = edge_score(pictures, edges)
    return EdgeScore(edge_score(pictures, shuffled(edges)).per_picture, own.per_picture)


@dataclass(frozen=True)
class _Sampler:
    base: Flux
    batch: Batch
    decode: Decode
    settings: ValidationSettings
    progress: Progress

    @property
    def pixels(self) -> int:
        """Of one picture."""
        return PIXELS_PER_LATENT**2 * math.prod(self.batch.latents.shape[-2:])

    def pictures(self, controlnet: nn.Module | None, hint: Tensor) -> Pictures:
        """uint8 RGB [N, H, W, 3] from each picture's own noise."""
        settings, (count, *size) = self.settings, self.batch.latents.shape
        latents = sample(
            self.base, self.batch.text, self.batch.pooled, picture_noise(range(settings.seed, settings.seed + count), *size),
            steps=settings.steps, guidance=settings.guidance, controlnet=controlnet, hint=hint if controlnet is not None else None,
            strength=settings.strength, start=settings.start, end=settings.end, progress=self.progress,
            batch_size=max(1, PIXELS_AT_ONCE // self.pixels),
        )  # fmt: skip
        return (self.decode(latents).float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()

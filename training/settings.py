"""Everything a training is told, in frozen values that refuse the absurd. `key_fields` gives only what changes numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from .errors import InputError

Density = Literal["uniform", "logit_normal", "flux_shift", "mode"]
DENSITIES: tuple[Density, ...] = ("uniform", "logit_normal", "flux_shift", "mode")
OptimiserName = Literal["adamw", "lion", "muon", "adamw_8bit", "paged_adamw_8bit", "adafactor", "prodigy", "schedule_free"]
OPTIMISERS: tuple[OptimiserName, ...] = get_args(OptimiserName)
UNUSED_BY: dict[str, tuple[str, ...]] = {"lion": ("eps",), "adafactor": ("betas", "eps")}
"""Fields of OptimiserSettings without effect on an optimiser."""
ScheduleShape = Literal["constant", "cosine", "linear"]
SCHEDULES: tuple[ScheduleShape, ...] = ("constant", "cosine", "linear")
Compute = Literal["auto", "bf16", "fp32"]
COMPUTES: tuple[Compute, ...] = ("auto", "bf16", "fp32")

MODE_SCALE_LIMIT = 2 / (math.pi - 2)
"""Beyond this scale the mode density's map is no longer monotone (Esser et al. 2024, section 3.1)."""


def _require(condition: bool, subject: str, expected: str, found: object, remedy: str) -> None:
    if not condition:
        raise InputError(subject, expected=expected, found=found, remedy=remedy)


def _require_choice(value: str, choices: tuple[str, ...], subject: str) -> None:
    _require(value in choices, subject, f"one of {', '.join(choices)}", value, "Choose one of these.")


def _require_whole(value: int, low: int, subject: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and value >= low, subject, f"a whole number from {low} on", value, f"Set it to {low} or more.")


def _require_number(value: float, low: float, high: float, subject: str, remedy: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(number and math.isfinite(value) and low <= value <= high, subject, f"a number from {low:g} to {high:g}", value, remedy)


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """How gradients become changes of weights, all with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: OptimiserName = "adamw"
    """AdamW; Lion (a third to a tenth of AdamW's rate, half its memory); Muon for matrices with AdamW for the rest (AdamW's rates); AdamW with its
    averages in 8 bits, paged to the CPU's memory or not; Adafactor (AdamW's rates, next to no memory); Prodigy, which finds the rate itself; AdamW
    without a schedule (its own rates, one to ten times AdamW's)."""
    learning_rate: float = 2e-5
    """The peak learning rate; the schedule multiplies it. Prodigy multiplies the rate that it finds by it: 1."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    weight_decay: float = 0.01
    """Fraction of each weight taken away per step, times the learning rate; it does not pass through the averages. Of every trained tensor."""
    eps: float = 1e-8
    """AdamW: added to the root of the average square, against division by zero."""

    def __post_init__(self) -> None:
        _require_choice(self.name, OPTIMISERS, "optimiser")
        self._require_rate()
        _require(len(self.betas) == 2, "betas", "two numbers", self.betas, "Use 0.9 and 0.999.")
        for beta in self.betas:
            _require_number(beta, 0.0, 1.0, "betas", "Use 0.9 and 0.999.")
            _require(beta < 1, "betas", "numbers below 1", beta, "At 1 an average would never move: use 0.9 and 0.999.")
        averages = self.name != "schedule_free" or self.betas[0] > 0
        _require(averages, "betas", "a first one above 0 for schedule_free", self.betas[0], "Use 0.9, or 0.95 to 0.98 for very long trainings.")
        _require_number(self.weight_decay, 0.0, 10.0, "weight decay", "Use 0.01, or 0 for none.")
        _require_number(self.eps, 1e-16, 1e-2, "eps", "Use 1e-8.")

    def _require_rate(self) -> None:
        rate = self.learning_rate
        if self.name == "prodigy":
            remedy = "Prodigy finds the rate itself and multiplies it by this: set learning_rate to 1."
            return _require_number(rate, 0.1, 10.0, "learning rate of prodigy", remedy)
        _require_number(rate, 0.0, 0.1, "learning rate", "Start from 2e-5 for a large model; the built-in nano model takes 1e-3 to 2e-3.")
        _require(rate > 0, "learning rate", "more than 0", rate, "With 0 nothing would train: give a small positive number such as 2e-5.")

    def key_fields(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in UNUSED_BY.get(self.name, ())}


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate over a run. It depends on the absolute step only, so that 100 + 100 steps equal 200."""

    shape: ScheduleShape = "constant"
    """How the rate falls from its peak, at the end of the warm-up, to its last value, at the horizon."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly to its peak."""
    horizon_steps: int = 1000
    """The absolute step at which the last value is reached; beyond it the rate stays there. Unused by `constant`."""
    final_fraction: float = 0.0
    """The last value, as a fraction of the peak. Unused by `constant`."""

    def __post_init__(self) -> None:
        _require_choice(self.shape, SCHEDULES, "schedule")
        _require_whole(self.warmup_steps, 0, "warm-up steps")
        _require_whole(self.horizon_steps, 1, "schedule horizon")
        _require_number(self.final_fraction, 0.0, 1.0, "final fraction of the learning rate", "Use 0 to 0.1.")
        fits = self.shape == "constant" or self.warmup_steps < self.horizon_steps
        found = f"{self.warmup_steps} warm-up steps and a horizon of {self.horizon_steps}"
        _require(fits, "schedule", "a warm-up shorter than the horizon", found, "Raise the horizon or shorten the warm-up.")

    def key_fields(self) -> dict[str, Any]:
        if self.shape == "constant":
            return {"shape": self.shape, "warmup_steps": self.warmup_steps}
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What each step draws and compares: rectified flow (Liu et al. 2022, arXiv:2209.03003)."""

    density: Density = "logit_normal"
    """Density of the flow time t (0 data, 1 noise)."""
    logit_mean: float = 0.0
    """Mean of the normal number whose sigmoid is t (logit_normal); positive draws towards noise."""
    logit_std: float = 1.0
    """Standard deviation of the same."""
    shift_at_256_tokens: float = 0.5
    """flux_shift: the shift mu of a picture of 256 tokens; mu is linear in the number of tokens."""
    shift_at_4096_tokens: float = 1.15
    """flux_shift: the shift mu of a picture of 4096 tokens (1024 x 1024 px)."""
    mode_scale: float = 1.29
    """mode: the scale s; positive favours the middle."""
    guidance: tuple[float, float] = (1.0, 7.0)
    """Range from which each sample's guidance is drawn; equal ends make it constant. Unused by a base without guidance embedding."""
    caption_dropout: float = 0.0
    """Chance of a sample's caption being replaced by the empty one."""

    def __post_init__(self) -> None:
        _require_choice(self.density, DENSITIES, "density of t")
        _require_number(self.logit_mean, -10.0, 10.0, "logit mean", "Use 0.")
        _require_number(self.logit_std, 1e-3, 10.0, "logit standard deviation", "Use 1.")
        _require_number(self.shift_at_256_tokens, -5.0, 5.0, "shift at 256 tokens", "Use 0.5.")
        _require_number(self.shift_at_4096_tokens, -5.0, 5.0, "shift at 4096 tokens", "Use 1.15.")
        _require_number(self.mode_scale, -1.0, MODE_SCALE_LIMIT, "mode scale", "Use 1.29.")
        _require(len(self.guidance) == 2, "guidance", "two numbers", self.guidance, "Give the same number twice for a constant guidance.")
        for value in self.guidance:
            _require_number(value, 0.0, 100.0, "guidance", "Use 1 to 7, or 1 for a LoRA.")
        ordered = self.guidance[0] <= self.guidance[1]
        _require(ordered, "guidance", "a lower and an upper end", f"{self.guidance[0]} to {self.guidance[1]}", "Swap the two ends.")
        _require_number(self.caption_dropout, 0.0, 1.0, "caption dropout", "Use 0 to 0.3.")

    def key_fields(self) -> dict[str, Any]:
        used: dict[Density, tuple[str, ...]] = {
            "uniform": (),
            "logit_normal": ("logit_mean", "logit_std"),
            "flux_shift": ("shift_at_256_tokens", "shift_at_4096_tokens"),
            "mode": ("mode_scale",),
        }
        names = ("density", *used[self.density], "guidance", "caption_dropout")
        return {name: value for name, value in asdict(self).items() if name in names}


@dataclass(frozen=True, kw_only=True)
class PrecisionSettings:
    """What is computed in which dtype. Trained parameters, their gradients and averages are fp32 always."""

    compute: Compute = "auto"
    """auto: bf16 on an accelerator, fp32 on the CPU."""

    def __post_init__(self) -> None:
        _require_choice(self.compute, COMPUTES, "compute precision")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a training. The number of steps is not among them: it belongs to Train Steps."""

    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    """How gradients become changes of weights."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """How the learning rate moves with the absolute step."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """What is drawn and compared."""
    precision: PrecisionSettings = field(default_factory=PrecisionSettings)
    """Dtypes."""
    batch_size: int = 1
    """Samples that pass through the model at once."""
    accumulation: int = 1
    """Batches whose gradients are averaged into one step."""
    clip_norm: float = 1.0
    """The gradient of a step is shortened to this length; 0 means never."""
    ema_decay: float = 0.0
    """Decay of the running average of the weights; 0 means none is kept."""
    seed: int = 0
    """From which every random number of the training follows."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass instead of keeping their activations: less memory, more time, the same numbers."""
    checkpoint_every: int = 200
    """Steps between checkpoints; 0 means only at the end and when stopped."""
    keep_checkpoints: int = 2
    """Periodic checkpoints kept on disk. Results that a Train Steps asked for are never among those removed."""
    evaluate_every: int = 100
    """Steps between held-out losses; 0 means only at the start and at the end."""
    evaluate_samples: int = 32
    """Held-out samples used for the held-out loss, at most; each is seen at every time of the fixed grid."""

    def __post_init__(self) -> None:
        _require_whole(self.batch_size, 1, "batch size")
        _require_whole(self.accumulation, 1, "accumulation")
        _require_number(self.clip_norm, 0.0, 1e6, "clip norm", "Use 1, or 0 for no clipping.")
        _require_number(self.ema_decay, 0.0, 1.0, "EMA decay", "Use 0.999, or 0 for none.")
        _require(self.ema_decay < 1, "EMA decay", "less than 1", self.ema_decay, "At 1 the average would never move: use 0.999.")
        _require_whole(self.seed, 0, "seed")
        _require_whole(self.checkpoint_every, 0, "steps between checkpoints")
        _require_whole(self.keep_checkpoints, 1, "checkpoints kept")
        _require_whole(self.evaluate_every, 0, "steps between held-out losses")
        _require_whole(self.evaluate_samples, 0, "held-out samples")
        if self.optimiser.name == "schedule_free":
            self._require_schedule_free()

    def _require_schedule_free(self) -> None:
        """It averages the weights in place of a falling rate: a schedule would undo that, and a second average says nothing."""
        shape, remedy = self.schedule.shape, "Choose constant; a warm-up is welcome."
        _require(shape == "constant", "schedule", "constant with schedule_free, which takes a schedule's place", shape, remedy)
        expected = "0 with schedule_free, whose results are a running average already"
        _require(self.ema_decay == 0, "EMA decay", expected, self.ema_decay, "Set ema_decay to 0.")

    def key_fields(self) -> dict[str, Any]:
        """What changes the trained numbers, as JSON; not how often something is saved, measured or recomputed. The precision is not among it:
        what "auto" means follows from the device, and a key holds the dtype that it comes to (train_to.request_for)."""
        parts = {name: getattr(self, name).key_fields() for name in ("optimiser", "schedule", "objective")}
        plain = {name: getattr(self, name) for name in ("batch_size", "accumulation", "clip_norm", "ema_decay", "seed")}
        return {**parts, **plain}

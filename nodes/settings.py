"""Stage 4 of the graph: how it is trained."""

from __future__ import annotations

from typing import Any

from ..training.optimiser_kinds import require_library
from ..training.settings import COMPUTES, DENSITIES, OPTIMISERS, SCHEDULES, ObjectiveSettings, OptimiserSettings, PrecisionSettings, ScheduleSettings
from ..training.settings import Settings as TrainingSettings
from .types import SETTINGS, Inputs, choice, number, said_of, seed_input, whole

FLAG = "BOOLEAN"
GUIDANCE_LOW_TOOLTIP = (
    "Each sample's guidance is drawn from this range; equal ends make it constant. For ControlNets: a LoRA is trained at the guidance of its own "
    "build node, 1.0 unless you change it, since it has no teacher to imitate. No effect on bases that embed no guidance."
)
GUIDANCE_HIGH_TOOLTIP = (
    "Upper end of that range. A ControlNet trained at one guidance only is tied to it; 1 to 7 covers what people sample FLUX.1-dev with."
)


class Settings:
    """Everything a training is told except the number of steps."""

    DISPLAY_NAME = "Training Settings"
    CATEGORY, FUNCTION = "Graft/train", "execute"
    RETURN_TYPES, RETURN_NAMES = (SETTINGS,), ("settings",)
    OUTPUT_TOOLTIPS = ("For Train Steps; several may share it.",)
    DESCRIPTION = (
        "Optimiser, schedule, objective, precision and saving. The schedule runs over its own horizon, whatever number of steps a Train Steps node "
        "asks for: so 100 + 100 steps are the same as 200."
    )
    SEARCH_ALIASES = ("hyperparameters", "learning rate", "optimizer", "adamw", "lion", "muon", "8-bit", "adafactor", "prodigy", "schedule-free")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {**_optimiser(), **_batch(), **_objective(), **_saving(), **_appended()}}

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, learning_rate: float | None, schedule: Any, warmup_steps: int | None, horizon_steps: int | None, ema_decay: float | None,
        guidance_low: float | None, guidance_high: float | None, optimiser: Any,
    ) -> bool | str:  # fmt: skip
        """Only what has to fit together: the error is shown at each input named here, and ComfyUI itself checks all others."""
        given = {
            "learning_rate": learning_rate, "schedule": schedule, "warmup_steps": warmup_steps, "horizon_steps": horizon_steps,
            "ema_decay": ema_decay, "guidance_low": guidance_low, "guidance_high": guidance_high, "optimiser": optimiser,
        }  # fmt: skip
        return said_of(cls, given, lambda: _check(settings_of(**{**_defaults(cls), **given})))

    def execute(self, **widgets: Any) -> tuple[TrainingSettings]:
        return (settings_of(**widgets),)


def _check(settings: TrainingSettings) -> None:
    """Told now, so that nobody waits for a data set to be encoded before a missing library is named."""
    require_library(settings.optimiser.name)


def _defaults(node: Any) -> dict[str, Any]:
    return {name: entry[1]["default"] for name, entry in node.INPUT_TYPES()["required"].items()}


def _optimiser() -> dict[str, tuple[Any, ...]]:
    return {
        "learning_rate": number(
            2e-5, 1e-8, 10.0, 1e-6, "The highest learning rate. 2e-5 suits a ControlNet of FLUX.1; the nano model takes 1e-3 to 2e-3. Prodigy: 1."
        ),
        "schedule": choice(SCHEDULES, "How the learning rate falls from its peak to the horizon."),
        "warmup_steps": whole(0, 0, 1_000_000, "Steps over which the learning rate rises to its peak."),
        "horizon_steps": whole(1000, 1, 10_000_000, "The absolute step at which the schedule has reached its last value."),
        "final_fraction": number(0.0, 0.0, 1.0, 0.01, "The last learning rate, as a fraction of the peak."),
        "beta1": number(0.9, 0.0, 0.9999, 0.001, "Decay of the gradient's average."),
        "beta2": number(0.999, 0.0, 0.99999, 0.0001, "AdamW: decay of the squared gradient's average. Lion: decay of its momentum (use 0.99)."),
        "weight_decay": number(0.01, 0.0, 10.0, 0.001, "Decoupled weight decay."),
        "clip_norm": number(1.0, 0.0, 1e6, 0.1, "A longer gradient is shortened to this length; 0 never does."),
    }


def _batch() -> dict[str, tuple[Any, ...]]:
    return {
        "batch_size": whole(1, 1, 4096, "Pictures at once."),
        "accumulation": whole(1, 1, 4096, "Batches whose gradients make one step: a larger batch in the memory of a small one."),
        "compute": choice(COMPUTES, "auto: BF16 on a GPU, FP32 on a CPU. What is trained is kept in FP32 always."),
        "checkpointing": (FLAG, {"default": False, "tooltip": "Gradient checkpointing: less memory, more time, the same numbers."}),
        "ema_decay": number(0.0, 0.0, 0.99999, 0.001, "A running average of the weights is kept beside them; 0 keeps none."),
        "seed": seed_input("Every random number of the training follows from it."),
    }


def _objective() -> dict[str, tuple[Any, ...]]:
    return {
        "density": choice(DENSITIES, "How often each flow time is trained: uniform, logit_normal, flux_shift (by resolution), mode.", "logit_normal"),
        "logit_mean": number(0.0, -10.0, 10.0, 0.1, "logit_normal: above 0 draws towards noise."),
        "logit_std": number(1.0, 0.001, 10.0, 0.1, "logit_normal: spread."),
        "mode_scale": number(1.29, -1.0, 1.75, 0.01, "mode: above 0 favours the middle."),
        "guidance_low": number(1.0, 0.0, 100.0, 0.1, GUIDANCE_LOW_TOOLTIP),
        "guidance_high": number(7.0, 0.0, 100.0, 0.1, GUIDANCE_HIGH_TOOLTIP),
        "caption_dropout": number(0.0, 0.0, 1.0, 0.01, "Share of samples that are trained with the empty caption."),
    }


def _saving() -> dict[str, tuple[Any, ...]]:
    return {
        "checkpoint_every": whole(200, 0, 1_000_000, "Steps between checkpoints; 0 saves at the end only."),
        "keep_checkpoints": whole(2, 1, 10_000, "How many of those are kept; asked-for results are kept always."),
        "evaluate_every": whole(100, 0, 1_000_000, "Steps between held-out losses; 0 takes them at the start and at the end."),
        "evaluate_samples": whole(32, 0, 100_000, "Held-out pictures used for that."),
    }


def _appended() -> dict[str, tuple[Any, ...]]:
    """What came later: widgets are only ever added at the end."""
    return {
        "optimiser": choice(OPTIMISERS, OPTIMISER_TOOLTIP),
    }


OPTIMISER_TOOLTIP = (
    "lion wants a third to a tenth of AdamW's rate and keeps half as much; muon takes AdamW's. adamw_8bit keeps a quarter of AdamW's averages, and "
    "the paged one puts them into the CPU's memory when the GPU's is short (pip install bitsandbytes). adafactor takes AdamW's rate and keeps next "
    "to nothing. prodigy finds the rate itself: learning_rate 1 (pip install prodigyopt). schedule_free needs no schedule but likes a warm-up, takes "
    "one to ten times AdamW's rate, and gives the average of its weights (pip install schedulefree)."
)


def settings_of(
    *, learning_rate: float, schedule: Any, warmup_steps: int, horizon_steps: int, final_fraction: float, beta1: float, beta2: float,
    weight_decay: float, compute: Any, density: Any, logit_mean: float, logit_std: float, mode_scale: float, guidance_low: float,
    guidance_high: float, caption_dropout: float, optimiser: Any = "adamw", **others: Any,
) -> TrainingSettings:  # fmt: skip
    """The widgets' values as the engine's settings; `others` are named as there."""
    return TrainingSettings(
        optimiser=OptimiserSettings(name=optimiser, learning_rate=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay),
        schedule=ScheduleSettings(shape=schedule, warmup_steps=warmup_steps, horizon_steps=horizon_steps, final_fraction=final_fraction),
        objective=ObjectiveSettings(
            density=density, logit_mean=logit_mean, logit_std=logit_std, mode_scale=mode_scale, guidance=(guidance_low, guidance_high),
            caption_dropout=caption_dropout,
        ),
        precision=PrecisionSettings(compute=compute),
        **others,
    )  # fmt: skip


NODES = {"GraftSettings": Settings}

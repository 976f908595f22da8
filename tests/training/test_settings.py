"""Settings: every absurd one refused by name, and a key that holds only what changes numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from graft.training.errors import InputError
from graft.training.settings import ObjectiveSettings, OptimiserSettings, PrecisionSettings, ScheduleSettings, Settings

ABSURD = [
    (OptimiserSettings, {"name": "sgd"}, "optimiser"),
    (OptimiserSettings, {"learning_rate": 0.0}, "learning rate"),
    (OptimiserSettings, {"learning_rate": -1e-4}, "learning rate"),
    (OptimiserSettings, {"learning_rate": 0.8}, "learning rate"),
    (OptimiserSettings, {"learning_rate": math.nan}, "learning rate"),
    (OptimiserSettings, {"learning_rate": "2e-5"}, "learning rate"),
    (OptimiserSettings, {"name": "prodigy"}, "learning rate of prodigy"),  # the usual rate, which Prodigy would multiply its own by
    (OptimiserSettings, {"name": "prodigy", "learning_rate": 1e-4}, "learning rate of prodigy"),
    (OptimiserSettings, {"name": "prodigy", "learning_rate": 11.0}, "learning rate of prodigy"),
    (OptimiserSettings, {"name": "schedule_free", "betas": (0.0, 0.9)}, "betas"),
    (Settings, {"optimiser": OptimiserSettings(name="schedule_free"), "schedule": ScheduleSettings(shape="cosine")}, "schedule"),
    (Settings, {"optimiser": OptimiserSettings(name="schedule_free"), "ema_decay": 0.9}, "EMA decay"),
    (OptimiserSettings, {"betas": (0.9, 1.0)}, "betas"),
    (OptimiserSettings, {"betas": (-0.1, 0.9)}, "betas"),
    (OptimiserSettings, {"betas": (0.9,)}, "betas"),
    (OptimiserSettings, {"weight_decay": -0.01}, "weight decay"),
    (OptimiserSettings, {"eps": 0.0}, "eps"),
    (ScheduleSettings, {"shape": "step"}, "schedule"),
    (ScheduleSettings, {"warmup_steps": -1}, "warm-up steps"),
    (ScheduleSettings, {"warmup_steps": 1.5}, "warm-up steps"),
    (ScheduleSettings, {"horizon_steps": 0}, "schedule horizon"),
    (ScheduleSettings, {"final_fraction": 1.5}, "final fraction"),
    (ScheduleSettings, {"shape": "cosine", "warmup_steps": 100, "horizon_steps": 100}, "schedule"),
    (ObjectiveSettings, {"density": "beta"}, "density"),
    (ObjectiveSettings, {"logit_std": 0.0}, "logit standard deviation"),
    (ObjectiveSettings, {"logit_mean": math.inf}, "logit mean"),
    (ObjectiveSettings, {"mode_scale": 1.76}, "mode scale"),
    (ObjectiveSettings, {"mode_scale": -1.1}, "mode scale"),
    (ObjectiveSettings, {"shift_at_256_tokens": 50.0}, "shift at 256"),
    (ObjectiveSettings, {"shift_at_4096_tokens": math.nan}, "shift at 4096"),
    (ObjectiveSettings, {"guidance": (7.0, 1.0)}, "guidance"),
    (ObjectiveSettings, {"guidance": (-1.0, 1.0)}, "guidance"),
    (ObjectiveSettings, {"guidance": (1.0, 2.0, 3.0)}, "guidance"),
    (ObjectiveSettings, {"caption_dropout": 1.1}, "caption dropout"),
    (PrecisionSettings, {"compute": "fp16"}, "compute precision"),
    (Settings, {"batch_size": 0}, "batch size"),
    (Settings, {"batch_size": True}, "batch size"),
    (Settings, {"accumulation": 0}, "accumulation"),
    (Settings, {"clip_norm": -1.0}, "clip norm"),
    (Settings, {"ema_decay": 1.0}, "EMA decay"),
    (Settings, {"ema_decay": -0.5}, "EMA decay"),
    (Settings, {"seed": -1}, "seed"),
    (Settings, {"checkpoint_every": -1}, "steps between checkpoints"),
    (Settings, {"keep_checkpoints": 0}, "checkpoints kept"),
    (Settings, {"evaluate_every": -1}, "steps between held-out losses"),
    (Settings, {"evaluate_samples": -1}, "held-out samples"),
]


@pytest.mark.parametrize(("kind", "fields", "subject"), ABSURD)
def test_absurd_settings_are_refused_by_name_with_a_remedy(kind, fields, subject):
    with pytest.raises(InputError) as caught:
        kind(**fields)
    assert subject in caught.value.subject
    assert caught.value.expected and caught.value.found and caught.value.remedy


def test_settings_are_values_and_keyword_only():
    assert Settings() == Settings() and hash(Settings()) == hash(Settings())
    with pytest.raises(TypeError):
        OptimiserSettings("adamw")


NUMBERS = [
    {"optimiser": OptimiserSettings(learning_rate=1e-4)},
    {"schedule": ScheduleSettings(warmup_steps=5)},
    {"objective": ObjectiveSettings(density="uniform")},
    {"objective": ObjectiveSettings(guidance=(3.5, 3.5))},
    {"batch_size": 2},
    {"accumulation": 2},
    {"clip_norm": 0.5},
    {"ema_decay": 0.9},
    {"seed": 1},
]
NO_NUMBERS = [
    {"checkpointing": True},
    {"checkpoint_every": 7},
    {"keep_checkpoints": 9},
    {"evaluate_every": 3},
    {"evaluate_samples": 5},
    {"precision": PrecisionSettings(compute="fp32")},  # what it comes to on the device is in the key of a training
    {"schedule": ScheduleSettings(horizon_steps=5000, final_fraction=0.3)},  # the default schedule is constant
    {"objective": ObjectiveSettings(mode_scale=0.5, shift_at_256_tokens=0.1)},  # the default density is logit_normal
]


@pytest.mark.parametrize("change", NUMBERS)
def test_the_key_holds_what_changes_numbers(change):
    assert replace(Settings(), **change).key_fields() != Settings().key_fields()


@pytest.mark.parametrize("change", NO_NUMBERS)
def test_the_key_leaves_out_what_does_not(change):
    assert replace(Settings(), **change).key_fields() == Settings().key_fields()


def test_the_keys_of_trainings_before_there_were_more_optimisers_stay():
    fields = {"name": "adamw", "learning_rate": 2e-5, "betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-8}
    assert OptimiserSettings().key_fields() == fields
    assert OptimiserSettings(name="muon").key_fields() == {**fields, "name": "muon"}
    assert OptimiserSettings(name="lion").key_fields() == {name: value for name, value in {**fields, "name": "lion"}.items() if name != "eps"}


def test_the_key_is_json():
    fields = Settings().key_fields()
    assert json.loads(json.dumps(fields, allow_nan=False))["optimiser"]["learning_rate"] == 2e-5

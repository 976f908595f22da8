"""A ControlNet's LoRA as a file of its own, to train further or to pass on without the ControlNet; the ControlNet's own file has it merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .export import run_metadata
from .export_lora import ExportedLora, trained_adapters
from .files.controlnet_lora_file import CONTROLNET_FINGERPRINT, CONTROLNET_NAME, controlnet_lora_tensors
from .state import State
from .trainable.controlnet_lora import KIND

FORMAT = "controlnet"


def exported_controlnet_lora(
    state: State, choice: str = "trained", dtype: torch.dtype = torch.bfloat16, *, licence: str = "", title: str = ""
) -> ExportedLora:
    """The adapters alone, ready to be written (export_lora.write_lora).

    Args:
        choice: 'trained' or 'average' (EMA).
        licence: SPDX name or words; empty takes that of the base's family, whose derivative it is.

    Raises:
        InputError: the state is no LoRA on a ControlNet, lacks the choice, or holds values that are not finite.
    """
    adapters, inputs = trained_adapters(state, choice, KIND), state.inputs()
    ranks = {adapter.rank for adapter in adapters.values()}
    said = {"ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic", **_metadata(state, inputs, choice, licence, title)}
    return ExportedLora(controlnet_lora_tensors(adapters, dtype), said, FORMAT, tuple(inputs["notes"]))


def _metadata(state: State, inputs: Mapping[str, Any], choice: str, licence: str, title: str) -> dict[str, str]:
    controlnet = Path(inputs["controlnet_file"]).name
    return run_metadata(
        state, inputs, choice, licence, title or f"ControlNet LoRA after {state.step} steps", kind="controlnet-lora", implementation="graft",
        description=f"For the ControlNet {controlnet} alone; no other program reads it. Build ControlNet LoRA trains it further.",
        hint=inputs.get("hint"),
        extra={
            CONTROLNET_FINGERPRINT: inputs["recipe"]["controlnet"], CONTROLNET_NAME: controlnet, "graft.format": FORMAT,
            "graft.recipe": json.dumps(inputs["recipe"], sort_keys=True),
        },
    )  # fmt: skip

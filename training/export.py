"""From a state to the tensors of a file. Whatever is used of a training, in the graph or as a file, is made from exactly these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import InputError
from .files.metadata import build_metadata
from .files.write import require_free_space, require_writable_folder, write_safetensors
from .state import State
from .trainable.controlnet_export import export_diffusers_folder, exported_tensors
from .trainable.controlnet_lora import KIND as CONTROLNET_LORA
from .trainable.controlnet_lora import merged

Choice = Literal["trained", "average"]
CHOICES: tuple[Choice, ...] = ("trained", "average")
LICENCES = {"flux-1-dev": "FLUX.1 [dev] Non-Commercial License", "flux-1-schnell": "Apache-2.0"}


@dataclass(frozen=True, eq=False)
class ExportedControlNet:
    """A trained ControlNet as its flat file holds it."""

    weights: dict[str, Tensor]
    """By the names of the file, BF16 unless asked otherwise."""
    metadata: dict[str, str]
    layout: str
    """'xlabs' or 'instantx'."""
    notes: tuple[str, ...]
    """Where other programs would use it in another way."""
    axes: tuple[int, ...]
    """Of the rotary embedding, which no file names."""


def chosen_weights(state: State, choice: str) -> dict[str, Tensor]:
    """The state's weights, or their running average.

    Raises:
        InputError: no such choice, or no average was kept.
    """
    if choice not in CHOICES:
        raise InputError("weights", expected=" or ".join(CHOICES), found=choice, remedy="Choose one of these two.")
    weights = state.weights() if choice == "trained" else state.ema_weights()
    if weights is None:
        remedy = "Set the EMA decay above 0 and train, or choose 'trained'."
        raise InputError("weights", expected="a running average", found="a training without one", remedy=remedy)
    return weights


def exported_control_net(
    state: State, choice: str = "trained", dtype: torch.dtype = torch.bfloat16, licence: str = "", title: str = ""
) -> ExportedControlNet:
    """A state's ControlNet, ready to be used or written.

    Args:
        choice: 'trained' or 'average' (EMA).
        licence: SPDX name or words; empty takes that of the base's family, whose derivative it is.

    Raises:
        InputError: the state is of another kind, lacks the choice, or holds values that are not finite.
    """
    inputs = state.inputs()
    recipe, trained = inputs["recipe"], _trained_network(state, inputs, choice)
    weights, layout_metadata, _ = exported_tensors(trained, recipe["layout"], dtype)
    metadata = _metadata(state, inputs, layout_metadata, choice, licence, title)
    return ExportedControlNet(weights, metadata, recipe["layout"], tuple(inputs["notes"]), tuple(inputs["axes"]))


def _trained_network(state: State, inputs: Mapping[str, Any], choice: str) -> dict[str, Tensor]:
    """The whole network: as it was trained, or the ControlNet whose adapters were."""
    kind = inputs["recipe"].get("kind")
    if kind not in ("controlnet", CONTROLNET_LORA):
        raise InputError("state", expected="a trained ControlNet", found=f"a trained {kind}", remedy="Use the export node of its kind.")
    weights = chosen_weights(state, choice)
    return weights if kind == "controlnet" else merged(weights, inputs)


def write_control_net(exported: ExportedControlNet, path: Path) -> None:
    """Writes the flat file that ComfyUI's ControlNet loader takes.

    Raises:
        InputError: the folder cannot be written or the disk is full; nothing half-written stays.
    """
    write_flat(path, exported.weights, exported.metadata)


def write_flat(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes an export's one file; raises as `write_control_net`."""
    require_writable_folder(path.parent, "export folder")
    require_free_space(path.parent, sum(tensor.nbytes for tensor in weights.values()), "export folder")
    write_safetensors(path, weights, metadata)


def write_diffusers_folder(exported: ExportedControlNet, folder: Path) -> tuple[Path, ...]:
    """Writes the same weights as a folder for diffusers; see `export_diffusers_folder`."""
    dtype = next(iter(exported.weights.values())).dtype
    return export_diffusers_folder(folder, exported.weights, dtype, exported.metadata, exported.axes, exported.notes)


def base_family(inputs: Mapping[str, Any]) -> str:
    """What the base is, of which the result is a derivative: a network trained on FLUX.1-dev may itself be without guidance."""
    return "flux-1-dev" if inputs["base_sizes"]["guidance"] else "flux-1-schnell"


def _metadata(
    state: State, inputs: Mapping[str, Any], layout_metadata: Mapping[str, str], choice: str, licence: str, title: str
) -> dict[str, str]:
    fields = run_metadata(
        state, inputs, choice, licence, title or f"ControlNet after {state.step} steps", kind="controlnet",
        implementation=layout_metadata["modelspec.implementation"], hint=inputs.get("hint"), extra=_merged_fields(inputs["recipe"]),
    )  # fmt: skip
    return {**layout_metadata, **fields}


def run_metadata(
    state: State, inputs: Mapping[str, Any], choice: str, licence: str, title: str, *, kind: str, implementation: str, extra: Mapping[str, str],
    description: str = "", hint: Mapping[str, Any] | None = None,
) -> dict[str, str]:  # fmt: skip
    """What every file of a training says of it: ModelSpec's fields and ours (files/metadata.py).

    Args:
        licence: empty takes that of the base's family.
        kind: of network, behind the base's family in ModelSpec's architecture.
        extra: what the files of this kind say beside.
    """
    family, resolution_px = base_family(inputs), inputs.get("resolution_px")
    return build_metadata(
        title=title,
        architecture=f"{family}/{kind}",
        implementation=implementation,
        licence=licence or LICENCES[family],
        base_fingerprint=inputs["base_fingerprint"],
        base_name=inputs.get("base_name", ""),
        description=description,
        settings=inputs["settings"],
        steps=state.step,
        hint=hint,
        resolution_px=(resolution_px, resolution_px) if resolution_px else None,
        extra={"graft.weights": choice, "graft.compute": inputs["compute"], "graft.run": state.run_key, "graft.data": inputs["data_key"], **extra},
    )


def _merged_fields(recipe: Mapping[str, Any]) -> dict[str, str]:
    """A ControlNet that was changed by a LoRA says so, and which one it was before."""
    if recipe["kind"] != CONTROLNET_LORA:
        return {}
    return {"graft.merged_lora": json.dumps(recipe, sort_keys=True), "graft.controlnet_fingerprint": recipe["controlnet"]}

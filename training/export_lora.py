"""From a state to a LoRA file, and to what is used of it in the graph: both are made from exactly the same tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .export import chosen_weights, run_metadata, write_flat
from .files.held import shapes_of
from .files.lora_adapters import Adapter, adapters_of_state, require_fits
from .files.lora_extract import Extracted, extracted_lora
from .files.lora_names import FORMATS, difference_name, named_tensors
from .files.metadata import canonical_json
from .state import State

EXPORT_FORMATS: tuple[str, ...] = (*FORMATS, "difference", "extracted")
FORMATS_OF_CHANGES = ("difference", "extracted")
"""They hold the change of one transformer's weights, which must be given."""
RANKS_PER_RANK = 2
"""An extracted LoRA has twice the trained rank unless asked otherwise: DoRA's row lengths change more directions than its adapters."""
FILE_NAMES = {"extracted": "kohya"}
"""The names of formats that are others' names."""
_KINDS = {"lora": "a trained LoRA", "controlnet_lora": "a trained LoRA on a ControlNet"}
_IMPLEMENTATIONS = {"kohya": "https://github.com/black-forest-labs/flux", "diffusers": "diffusers"}
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class UsedOn:
    """The transformer on which a LoRA is to be used, which may be another than the one that it was trained on."""

    weights: Mapping[str, Tensor]
    fingerprint: str
    name: str = ""
    """What people call it, such as its file's name; empty: unknown."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_of(self.weights)


@dataclass(frozen=True, eq=False)
class ExportedLora:
    """A trained LoRA as its file holds it."""

    weights: dict[str, Tensor]
    metadata: dict[str, str]
    format: str
    notes: tuple[str, ...]


def trained_adapters(state: State, choice: str = "trained", wanted: str = "lora") -> dict[str, Adapter]:
    """A state's adapters by layer.

    Args:
        wanted: the kind of recipe that the state has to be of: 'lora' or 'controlnet_lora'.

    Raises:
        InputError: the state is of another kind, lacks the choice, or holds values that are not finite.
    """
    kind = state.inputs()["recipe"].get("kind")
    if kind != wanted:
        remedy = "Use the export node of its kind; at Export ControlNet switch `lora_file` off."
        raise InputError("state", expected=_KINDS[wanted], found=f"a trained {kind}", remedy=remedy)
    weights = chosen_weights(state, choice)
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        found = f"infinite values or NaN in {', '.join(broken)}"
        raise InputError("state", expected="finite values", found=found, remedy="Use an earlier state.")
    return adapters_of_state(weights)


def exported_lora(
    state: State,
    choice: str = "trained",
    format: str = "kohya",
    dtype: torch.dtype = torch.bfloat16,
    *,
    licence: str = "",
    title: str = "",
    used_on: UsedOn | None = None,
    extracted_rank: int = 0,
    workflow: Mapping[str, Any] | None = None,
) -> ExportedLora:
    """A state's LoRA, ready to be used or written.

    Args:
        choice: 'trained' or 'average' (EMA).
        format: one of EXPORT_FORMATS.
        licence: SPDX name or words; empty takes that of the base's family, whose derivative it is.
        used_on: recorded, and needed for FORMATS_OF_CHANGES: the change of that very transformer's weights.
        extracted_rank: of the plain LoRA in the format 'extracted'; 0: RANKS_PER_RANK times the trained one.
        workflow: the graph that made it, to be written into the header, where ComfyUI's page finds it.

    Raises:
        InputError: the state is of another kind, lacks the choice or holds values that are not finite; the format cannot hold it; the transformer
            that it is to be used on has other sizes.
    """
    adapters, inputs = trained_adapters(state, choice), state.inputs()
    said: dict[str, str] = {}
    if used_on is not None:
        require_fits(adapters, used_on.shapes, "transformer to use the LoRA on")
    if format == "extracted":
        found = extracted(adapters, used_on, extracted_rank)
        adapters, said = found.adapters, {"graft.extracted": found.in_words(), "graft.extraction_error": f"{found.error:.6f}"}
    weights = differences(adapters, used_on, dtype) if format == "difference" else named_tensors(adapters, FILE_NAMES.get(format, format), dtype)
    if workflow is not None:
        said = {**said, "workflow": canonical_json(workflow, "workflow")}
    metadata = {**lora_metadata(state, inputs, adapters, choice, format, licence, title, used_on), **said}
    notes = (*inputs["notes"], *([f"Extracted: {said['graft.extracted']}."] if format == "extracted" else []))
    return ExportedLora(weights, metadata, format, notes)


def tensors_for_use(state: State, choice: str, used_on: UsedOn) -> dict[str, Tensor]:
    """What is put on a transformer in the graph: the tensors of the exported file; a DoRA as the change of that transformer's weights, in fp32.

    Raises:
        InputError: as `exported_lora`.
    """
    adapters = trained_adapters(state, choice)
    require_fits(adapters, used_on.shapes, "transformer to use the LoRA on")
    if any(adapter.magnitude is not None for adapter in adapters.values()):
        return differences(adapters, used_on, torch.float32)
    return named_tensors(adapters, "kohya", torch.bfloat16)


def differences(adapters: Mapping[str, Adapter], used_on: UsedOn | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The whole change of each weight of one transformer, as ComfyUI reads it.

    Raises:
        InputError: no transformer is given.
    """
    return {difference_name(layer): make().to(dtype).contiguous() for layer, make in _changes(adapters, used_on).items()}


def extracted(adapters: Mapping[str, Adapter], used_on: UsedOn | None, rank: int = 0) -> Extracted:
    """A plain LoRA near the change of one transformer's weights.

    Raises:
        InputError: no transformer is given.
    """
    own = max((adapter.rank for adapter in adapters.values()), default=1)
    return extracted_lora(_changes(adapters, used_on), rank or RANKS_PER_RANK * own)


def _changes(adapters: Mapping[str, Adapter], used_on: UsedOn | None) -> dict[str, Callable[[], Tensor]]:
    """{layer: makes the change [out, in] of its weight, in fp32}."""
    if used_on is None:
        raise InputError(
            "LoRA format", expected=f"a transformer for the formats {' and '.join(FORMATS_OF_CHANGES)}, which hold the change of its very weights",
            found="none", remedy="Connect the transformer that it will be used on.",
        )  # fmt: skip
    weights = used_on.weights

    def change(layer: str, adapter: Adapter) -> Tensor:
        weight = weights[f"{layer}.weight"].detach().cpu().float()
        return adapter.changed(weight) - weight

    return {layer: partial(change, layer, adapter) for layer, adapter in adapters.items()}


def write_lora(exported: ExportedLora, path: Path) -> None:
    """Writes the file.

    Raises:
        InputError: the folder cannot be written or the disk is full; nothing half-written stays.
    """
    write_flat(path, exported.weights, exported.metadata)


# ---------------------------------------------------------------- what the header says


def lora_metadata(
    state: State, inputs: Mapping[str, Any], adapters: Mapping[str, Adapter], choice: str, format: str, licence: str, title: str,
    used_on: UsedOn | None,
) -> dict[str, str]:  # fmt: skip
    """ModelSpec's fields, sd-scripts' `ss_*` fields, which LoRA users' tools show, and ours."""
    graft = {"graft.format": format, "graft.recipe": json.dumps(inputs["recipe"], sort_keys=True)}
    if used_on is not None:
        graft |= {"graft.used_on_fingerprint": used_on.fingerprint, **({"graft.used_on_name": used_on.name} if used_on.name else {})}
    return run_metadata(
        state, inputs, choice, licence, title or f"LoRA after {state.step} steps", kind="lora",
        implementation=_IMPLEMENTATIONS.get(FILE_NAMES.get(format, format), "https://github.com/comfyanonymous/ComfyUI"),
        description=described(inputs.get("base_name", ""), used_on), extra={**graft, **_sd_scripts_fields(state, inputs, adapters, title)},
    )  # fmt: skip


def described(base_name: str, used_on: UsedOn | None) -> str:
    """For people, in ModelSpec's own field, since it has none for bases; empty if no name is known."""
    trained = f"Trained on {base_name}." if base_name else ""
    used = f"To be used on {used_on.name}." if used_on is not None and used_on.name not in ("", base_name) else ""
    return " ".join(filter(None, (trained, used)))


def _sd_scripts_fields(state: State, inputs: Mapping[str, Any], adapters: Mapping[str, Adapter], title: str) -> dict[str, str]:
    """Under the names that sd-scripts writes; several ranks or alphas in one file are "Dynamic", as its tools say."""
    settings, recipe, resolution_px = inputs["settings"], inputs["recipe"], inputs.get("resolution_px")
    ranks, alphas = ({getattr(adapter, name) for adapter in adapters.values()} for name in ("rank", "alpha"))
    fields: dict[str, Any] = {
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_network_dropout": recipe["dropout"],
        "ss_base_model_version": "flux1",
        "ss_sd_model_name": inputs.get("base_name", ""),
        "ss_output_name": title,
        "ss_steps": state.step,
        "ss_seed": settings["seed"],
        "ss_guidance_scale": recipe["guidance"],
        "ss_model_prediction_type": "raw",
        **_timesteps(settings["objective"]),
        "ss_learning_rate": settings["optimiser"]["learning_rate"],
        "ss_optimizer": settings["optimiser"]["name"],
        "ss_lr_scheduler": settings["schedule"]["shape"],
        "ss_lr_warmup_steps": settings["schedule"]["warmup_steps"],
        "ss_max_grad_norm": settings["clip_norm"],
        "ss_batch_size_per_device": settings["batch_size"],
        "ss_gradient_accumulation_steps": settings["accumulation"],
        "ss_caption_dropout_rate": settings["objective"]["caption_dropout"],
        "ss_mixed_precision": {"bfloat16": "bf16"}.get(inputs["compute"], "no"),
        "ss_num_train_images": inputs.get("train_samples", ""),
        "ss_resolution": f"({resolution_px}, {resolution_px})" if resolution_px else "",
    }
    return {name: str(value) for name, value in fields.items() if value != ""}


def _timesteps(objective: Mapping[str, Any]) -> dict[str, Any]:
    """sd-scripts' word for the density of t: a logit-normal of mean m is its sigmoid, shifted by e^m."""
    if objective["density"] != "logit_normal":
        return {"ss_timestep_sampling": objective["density"]}
    mean, spread = objective["logit_mean"], objective["logit_std"]
    shift = {"ss_discrete_flow_shift": math.exp(mean)} if mean else {}
    return {"ss_timestep_sampling": "shift" if mean else "sigmoid", "ss_sigmoid_scale": spread, **shift}

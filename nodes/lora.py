"""LoRA through all stages of the graph: built or loaded, applied, exported. Data, settings and Train Steps it shares with ControlNets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..training.export import CHOICES
from ..training.export_lora import EXPORT_FORMATS, UsedOn, exported_lora, tensors_for_use, write_lora
from ..training.files.held import shapes_of
from ..training.state import State
from ..training.trainable.lora import LARGEST_RANK, LoraRecipe
from ..training.trainable.lora_guidance import guidance_notes
from ..training.trainable.lora_layers import PRESETS
from .export import output_path
from .host import Host, current_host
from .result import WEIGHTS_TOOLTIP
from .train import workflow_of
from .types import STATE, TRAINABLE, Inputs, choice, link, number, said_early, said_of, seed_input, whole

_log = logging.getLogger(__name__)

FLAG, FILES = "BOOLEAN", "loras"
GUIDANCE_TOOLTIP = (
    "The guidance that is embedded while training, in place of the settings' range. 1.0 on purpose: a guidance-distilled base (FLUX.1-dev) was "
    "taught by a teacher what higher guidance means, and a LoRA has no teacher. At 1.0 the distillation vanishes and the data alone is the target; "
    "at 3.5 the guidance embedding is trained away and in the end the base breaks. Sample at your usual guidance afterwards. No effect on bases "
    "without it."
)
DROPOUT_TOOLTIP = "Share of each adapter's inputs that it does not see in a step, against learning by heart; the same after a resumed training."


class BuildLora:
    """A new LoRA."""

    DISPLAY_NAME = "Build LoRA"
    CATEGORY, FUNCTION = "Graft/build", "execute"
    RETURN_TYPES, RETURN_NAMES = (TRAINABLE, "STRING"), ("trainable", "notes")
    OUTPUT_TOOLTIPS = ("The LoRA to train; it changes nothing before it is trained.", "How large it is, and what to know about its guidance.")
    DESCRIPTION = (
        "A LoRA for a FLUX transformer. Pictures with captions are enough, hints are not needed. It may be trained on one base (such as "
        "Flux-dev2pro, at guidance 1.0) and applied to another of the same shape. `notes` says how large it will be before anything is trained."
    )
    SEARCH_ALIASES = ("create lora", "train lora", "dora", "rslora")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer that it is trained on."),
                "rank": whole(16, 1, LARGEST_RANK, RANK_TOOLTIP),
                "alpha": number(16.0, 1e-3, 65536.0, 0.5, "The adapters are scaled by alpha / rank. Equal to the rank: not scaled."),
                "layers": choice(PRESETS, LAYERS_TOOLTIP),
                "blocks": ("STRING", {"default": "", "tooltip": BLOCKS_TOOLTIP}),
                "guidance": number(1.0, 0.0, 100.0, 0.1, GUIDANCE_TOOLTIP),
                "dropout": number(0.0, 0.0, 0.99, 0.01, DROPOUT_TOOLTIP),
                "rslora": (FLAG, {"default": False, "tooltip": RSLORA_TOOLTIP}),
                "dora": (FLAG, {"default": False, "tooltip": DORA_TOOLTIP}),
                "seed": seed_input("For the adapters' first values."),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, rank: int | None, alpha: float | None, dropout: float | None) -> bool | str:  # noqa: N802
        given = {"rank": rank, "alpha": alpha, "dropout": dropout}
        return said_of(cls, given, lambda: LoraRecipe(**given))  # type: ignore[arg-type]

    def execute(self, model: Any, **widgets: Any) -> tuple[LoraRecipe, str]:
        recipe = LoraRecipe(**widgets)
        return recipe, _notes(recipe, current_host().model_weights(model)[0])


RANK_TOOLTIP = "How much each layer can learn: 4 to 32 for a style or a subject."
RSLORA_TOOLTIP = "Scale by alpha / sqrt(rank): keeps high ranks from learning more slowly."
LAYERS_TOOLTIP = (
    "attention_mlp suits most; attention is smaller; all_linears adds modulations, embedders and the last layer. FLUX fuses attention and MLP in its "
    "single blocks: their linear1 counts as attention, linear2 as MLP."
)
BLOCKS_TOOLTIP = (
    "Only these blocks, separated by commas: 'single_blocks.7, single_blocks.20', 'double_blocks.0-4', 'double_blocks.*.img_attn'. Empty: all of the "
    "chosen kind."
)
DORA_TOOLTIP = (
    "DoRA: trains the lengths of the weights' rows too. Exported for diffusers; for ComfyUI as the whole change of the weights, or as a plain LoRA "
    "near it."
)


class LoadLora:
    """A LoRA file, to go on from."""

    DISPLAY_NAME = "Load LoRA (to train further)"
    CATEGORY, FUNCTION = "Graft/build", "execute"
    RETURN_TYPES, RETURN_NAMES = (TRAINABLE, "STRING"), ("trainable", "notes")
    OUTPUT_TOOLTIPS = ("The LoRA to train further.", "How large it is, and what was put together or left out.")
    DESCRIPTION = (
        "Takes a LoRA file in kohya, diffusers (PEFT) or ComfyUI names, ours or another trainer's, with its ranks and alphas, and trains it further. "
        "Separate adapters for queries, keys and values become one of summed rank, which computes the same."
    )
    SEARCH_ALIASES = ("continue lora", "resume lora", "lora loader")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        files = current_host().model_files(FILES)
        return {
            "required": {
                "model": link("MODEL", "The transformer that it is trained on."),
                "lora": (files, {"tooltip": "A LoRA file in the folder loras."}),
                "guidance": number(1.0, 0.0, 100.0, 0.1, GUIDANCE_TOOLTIP),
                "dropout": number(0.0, 0.0, 0.99, 0.01, DROPOUT_TOOLTIP),
            }
        }

    @classmethod
    def IS_CHANGED(cls, lora: str, **_: Any) -> str:  # noqa: N802
        """Another file under the same name is another LoRA."""
        state = current_host().model_path(FILES, lora).stat()
        return f"{state.st_size} {state.st_mtime_ns}"

    def execute(self, model: Any, lora: str, guidance: float, dropout: float) -> tuple[LoraRecipe, str]:
        host = current_host()
        recipe = LoraRecipe(from_file=host.model_path(FILES, lora), guidance=guidance, dropout=dropout)
        return recipe, _notes(recipe, host.model_weights(model)[0])


def _notes(recipe: LoraRecipe, weights: Mapping[str, Tensor]) -> str:
    size, read = recipe.described(shapes_of(weights))
    about_guidance = guidance_notes(weights, recipe.guidance)
    for note in about_guidance:
        _log.warning(note)
    return "\n".join([size.in_words(), *read, *about_guidance])


class TrainedLora:
    """A state as MODEL."""

    DISPLAY_NAME = "Trained LoRA"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "STRING", "LORA_MODEL"), ("model", "notes", "lora")
    OUTPUT_TOOLTIPS = (
        "The transformer with the LoRA, for the ordinary sampler.",
        "Whether this is the transformer that it was trained on.",
        "The LoRA by itself, for ComfyUI's own Load LoRA Model and Save LoRA Weights, whatever `strength` is. A DoRA: the change of `model`.",
    )
    DESCRIPTION = (
        "Applies the trained LoRA to a transformer, which may be another than the one that it was trained on if it has the same shape: train on "
        "Flux-dev2pro, apply to FLUX.1-dev. It is made from exactly what Export LoRA writes."
    )
    SEARCH_ALIASES = ("use lora", "apply lora", "apply trained", "lora model")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer to apply it to."),
                "state": link(STATE, "What Train Steps gave."),
                "weights": choice(CHOICES, WEIGHTS_TOOLTIP),
                "strength": number(1.0, -20.0, 20.0, 0.05, "How strongly; 1 is as trained."),
            }
        }

    def execute(self, model: Any, state: State, weights: str, strength: float) -> tuple[Any, str, dict[str, Tensor]]:
        return applied(current_host(), model, state, weights, strength)


def applied(host: Host, model: Any, state: State, weights: str, strength: float) -> tuple[Any, str, dict[str, Tensor]]:
    """The MODEL with a state's LoRA, whether it is the transformer that was trained on, and the tensors of the LoRA.

    Those are a LORA_MODEL as ComfyUI's own training gives it: the tensors that its LoRA loader reads, by the names of a file.
    """
    used_on = _used_on(host, model)
    tensors = tensors_for_use(state, weights, used_on)
    return host.apply_lora(model, tensors, strength), _where_trained(state, used_on), tensors


def _used_on(host: Host, model: Any) -> UsedOn:
    return UsedOn(*host.model_weights(model), host.model_name(model))


def _where_trained(state: State, used_on: UsedOn) -> str:
    inputs = state.inputs()
    if inputs["base_fingerprint"] == used_on.fingerprint:
        return "Applied to the transformer that it was trained on."
    trained_on = _named(inputs.get("base_name", ""), inputs["base_fingerprint"])
    applied_to = _named(used_on.name, used_on.fingerprint)
    return f"Trained on another transformer of the same shape ({trained_on}) than the one that it is applied to ({applied_to})."


def _named(name: str, fingerprint: str) -> str:
    return f"{name}, {fingerprint[:12]}" if name else fingerprint[:12]


class ExportLora:
    """A state as a file."""

    DISPLAY_NAME = "Export LoRA"
    CATEGORY, FUNCTION = "Graft/export", "execute"
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("file",)
    OUTPUT_TOOLTIPS = ("The file that was written.",)
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes the trained LoRA in BF16. The header says what it was trained on and how, in ModelSpec's and sd-scripts' fields and our own."
    )
    SEARCH_ALIASES = ("save lora", "save weights", "kohya", "diffusers lora")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "state": link(STATE, "What Train Steps gave."),
                "file_name": ("STRING", {"default": "lora", "tooltip": "Name of the file without ending, in the output folder."}),
                "weights": choice(CHOICES, WEIGHTS_TOOLTIP),
                "format": choice(EXPORT_FORMATS, FORMAT_TOOLTIP),
                "licence": ("STRING", {"default": "", "tooltip": "Licence named in the file; empty: that of the base's family."}),
            },
            "optional": {
                "model": link("MODEL", "The transformer that it will be used on: recorded; needed for the formats difference and extracted."),
                "extracted_rank": whole(0, 0, LARGEST_RANK, "Rank of the plain LoRA in the format extracted; 0: twice the trained one."),
                "workflow": (FLAG, {"default": False, "tooltip": WORKFLOW_TOOLTIP}),
            },
            "hidden": {"extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file_name: str | None) -> bool | str:  # noqa: N802
        return file_name is None or said_early(lambda: output_path(file_name, ".safetensors"))

    def execute(
        self, state: State, file_name: str, weights: str, format: str, licence: str, model: Any = None, extracted_rank: int = 0,
        workflow: bool = False, extra_pnginfo: Any = None,
    ) -> tuple[str]:  # fmt: skip
        path = output_path(file_name, ".safetensors")
        used_on = None if model is None else _used_on(current_host(), model)
        exported = exported_lora(
            state, weights, format, licence=licence, title=path.stem, used_on=used_on, extracted_rank=extracted_rank,
            workflow=workflow_of(extra_pnginfo) if workflow else None,
        )  # fmt: skip
        for note in exported.notes:
            _log.info(note)
        write_lora(exported, path)
        return (str(path),)


FORMAT_TOOLTIP = (
    "kohya: everyone reads it (ComfyUI, diffusers, Forge). diffusers: PEFT names, alpha multiplied in. comfyui: ComfyUI's own names. difference: the "
    "whole change of each weight of `model`, large, for ComfyUI. extracted: a plain LoRA in kohya names near that change, for a DoRA; its header "
    "tells its error."
)
WORKFLOW_TOOLTIP = "Also write this workflow into the file's header: ComfyUI's page opens it from there. It tells all that was typed into its nodes."

NODES = {"GraftBuildLoRA": BuildLora, "GraftLoadLoRA": LoadLora, "GraftTrainedLoRA": TrainedLora, "GraftExportLoRA": ExportLora}

"""Stage 7 of the graph: files and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..training.errors import InputError, NotPassedError
from ..training.export import CHOICES, exported_control_net, write_control_net, write_diffusers_folder
from ..training.export_controlnet_lora import exported_controlnet_lora
from ..training.export_lora import write_lora
from ..training.files.write import require_writable_folder, write_json
from ..training.report import training_report
from ..training.state import State
from .host import current_host
from .result import WEIGHTS_TOOLTIP
from .types import MEASURES, STATE, Inputs, choice, link, number, said_early


class ExportControlNet:
    """A state as files."""

    DISPLAY_NAME = "Export ControlNet"
    CATEGORY, FUNCTION = "Graft/export", "execute"
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("file",)
    OUTPUT_TOOLTIPS = ("The file that was written.",)
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes the trained ControlNet as one flat BF16 file for ComfyUI's ControlNet loader, and on request as a folder for diffusers. The header "
        "says what it was trained on and how. A LoRA on a ControlNet is merged into it, and can be written by itself too."
    )
    SEARCH_ALIASES = ("save controlnet", "save weights")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "state": link(STATE, "What Train Steps gave."),
                "file_name": ("STRING", {"default": "controlnet", "tooltip": "Name of the file without ending, in the output folder."}),
                "weights": choice(CHOICES, WEIGHTS_TOOLTIP),
                "diffusers_folder": ("BOOLEAN", {"default": False, "tooltip": "Also write a folder that diffusers reads; it is not for ComfyUI."}),
                "licence": ("STRING", {"default": "", "tooltip": "Licence named in the file; empty: that of the base's family."}),
            },
            "optional": {"lora_file": ("BOOLEAN", {"default": False, "tooltip": LORA_FILE_TOOLTIP})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file_name: str | None) -> bool | str:  # noqa: N802
        return file_name is None or said_early(lambda: output_path(file_name, ".safetensors"))

    def execute(
        self, state: State, file_name: str, weights: str, diffusers_folder: bool, licence: str, lora_file: bool = False
    ) -> tuple[str]:  # fmt: skip
        path = output_path(file_name, ".safetensors")
        lora = exported_controlnet_lora(state, weights, licence=licence, title=f"{path.stem}_lora") if lora_file else None
        exported = exported_control_net(state, weights, licence=licence, title=path.stem)
        if diffusers_folder:  # first: diffusers takes fewer networks than ComfyUI; one that it does not take leaves no file
            write_diffusers_folder(exported, path.with_name(f"{path.stem}_diffusers"))
        write_control_net(exported, path)
        if lora is not None:
            write_lora(lora, path.with_name(f"{path.stem}_lora.safetensors"))
        return (str(path),)


LORA_FILE_TOOLTIP = (
    "For a LoRA on a ControlNet: also write its adapters alone, under the same name with _lora at its end. Build ControlNet LoRA takes them from the "
    "folder loras to train further; no other program reads them."
)


class Report:
    """report.json."""

    DISPLAY_NAME = "Report"
    CATEGORY, FUNCTION = "Graft/export", "execute"
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("report",)
    OUTPUT_TOOLTIPS = ("The same as text.",)
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes figures, settings, seeds and versions of a training as JSON. With a required edge F1, or required figures of LoRA Exam, it fails "
        "below them, for scripts."
    )
    SEARCH_ALIASES = ("metrics", "save report", "json")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "state": link(STATE, "What Train Steps gave."),
                "file_name": ("STRING", {"default": "report", "tooltip": "Name of the file without ending, in the output folder."}),
                "required_edge_f1": number(0.0, 0.0, 1.0, 0.01, "Fail, after writing, when the edge F1 is lower; 0 never fails."),
            },
            "optional": {
                "measures": link(MEASURES, "What Validation Grid or LoRA Exam measured."),
                "required_new_word_rate": number(0.0, 0.0, 1.0, 0.01, "Fail, after writing, when LoRA Exam's new word rate is lower; 0 never fails."),
                "largest_old_caption_fall": number(
                    1.0, 0.0, 1.0, 0.01, "Fail, after writing, when the rate of right old captions has fallen by more; 1 never fails."
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file_name: str | None) -> bool | str:  # noqa: N802
        return file_name is None or said_early(lambda: output_path(file_name, ".json"))

    def execute(
        self, state: State, file_name: str, required_edge_f1: float, measures: dict[str, Any] | None = None, required_new_word_rate: float = 0.0,
        largest_old_caption_fall: float = 1.0,
    ) -> tuple[str]:  # fmt: skip
        report = training_report(state, measures)
        write_json(output_path(file_name, ".json"), report)
        _require("edge F1", report.get("edge_f1_after"), required_edge_f1, _MORE_STEPS.format("required_edge_f1"))
        _require("new word rate", report.get("new_word_rate_after"), required_new_word_rate, _MORE_STEPS.format("required_new_word_rate"))
        kept = None if "old_caption_rate_after" not in report else 1 + report["old_caption_rate_after"] - report["old_caption_rate_before"]
        _require("old captions kept", kept, 1 - largest_old_caption_fall, _LESS_FORGOTTEN)
        return (json.dumps(report, indent=2),)


_MORE_STEPS = "Everything was made: look at the pictures, train more steps, or set {} of the Report node to 0."
_LESS_FORGOTTEN = "Train fewer steps or at a lower rate, mix in more pictures without the new word, or set largest_old_caption_fall to 1."
_ROUNDING = 1e-9


def _require(subject: str, reached: float | None, required: float, remedy: str) -> None:
    """Raises InputError when a figure that is asked for was not measured, NotPassedError when it is too low."""
    expected = f"at least {required:.2f}"
    if required > 0 and reached is None:
        raise InputError(subject, expected=expected, found="no measures", remedy=remedy)
    if required > 0 and reached is not None and reached < required - _ROUNDING:
        raise NotPassedError(subject, expected=expected, found=f"{reached:.3f}", remedy=remedy)


def output_path(file_name: str, ending: str) -> Path:
    """A file in the output folder; sub-folders are allowed, leaving the folder is not.

    Raises:
        InputError: the folder cannot be written; no name, or one that leads elsewhere.
    """
    folder = current_host().output_folder().resolve()
    require_writable_folder(folder, "output folder")
    path = (folder / f"{file_name}{ending}").resolve()
    if not Path(file_name).name or not path.is_relative_to(folder):
        remedy = "Give a plain name such as 'controlnet'."
        raise InputError("file name", expected="a name inside the output folder", found=repr(file_name), remedy=remedy)
    return path


NODES = {"GraftExportControlNet": ExportControlNet, "GraftReport": Report}

"""Stage 7 of the graph: files and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..training.errors import InputError
from ..training.export import CHOICES, exported_control_net, write_control_net, write_diffusers_folder
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
        "says what it was trained on and how."
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
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file_name: str | None) -> bool | str:  # noqa: N802
        return file_name is None or said_early(lambda: output_path(file_name, ".safetensors"))

    def execute(self, state: State, file_name: str, weights: str, diffusers_folder: bool, licence: str) -> tuple[str]:
        path = output_path(file_name, ".safetensors")
        exported = exported_control_net(state, weights, licence=licence, title=path.stem)
        write_control_net(exported, path)
        if diffusers_folder:
            write_diffusers_folder(exported, path.with_name(f"{path.stem}_diffusers"))
        return (str(path),)


class Report:
    """report.json."""

    DISPLAY_NAME = "Report"
    CATEGORY, FUNCTION = "Graft/export", "execute"
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("report",)
    OUTPUT_TOOLTIPS = ("The same as text.",)
    OUTPUT_NODE = True
    DESCRIPTION = "Writes figures, settings, seeds and versions of a training as JSON. With a required edge F1 it fails below it, for scripts."
    SEARCH_ALIASES = ("metrics", "save report", "json")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "state": link(STATE, "What Train Steps gave."),
                "file_name": ("STRING", {"default": "report", "tooltip": "Name of the file without ending, in the output folder."}),
                "required_edge_f1": number(0.0, 0.0, 1.0, 0.01, "Fail, after writing, when the edge F1 is lower; 0 never fails."),
            },
            "optional": {"measures": link(MEASURES, "What Validation Grid measured.")},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file_name: str | None) -> bool | str:  # noqa: N802
        return file_name is None or said_early(lambda: output_path(file_name, ".json"))

    def execute(self, state: State, file_name: str, required_edge_f1: float, measures: dict[str, Any] | None = None) -> tuple[str]:
        report = training_report(state, measures)
        write_json(output_path(file_name, ".json"), report)
        reached = report.get("edge_f1_after")
        if required_edge_f1 > 0 and (reached is None or reached < required_edge_f1):
            raise InputError(
                "edge F1", expected=f"at least {required_edge_f1:.2f}", found="no measures" if reached is None else f"{reached:.3f}",
                remedy="Look at the validation grid; train more steps or set required_edge_f1 to 0.",
            )  # fmt: skip
        return (json.dumps(report, indent=2),)


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

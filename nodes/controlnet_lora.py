"""Stage 3 of the graph: a LoRA on a ControlNet that was trained before. Everything after it is the ControlNets' own: Train Steps, grid, export."""

from __future__ import annotations

import logging
from typing import Any

from ..training.trainable.controlnet_import import require_controlnet_file
from ..training.trainable.controlnet_lora import ControlNetLoraRecipe
from ..training.trainable.lora import LARGEST_RANK, LoraRecipe
from ..training.trainable.lora_layers import PRESETS
from .host import current_host
from .load import CONTROL_KIND, file_stamp
from .lora import BLOCKS_TOOLTIP, DROPOUT_TOOLTIP, FLAG, LAYERS_TOOLTIP, RANK_TOOLTIP, RSLORA_TOOLTIP
from .types import TRAINABLE, Inputs, choice, number, said_of, seed_input, whole

_log = logging.getLogger(__name__)

LORA_FILES, NEW = "loras", "none"
LORA_TOOLTIP = (
    "A file of adapters that Export ControlNet wrote beside a ControlNet, to train them further: rank, alpha, layers, blocks, rslora and seed are "
    "the file's then. none: new adapters."
)
FILE_TOOLTIP = "A FLUX ControlNet file in the folder controlnet. It has to stay there until the result is exported."


class BuildControlNetLora:
    """Adapters in a ControlNet file."""

    DISPLAY_NAME = "Build ControlNet LoRA"
    CATEGORY, FUNCTION = "Graft/build", "execute"
    RETURN_TYPES, RETURN_NAMES = (TRAINABLE, "STRING"), ("trainable", "notes")
    OUTPUT_TOOLTIPS = (
        "The adapters to train; new ones change nothing before they are trained.", "How large they are, and what they were trained on before."
    )  # fmt: skip
    DESCRIPTION = (
        "A LoRA on a ControlNet that is there already, to teach it other edges or a narrower field with a fraction of the memory. Transformer and "
        "ControlNet stay frozen. Use the state like that of any ControlNet: Trained ControlNet and Export ControlNet give the whole network with the "
        "LoRA merged into it."
    )
    SEARCH_ALIASES = ("controlnet lora", "fine-tune controlnet", "continue controlnet")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        files = current_host().model_files(CONTROL_KIND)
        return {
            "required": {
                "controlnet": (files, {"tooltip": FILE_TOOLTIP}),
                "rank": whole(16, 1, LARGEST_RANK, RANK_TOOLTIP),
                "alpha": number(16.0, 1e-3, 65536.0, 0.5, "The adapters are scaled by alpha / rank. Equal to the rank: not scaled."),
                "layers": choice(PRESETS, LAYERS_TOOLTIP),
                "blocks": ("STRING", {"default": "", "tooltip": BLOCKS_TOOLTIP}),
                "dropout": number(0.0, 0.0, 0.99, 0.01, DROPOUT_TOOLTIP),
                "rslora": (FLAG, {"default": False, "tooltip": RSLORA_TOOLTIP}),
                "seed": seed_input("For the adapters' first values."),
            },
            "optional": {"lora": choice((NEW, *current_host().model_files(LORA_FILES)), LORA_TOOLTIP)},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, controlnet: str | None) -> bool | str:  # noqa: N802
        """Another kind of file is named by its header, before anything is loaded."""
        return said_of(cls, {"controlnet": controlnet}, lambda: require_controlnet_file(current_host().model_path(CONTROL_KIND, str(controlnet))))

    @classmethod
    def IS_CHANGED(cls, controlnet: str, lora: str = NEW, **_: Any) -> str:  # noqa: N802
        """Other files under the same names are another ControlNet and another LoRA."""
        return file_stamp(CONTROL_KIND, controlnet) + ("" if lora == NEW else f" {file_stamp(LORA_FILES, lora)}")

    def execute(self, controlnet: str, dropout: float, lora: str = NEW, **widgets: Any) -> tuple[ControlNetLoraRecipe, str]:
        host = current_host()
        new = LoraRecipe(dropout=dropout, **widgets)
        adapters = new if lora == NEW else LoraRecipe(dropout=dropout, from_file=host.model_path(LORA_FILES, lora))
        recipe = ControlNetLoraRecipe(controlnet=host.model_path(CONTROL_KIND, controlnet), adapters=adapters)
        for note in recipe.notes:
            _log.warning(note)
        return recipe, "\n".join([recipe.extent.in_words(), *recipe.notes])


NODES = {"GraftBuildControlNetLoRA": BuildControlNetLora}

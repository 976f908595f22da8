"""The base in 8 bits while something is trained on it."""

from __future__ import annotations

from typing import Any

from ..training.files.held import FORMS
from .host import current_host
from .types import Inputs, choice, link

FORM_TOOLTIP = (
    "int8: 255 even steps across each row's range, the more exact of the two. fp8 e4m3fn: finer steps near zero. Both have one scale for each row. "
    "Weights that are in 8 bits already stay as they are."
)


class HoldIn8Bit:
    """Half the memory for the frozen base."""

    DISPLAY_NAME = "Hold Base in 8 Bits"
    CATEGORY, FUNCTION = "Graft/load", "execute"
    RETURN_TYPES, RETURN_NAMES = ("MODEL",), ("model",)
    OUTPUT_TOOLTIPS = ("The same transformer; a training on it keeps its blocks in 8 bits.",)
    DESCRIPTION = (
        "Train Steps then keeps the frozen transformer in 8 bits, which takes half the memory of BF16, and computes in BF16 as before. The rounded "
        "weights are another base: trainings on them are stored apart from those in BF16. Files in fp8 stay in 8 bits without this node. "
        "ComfyUI's own sampler goes on with the model as it was loaded."
    )
    SEARCH_ALIASES = ("quantise", "quantize", "int8", "fp8", "low memory", "vram")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"model": link("MODEL", "A FLUX transformer."), "form": choice(tuple(FORMS), FORM_TOOLTIP)}}

    def execute(self, model: Any, form: str) -> tuple[Any]:
        return (current_host().hold_model(model, form),)


NODES = {"GraftHoldIn8Bit": HoldIn8Bit}

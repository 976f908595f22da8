"""Stage 2 of the graph: where in its pictures a data set is learnt from."""

from __future__ import annotations

from typing import Any

from ..training.data.dataset import Dataset
from ..training.data.mask import require_background
from ..training.data.masked import MASK_KINDS, Masked
from .host import current_host
from .sources import known_files
from .types import DATASET, Inputs, choice, link, number, said_of

BACKGROUND_TOOLTIP = "How much counts what is black in a mask: 0 learns nothing there; 0.1 a little, which keeps the rest of a picture sensible."


class Masks:
    """A data set with masks."""

    DISPLAY_NAME = "Dataset Masks"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("The same pictures with their masks.",)
    DESCRIPTION = (
        "Lets the loss count only where a picture's mask is white, in steps of grey. Masks are files beside the pictures (cat-masklabel.png for "
        "cat.jpg) or the pictures' own transparency; they are scaled, cropped and turned with their pictures. A picture without a mask counts whole."
    )
    SEARCH_ALIASES = ("masked loss", "masked training", "alpha mask", "ignore background", "masklabel")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        kinds = "files: a picture of the same name with -masklabel.png at the end. transparency: what is opaque counts."
        return {
            "required": {
                "dataset": link(DATASET, "Pictures that are files."),
                "masks": choice(MASK_KINDS, kinds),
                "background_weight": number(0.0, 0.0, 1.0, 0.05, BACKGROUND_TOOLTIP),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, background_weight: float | None) -> bool | str:  # noqa: N802
        return said_of(cls, {"background_weight": background_weight}, lambda: require_background(float(background_weight or 0)))

    def execute(self, dataset: Dataset, masks: Any, background_weight: float) -> tuple[Masked]:
        masked = Masked(dataset=dataset, kind=masks, background=background_weight)
        masked.scan(known_files(), current_host().progress())
        return (masked,)


NODES = {"GraftMasks": Masks}

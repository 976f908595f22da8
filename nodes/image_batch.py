"""Stage 2 of the graph, other than from a folder: a data set of pictures and hints that other nodes have made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..training.data.canny import CannyRecipe
from ..training.data.captions import require_some_text
from ..training.data.dataset import require_resolution
from ..training.data.image_batch import ImageBatch, store_image_batch
from ..training.errors import InputError
from .data import encoded_folder
from .host import current_host
from .masks import BACKGROUND_TOOLTIP
from .types import DATASET, HINT, Inputs, choice, link, number, said_of, whole


class ImageBatchDataset:
    """Pictures of the graph. It takes lists, so that pictures of several sizes and captions of several nodes arrive in one call."""

    DISPLAY_NAME = "Image Batch Dataset"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    INPUT_IS_LIST = True
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("A description of the data set; its pictures lie on disk.",)
    DESCRIPTION = (
        "Pictures of this graph as a data set, with hints from any preprocessor or by a Canny recipe. Pictures and hints are scaled to cover the "
        "square and cropped at its centre together; hints of the training's resolution are used as they are. The pictures are kept on disk, "
        "known by their content: what was stored and encoded once is found again."
    )
    SEARCH_ALIASES = ("dataset", "training data", "images to dataset", "preprocessor", "depth", "pose")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        captions = "One text for all pictures, one line for each, or a list of texts (a connected list may hold line breaks)."
        return {
            "required": {
                "images": link("IMAGE", "The pictures: a batch, or a list of batches of several sizes."),
                "captions": ("STRING", {"default": "", "multiline": True, "tooltip": captions}),
                "resolution_px": whole(512, 64, 4096, "Side of the square that the model sees, in pixels.", step=16),
                "held_out": whole(16, 0, 100_000, "Pictures that are never trained on: for the held-out loss and the validation grid."),
                "missing_captions": choice(("stop", "empty"), "Pictures without a caption: stop and list them, or train them with none."),
            },
            "optional": {
                "hints": link("IMAGE", "One hint for each picture, in the same order and proportions; the values are used as they are."),
                "recipe": link(HINT, "How hints are made where none are connected; Canny 100/200 if this is not connected either."),
                "masks": link("MASK", "Where each picture counts: one for each, in the same order and proportions. White counts, in steps of grey."),
                "background_weight": number(0.0, 0.0, 1.0, 0.05, BACKGROUND_TOOLTIP),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, captions: Any, resolution_px: Any, held_out: Any, missing_captions: Any) -> bool | str:  # noqa: N802
        """ComfyUI hands every value over as a list here too."""
        text, size, count, missing = (first(value) for value in (captions, resolution_px, held_out, missing_captions))
        numbers = said_of(cls, {"resolution_px": size, "held_out": count}, lambda: require_resolution(int(size)))
        if numbers is not True:
            return numbers
        return said_of(cls, {"captions": text, "missing_captions": missing}, lambda: require_some_text(str(text), missing))

    def execute(
        self, images: Sequence[Tensor], captions: Sequence[Any], resolution_px: Sequence[int], held_out: Sequence[int],
        missing_captions: Sequence[Any], hints: Sequence[Tensor] | None = None, recipe: Sequence[CannyRecipe] | None = None,
        masks: Sequence[Tensor] | None = None, background_weight: Sequence[float] = (0.0,),
    ) -> tuple[ImageBatch]:  # fmt: skip
        _require_one_source(hints, recipe)
        host = current_host()
        stored = store_image_batch(
            images, texts_of(captions), encoded_folder(host), resolution_px=alone("resolution_px", resolution_px),
            hint=alone("recipe", recipe) if recipe else CannyRecipe(), hints=hints, held_out=alone("held_out", held_out),
            caption_missing=alone("missing_captions", missing_captions), masks=masks,
            background=alone("background_weight", background_weight), progress=host.progress(),
        )  # fmt: skip
        return (stored,)


def _require_one_source(hints: Sequence[Any] | None, recipe: Sequence[Any] | None) -> None:
    if hints is not None and recipe is not None:
        remedy = "Disconnect one of the two."
        raise InputError("hints", expected="either hints or a recipe to make them by", found="both", remedy=remedy)


def first(value: Any) -> Any:
    """A widget's value, whether it comes alone or as the one entry of a list."""
    return value[0] if isinstance(value, (list, tuple)) and value else value


def texts_of(given: Sequence[Any]) -> list[Any]:
    """Captions as ComfyUI hands them over: each entry is a text, or a list of texts from nodes that make one value of them."""
    return [text for entry in given for text in (entry if isinstance(entry, (list, tuple)) else [entry])]


def alone(name: str, values: Sequence[Any]) -> Any:
    """The one value of an input that is no list.

    Raises:
        InputError: several different ones are connected.
    """
    if len(values) < 1 or any(value != values[0] for value in values):
        raise InputError(name, expected="one value", found=f"{len(values)} in a list", remedy="Connect a single value.")
    return values[0]


NODES = {"GraftImageBatch": ImageBatchDataset}

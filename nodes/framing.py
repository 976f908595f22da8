"""Stage 2 of the graph: how a data set's pictures are cut to size, and in which views each is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..training.data.buckets import Buckets
from ..training.data.dataset import Dataset
from ..training.data.framing import ROTATION_LIMIT_DEGREES, VIEWS_LIMIT, Framing
from .types import DATASET, Inputs, choice, link, number, said_of, whole

SIZES = ("square", "buckets", "buckets, none enlarged")


class CutPictures:
    """A data set with another framing."""

    DISPLAY_NAME = "Buckets and Views"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("The same data set, cut another way.",)
    DESCRIPTION = (
        "Lets pictures keep their proportions: each goes into the aspect bucket that kohya's trainers would choose, and every batch has one size. "
        "Mirrored and turned views of each picture, and views cropped elsewhere, can be added; hints and masks go the same way as their pictures. "
        "The data set's resolution gives the area."
    )
    SEARCH_ALIASES = ("aspect ratio bucketing", "augmentation", "flip", "rotate", "random crop", "kohya")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        turned = "Further views of each picture, turned by a drawn angle; each is encoded and kept by itself."
        cropped = "Further views of each picture, cropped at a drawn place in place of the middle; what fits without cropping has none."
        return {
            "required": {
                "dataset": link(DATASET, "Whose pictures are cut."),
                "sizes": choice(SIZES, "One square for all, buckets of about its area, or buckets that enlarge no picture."),
                "min_px": whole(256, 16, 8192, "Shortest side of a bucket, in pixels.", step=16),
                "max_px": whole(1024, 16, 8192, "Longest side of a bucket, in pixels: at a resolution of 1024, take 2048.", step=16),
                "step_px": whole(64, 16, 512, "Sides of buckets are multiples of this.", step=16),
                "flip": ("BOOLEAN", {"default": False, "tooltip": "Pictures are mirrored in about half of the epochs: not where sides matter."}),
                "turned_views": whole(0, 0, 7, turned),
                "rotation_degrees": number(0.0, 0.0, ROTATION_LIMIT_DEGREES, 0.5, "The largest angle of turned views, to either side."),
            },
            "optional": {"cropped_views": whole(0, 0, VIEWS_LIMIT - 1, cropped)},
        }

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, sizes: Any, min_px: Any, max_px: Any, step_px: Any, turned_views: Any, rotation_degrees: Any, cropped_views: Any = 0
    ) -> bool | str:
        given = {
            "sizes": sizes, "min_px": min_px, "max_px": max_px, "step_px": step_px, "turned_views": turned_views,
            "rotation_degrees": rotation_degrees, "cropped_views": cropped_views,
        }  # fmt: skip
        return said_of(cls, given, lambda: framing_of(**given, flip=False))

    def execute(
        self, dataset: Dataset, sizes: str, min_px: int, max_px: int, step_px: int, flip: bool, turned_views: int, rotation_degrees: float,
        cropped_views: int = 0,
    ) -> tuple[Dataset]:  # fmt: skip
        framing = framing_of(sizes, min_px, max_px, step_px, flip, turned_views, rotation_degrees, cropped_views)
        changed: Any = dataset
        return (replace(changed, framing=framing),)


def framing_of(
    sizes: str, min_px: int, max_px: int, step_px: int, flip: bool, turned_views: int, rotation_degrees: float, cropped_views: int = 0
) -> Framing:
    """The widgets' values as the engine's framing.

    Raises:
        InputError: values that do not go together.
    """
    buckets = None if sizes == SIZES[0] else Buckets(min_px=min_px, max_px=max_px, step_px=step_px, upscale=sizes == SIZES[1])
    return Framing(buckets=buckets, flip=flip, turned_views=turned_views, rotation_degrees=rotation_degrees, cropped_views=cropped_views)


NODES = {"GraftFraming": CutPictures}

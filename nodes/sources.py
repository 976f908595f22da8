"""Stage 2 of the graph, from anywhere: pictures of every layout as data sets, several as one, their captions' rules, and a look before training."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ..training.data.caption_rules import VARIANTS_LIMIT, CaptionRules
from ..training.data.check import check_dataset
from ..training.data.check_sheet import contact_sheet
from ..training.data.check_text import report_text
from ..training.data.combined import REPEATS_LIMIT, WEIGHT_LIMITS, Combined, Part
from ..training.data.dataset import Dataset, GivenHints, HintRecipe, require_resolution
from ..training.data.picture_set import PictureSet
from ..training.data.sources.choose import KINDS, Origin, gives_hints, open_source
from ..training.data.sources.columns import Columns
from ..training.errors import InputError
from .data import encoded_folder, image_folder_path, known_files
from .host import current_host
from .types import DATASET, HINT, Inputs, choice, link, number, said_of, whole

KIND_TOOLTIP = (
    "auto: by what lies there. folder: pictures with .txt or .caption files, also in folders inside it, where 10_name means ten times an epoch. "
    "table: metadata.jsonl or metadata.csv. tar: WebDataset archives. parquet: tables with the pictures in them; needs the package pyarrow."
)
HINTS_TOOLTIP = "A folder of ready-made hints under the pictures' names; a relative path starts in the input folder. Empty: none, or the table's."


class PictureSource:
    """Pictures of any layout."""

    DISPLAY_NAME = "Picture Source"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("A description of the data set; nothing is loaded yet.",)
    DESCRIPTION = (
        "Pictures from folders inside folders with kohya's repeats, from a Hugging Face table of file names, captions and conditioning images, from "
        "two folders of pictures and hints, from WebDataset archives or parquet tables. Everything wrong with them is listed at once."
    )
    SEARCH_ALIASES = ("dataset", "kohya", "webdataset", "parquet", "imagefolder", "conditioning images", "fill50k")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        column = "Column of the table, or what follows the first dot in an archive, that holds the {}. Empty: the usual names."
        return {
            "required": {
                "path": ("STRING", {"default": "", "tooltip": "A folder, table or archive; a relative path starts in the input folder."}),
                "kind": choice(KINDS, KIND_TOOLTIP),
                "resolution_px": whole(512, 64, 4096, "Side of the square that the model sees, in pixels.", step=16),
                "held_out": whole(16, 0, 100_000, "Pictures that are never trained on: for the held-out loss and the validation grid."),
                "held_out_share": number(0.0, 0.0, 0.9, 0.01, "The same as a share of all pictures, which adding pictures never moves. 0: none."),
                "missing_captions": choice(
                    ("stop", "empty", "folder name"), "Pictures without a caption: stop and list them, train them with none, or by kohya's folder.",
                ),
                "unreadable_pictures": choice(("stop", "skip"), "Pictures that cannot be read: stop and list them, or leave them out."),
                "hints": ("STRING", {"default": "", "tooltip": HINTS_TOOLTIP}),
                "picture_column": ("STRING", {"default": "", "tooltip": column.format("pictures")}),
                "caption_column": ("STRING", {"default": "", "tooltip": column.format("captions")}),
                "hint_column": ("STRING", {"default": "", "tooltip": column.format("hints")}),
            },
            "optional": {"recipe": link(HINT, "How hints are made. Not connected: the source's own hints, or Canny 100/200 where it has none.")},
        }  # fmt: skip

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, path: str | None, kind: Any, resolution_px: int | None, hints: str | None, missing_captions: Any
    ) -> bool | str:
        """A place where nothing lies is told before anything is loaded; pictures are looked at when the node runs."""
        given = {"kind": kind, "resolution_px": resolution_px, "missing_captions": missing_captions}
        size = said_of(cls, given, lambda: require_resolution(int(resolution_px or 0)))
        return said_of(cls, {"path": path, "hints": hints}, lambda: open_source(_origin(str(path), kind, str(hints)))) if size is True else size

    @classmethod
    def IS_CHANGED(cls, path: str | None, kind: Any = "auto", hints: str | None = "", **_: Any) -> Any:  # noqa: N802
        """A linked path is not known yet (None): the node that gives it answers for it. Not equal to itself: look again."""
        if path is None or kind is None or hints is None:
            return ""
        try:
            return open_source(_origin(path, kind, hints)).stamp() or float("nan")
        except InputError:  # said by VALIDATE_INPUTS and by the run
            return float("nan")

    def execute(
        self, path: str, kind: Any, resolution_px: int, held_out: int, held_out_share: float, missing_captions: Any, unreadable_pictures: Any,
        hints: str, picture_column: str, caption_column: str, hint_column: str, recipe: HintRecipe | None = None,
    ) -> tuple[PictureSet]:  # fmt: skip
        columns = Columns(picture=picture_column.strip(), caption=caption_column.strip(), hint=hint_column.strip())
        source = open_source(_origin(path, kind, hints, columns))
        drawn = {} if recipe is None else {"hint": recipe}
        described = PictureSet(
            source=source, resolution_px=resolution_px, held_out=held_out, held_out_share=held_out_share, caption_missing=missing_captions,
            on_unreadable=unreadable_pictures, **(drawn or ({"hint": GivenHints()} if gives_hints(source) else {})),
        )  # fmt: skip
        described.scan(known_files(), current_host().progress())
        return (described,)


def _origin(path: str, kind: Any, hints: str, columns: Columns | None = None) -> Origin:
    folder = image_folder_path(hints) if hints.strip() else None
    return Origin(path=image_folder_path(path), kind=kind, columns=columns or Columns(), hints=folder)


class DatasetOptions:
    """How a data set comes in, and what becomes of its captions."""

    DISPLAY_NAME = "Dataset Options"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("The same pictures with other captions, more or less often.",)
    DESCRIPTION = (
        "Repeats and weight of a data set beside others, a prefix and a trigger word for its captions, shuffled tags and alternatives. Texts that "
        "are drawn are made ahead and encoded once; each epoch takes one of them, the same in every run with the same seed."
    )
    SEARCH_ALIASES = ("trigger word", "caption prefix", "shuffle tags", "keep tokens", "wildcards", "repeats")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        low, high = WEIGHT_LIMITS
        return {
            "required": {
                "dataset": link(DATASET, "The data set."),
                "repeats": whole(1, 1, REPEATS_LIMIT, "How often each picture comes in an epoch; multiplies the repeats of its folder's name."),
                "weight": number(1.0, low, high, 0.1, "How often for each repeat: 0.5 takes a picture in every second epoch."),
                "caption_prefix": ("STRING", {"default": "", "tooltip": "Stands before every caption, with a space between."}),
                "trigger_word": ("STRING", {"default": "", "tooltip": "Takes the place of [trigger], or comes first where a caption has neither."}),
                "shuffle_tags": ("BOOLEAN", {"default": False, "tooltip": "Whether tags come in another order from epoch to epoch."}),
                "keep_tags": whole(1, 0, 100, "So many tags stay at the beginning. A triple bar in a caption keeps what stands before it."),
                "separator": ("STRING", {"default": ",", "tooltip": "What stands between tags."}),
                "wildcards": ("BOOLEAN", {"default": False, "tooltip": "Whether one of alternatives in braces, or of a caption's lines, is drawn."}),
                "caption_variants": whole(8, 1, VARIANTS_LIMIT, "Texts that are made of each caption where any are drawn; all are encoded ahead."),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, separator: str | None) -> bool | str:  # noqa: N802
        return said_of(cls, {"separator": separator}, lambda: CaptionRules(separator=str(separator)))

    def execute(
        self, dataset: Dataset, repeats: int, weight: float, caption_prefix: str, trigger_word: str, shuffle_tags: bool, keep_tags: int,
        separator: str, wildcards: bool, caption_variants: int,
    ) -> tuple[Combined]:  # fmt: skip
        rules = CaptionRules(
            prefix=caption_prefix, trigger_word=trigger_word, shuffle_tags=shuffle_tags, keep_tags=keep_tags, separator=separator,
            wildcards=wildcards, variants=caption_variants,
        )  # fmt: skip
        return (Combined(parts=(Part(dataset=dataset, repeats=repeats, weight=weight, captions=rules),)),)


class CombineDatasets:
    """Several data sets as one."""

    DISPLAY_NAME = "Combine Datasets"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("All of them as one data set.",)
    DESCRIPTION = (
        "Several data sets as one, whatever they come from. They must agree in resolution, buckets and hints; how often each comes is set by Dataset "
        "Options. A data set for validation is never trained on, nor is a copy of any of its pictures. More than four: combine combinations."
    )
    SEARCH_ALIASES = ("merge datasets", "concatenate", "validation set", "multiple datasets")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "dataset_1": link(DATASET, "A data set to train on."),
                "held_out_share": number(0.0, 0.0, 0.9, 0.01, "Share of all pictures that is held out beside what the data sets hold out. 0: none."),
            },
            "optional": {
                **{f"dataset_{place}": link(DATASET, "One more data set to train on.") for place in (2, 3, 4)},
                "validation": link(DATASET, "A data set of which nothing is trained on: for the held-out loss and the validation grid."),
            },
        }

    def execute(self, dataset_1: Dataset, held_out_share: float, validation: Dataset | None = None, **others: Dataset) -> tuple[Combined]:
        parts = [Part(dataset=dataset) for dataset in (dataset_1, *(others[name] for name in sorted(others))) if dataset is not None]
        kept = [] if validation is None else [Part(dataset=validation, is_held_out=True)]
        return (Combined(parts=(*parts, *kept), held_out_share=held_out_share),)


class CheckDataset:
    """A look at a data set before anything is trained."""

    DISPLAY_NAME = "Check Dataset"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    OUTPUT_NODE = True
    RETURN_TYPES, RETURN_NAMES = ("STRING", "IMAGE", "STRING"), ("report", "sheet", "json")
    OUTPUT_TOOLTIPS = (
        "Counts, problems, sizes, buckets, doubles and costs in words.", "Some pictures as they are trained, their hints under them.",
        "The same figures for scripts, every problem listed.",
    )  # fmt: skip
    DESCRIPTION = (
        "Looks at every file once and reports before anything is trained: sizes, buckets and what is cropped away, broken files, missing captions "
        "and partners, doubles, disk and time. What it reads is remembered: encoding need not read it again. It does not stop a run."
    )
    SEARCH_ALIASES = ("preflight", "dataset report", "contact sheet", "duplicates")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "dataset": link(DATASET, "What to look at."),
                "pictures": whole(12, 1, 96, "Pictures on the contact sheet."),
            }
        }

    def execute(self, dataset: Dataset, pictures: int) -> tuple[str, Tensor, str]:
        host = current_host()
        check = check_dataset(dataset, "Data set", encoded_folder(host), known_files(), host.progress())
        sheet, report = contact_sheet(dataset, check, pictures)
        picture = torch.from_numpy(sheet).float().div(255).unsqueeze(0)
        return (report_text(report), picture, json.dumps(report.as_json(), ensure_ascii=False, indent=2))


NODES = {
    "GraftPictureSource": PictureSource, "GraftDatasetOptions": DatasetOptions, "GraftCombineDatasets": CombineDatasets,
    "GraftCheckDataset": CheckDataset,
}  # fmt: skip

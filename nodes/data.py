"""Stage 2 of the graph: pictures, captions and hints, and what the transformer sees of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ..training.data.canny import CannyRecipe, canny_images
from ..training.data.dataset import Dataset, DrawnRecipe, require_resolution
from ..training.data.encode import encode_dataset
from ..training.data.encoded import ENCODED_FOLDER, Encoded
from ..training.data.folder import ImageFolder, picture_files
from ..training.data.known import KnownFiles, known_in
from ..training.data.shape_styles import STYLES
from ..training.data.shapes import shapes_folder
from ..training.errors import InputError
from ..training.trainable.base import Recipe
from .host import Host, current_host
from .types import DATASET, ENCODED, HINT, TRAINABLE, Inputs, choice, link, said_of, seed_input, whole

STYLE_TOOLTIP = (
    "framed: every picture has a frame in its figure's colour and the word 'framed' in its caption, which the nano FLUX does not know: something for "
    "a LoRA to learn. royal: yellow figures on purple, with that word in place of the colours: a few pictures teach it. half: every second one, so "
    "that pictures without the word stay as they are."
)


class DrawShapes:
    """Generated training pictures."""

    DISPLAY_NAME = "Draw Shapes (training pictures)"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("folder",)
    OUTPUT_TOOLTIPS = ("The folder that holds the pictures and their captions.",)
    DESCRIPTION = (
        "Writes a folder of coloured shapes with captions, to try a training without data of your own. A folder that is there already with the "
        "same count, seed and size is used as it is; one with anything else in it is left alone, and the node says so."
    )
    SEARCH_ALIASES = ("fill50k", "synthetic data", "example dataset")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "folder": ("STRING", {"default": "graft_shapes", "tooltip": "Where to write; a relative path starts in the input folder."}),
                "count": whole(1088, 1, 100_000, "How many pictures."),
                "size_px": whole(128, 32, 2048, "Side of the square pictures, in pixels.", step=16),
                "seed": seed_input("Other seeds give other pictures."),
                "style": choice(STYLES, STYLE_TOOLTIP),
            }
        }

    def execute(self, folder: str, count: int, size_px: int, seed: int, style: str = STYLES[0]) -> tuple[str]:
        host = current_host()
        path = (host.input_folder() / folder).absolute()  # what receives it may start relative paths elsewhere
        shapes_folder(path, count=count, seed=seed, size_px=size_px, progress=host.progress(), style=style)
        return (str(path),)


class CannyHint:
    """Edges of pictures, and the recipe by which a data set makes the same."""

    DISPLAY_NAME = "Canny Hint"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", HINT), ("hint", "recipe")
    OUTPUT_TOOLTIPS = ("White edges on black; nothing when no image is connected.", "The same recipe for a data set's hints.")
    DESCRIPTION = (
        "Canny edges by OpenCV, exactly as a data set's hints are made: connect `recipe` to Image Folder and use `hint` to test the trained "
        "ControlNet. With ranges, each picture gets thresholds of its own in each epoch, which makes a ControlNet that bears other edges."
    )
    SEARCH_ALIASES = ("edge detection", "canny preprocessor", "control hint")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "low": whole(100, 0, 1000, "Lower threshold: a pixel above it is an edge if it touches a strong one."),
                "high": whole(200, 1, 1000, "Upper threshold: a pixel above it is an edge."),
                "low_to": whole(0, 0, 1000, "Upper end of the range from which training draws `low`; at or below `low`: fixed."),
                "high_to": whole(0, 0, 1000, "Upper end of the range from which training draws `high`; at or below `high`: fixed."),
            },
            "optional": {"image": link("IMAGE", "Pictures to make hints of; not needed for the recipe alone.")},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, low: int | None, high: int | None, low_to: int | None, high_to: int | None) -> bool | str:  # noqa: N802
        given: dict[str, Any] = {"low": low, "high": high, "low_to": low_to, "high_to": high_to}
        return said_of(cls, given, lambda: canny_recipe(**given))

    def execute(self, low: int, high: int, low_to: int, high_to: int, image: Tensor | None = None) -> tuple[Tensor | None, CannyRecipe]:
        recipe = canny_recipe(low, high, low_to, high_to)
        return (None if image is None else canny_images(image, low, high), recipe)


def canny_recipe(low: int, high: int, low_to: int, high_to: int) -> CannyRecipe:
    """The widgets' values as the engine's recipe; an upper end at or below its lower one means a fixed threshold."""
    return CannyRecipe((low, max(low, low_to)), (high, max(high, high_to)))


class Folder:
    """A folder of pictures with captions."""

    DISPLAY_NAME = "Image Folder"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (DATASET,), ("dataset",)
    OUTPUT_TOOLTIPS = ("A description of the data set; nothing is loaded yet.",)
    DESCRIPTION = (
        "Pictures with a text file of the same name as caption. Each picture is scaled to cover the square, cropped at its centre, and its hint "
        "is made from what is left. Everything wrong with the folder is listed at once."
    )
    SEARCH_ALIASES = ("dataset", "training data", "load images from folder")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "folder": ("STRING", {"default": "", "tooltip": "The folder; a relative path starts in the input folder."}),
                "resolution_px": whole(512, 64, 4096, "Side of the square that the model sees, in pixels.", step=16),
                "held_out": whole(16, 0, 100_000, "Pictures that are never trained on: for the held-out loss and the validation grid."),
                "missing_captions": choice(("stop", "empty"), "Pictures without a caption: stop and list them, or train them with none."),
                "unreadable_pictures": choice(("stop", "skip"), "Pictures that cannot be read: stop and list them, or leave them out."),
            },
            "optional": {"hint": link(HINT, "How hints are made; Canny 100/200 if nothing is connected.")},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None, resolution_px: int | None) -> bool | str:  # noqa: N802
        """A folder without pictures is told before anything is loaded; each picture is looked at when the node runs."""
        size = said_of(cls, {"resolution_px": resolution_px}, lambda: require_resolution(int(resolution_px or 0)))
        return said_of(cls, {"folder": folder}, lambda: picture_files(image_folder_path(str(folder)))) if size is True else size

    @classmethod
    def IS_CHANGED(cls, folder: str | None, **_: Any) -> str:  # noqa: N802
        """A linked folder is not known yet (None): the node that gives it answers for it."""
        return "" if folder is None else folder_stamp(current_host().input_folder() / folder)

    def execute(
        self, folder: str, resolution_px: int, held_out: int, missing_captions: Any, unreadable_pictures: Any, hint: DrawnRecipe | None = None
    ) -> tuple[ImageFolder]:
        path = image_folder_path(folder)
        recipe = hint or CannyRecipe()
        described = ImageFolder(path, resolution_px, recipe, held_out, on_unreadable=unreadable_pictures, caption_missing=missing_captions)
        described.scan(known_files(), current_host().progress())
        return (described,)


def image_folder_path(folder: str) -> Path:
    """The folder that a user named.

    Raises:
        InputError: no name at all, which would be the whole input folder.
    """
    if not folder.strip():
        remedy = "Type the name of a folder inside the input folder, or a whole path."
        raise InputError("folder", expected="a folder of pictures with captions", found="no name", remedy=remedy)
    return current_host().input_folder() / folder


def folder_stamp(path: Path) -> str:
    """Names, sizes and times of a folder's files: enough to notice that it changed, without reading it."""
    if not path.is_dir():
        return ""
    with os.scandir(path) as entries:
        found = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
    return str([(name, state.st_size, state.st_mtime_ns) for name, state in found])


def encoded_folder(host: Host) -> Path:
    """Where everything that data sets are encoded to lies."""
    return host.cache_folder() / ENCODED_FOLDER


def known_files() -> KnownFiles:
    """What is known of files already, for every node and run that uses this cache."""
    return known_in(encoded_folder(current_host()))


class EncodeDataset:
    """A data set as the transformer sees it, on disk."""

    DISPLAY_NAME = "Encode Dataset"
    CATEGORY, FUNCTION = "Graft/data", "execute"
    RETURN_TYPES, RETURN_NAMES = (ENCODED,), ("data",)
    OUTPUT_TOOLTIPS = ("Latents, text embeddings and hints on disk, ready to train on.",)
    DESCRIPTION = (
        "Encodes pictures and captions once, with the graph's own VAE and CLIP, and keeps the result on disk: the next run finds it, "
        "changed captions or another CLIP leave the pictures' latents as they are, another VAE the text embeddings, and hints for another "
        "ControlNet layout are added to what is there."
    )
    SEARCH_ALIASES = ("cache latents", "precompute", "text embeddings")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        kohya = "Takes latents that sd-scripts has cached beside the pictures (..._flux.npz) where they fit; the others are encoded here."
        return {
            "required": {
                "dataset": link(DATASET, "What to encode."),
                "clip": link("CLIP", "Encodes the captions."),
                "vae": link("VAE", "Encodes the pictures, and the hints of an InstantX ControlNet."),
                "trainable": link(TRAINABLE, "What will be trained: it decides the form of the hints."),
                "hint_variants": whole(4, 1, 64, "InstantX with drawn thresholds: hints per picture that are encoded ahead."),
            },
            "optional": {"kohya_latents": ("BOOLEAN", {"default": False, "tooltip": kohya})},
        }

    def execute(
        self, dataset: Dataset, clip: Any, vae: Any, trainable: Recipe, hint_variants: int, kohya_latents: bool = False
    ) -> tuple[Encoded]:
        host = current_host()
        encoded = encode_dataset(
            dataset,
            lambda pixels: host.encode_images(vae, pixels.movedim(1, -1)),
            lambda captions: host.encode_text(clip, captions),
            image_identity=host.vae_fingerprint(vae),
            text_identity=host.clip_fingerprint(clip),
            folder=encoded_folder(host),
            progress=host.progress(),
            hint_form=trainable.hint_form,
            hint_variants=hint_variants,
            kohya_latents=kohya_latents,
        )
        return (encoded,)


NODES = {"GraftDrawShapes": DrawShapes, "GraftCannyHint": CannyHint, "GraftImageFolder": Folder, "GraftEncodeDataset": EncodeDataset}

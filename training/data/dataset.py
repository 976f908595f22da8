"""What every data set is to those who encode it: pictures with captions and hints, known by content, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .canny import CannyRecipe
from .framing import Framing
from .hints import DrawnHint, recipe_fields, recipe_of
from .known import KnownFiles

if TYPE_CHECKING:
    from .mask import Mask
    from .sources.place import Place

RESOLUTION_STEP_PX = 16
PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture with its caption, known by content. It holds no picture."""

    name: str
    """What the user knows it by: a file's name, a place in a batch. No two of a data set are the same."""
    caption: str
    digest: str
    """SHA-256 of the picture, before it is scaled."""
    hint_digest: str = ""
    """SHA-256 of its hint, where hints are given as pictures."""
    lines: tuple[str, ...] = ()
    """The caption's own lines, where it has several."""
    captions: tuple[str, ...] = ()
    """The texts of which each epoch draws one, where captions vary; empty where `caption` is the only one."""
    size_px: tuple[int, int] = (0, 0)
    """Width and height of the upright picture, before it is scaled; needed where pictures go into buckets."""
    repeats: int = 1
    """How often it comes in each epoch. Copies are drawn, shuffled and cropped like pictures of their own."""
    weight: float = 1.0
    """How often it comes for each repeat: 0.5 is in every second epoch. Times per epoch are repeats * weight."""
    is_held_out: bool = False
    """Whether its source is one that is never trained on."""
    place: Place | None = field(default=None, compare=False, repr=False)
    """Where the picture lies: `place.picture(digest)` gives it upright in its own size."""
    hint_place: Place | None = field(default=None, compare=False, repr=False)
    """The same for its given hint, by `hint_digest`."""
    mask_digest: str = ""
    """Stands for its mask and for what counts outside of it; empty where all of the picture counts alike."""
    mask: Mask | None = field(default=None, compare=False, repr=False)
    """Its mask."""
    caption_fault: str = field(default="", compare=False, repr=False)
    """Why its source has no text for it, in the words of a problem; empty where it has one."""


@dataclass(frozen=True)
class GivenHints:
    """Hints that come as pictures beside the data's own, made by any program; nothing is drawn."""

    @property
    def is_fixed(self) -> bool:
        """Whether every picture always gets the same hint."""
        return True

    def describe(self) -> str:
        """In words, for file metadata and reports."""
        return "given as pictures"


DrawnRecipe: TypeAlias = "CannyRecipe | DrawnHint"
HintRecipe: TypeAlias = "DrawnRecipe | GivenHints"


def hint_fields(recipe: HintRecipe) -> dict[str, Any]:
    """A recipe as plain values; `hint_recipe` reads them back."""
    return {"given": True} if isinstance(recipe, GivenHints) else recipe_fields(recipe)


def hint_recipe(fields: dict[str, Any]) -> HintRecipe:
    return GivenHints() if "given" in fields else recipe_of(fields)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one picture."""

    name: str
    what: str


class Dataset(Protocol):
    """A description of pictures, captions and hints, from which they can be read one by one."""

    @property
    def resolution_px(self) -> int:
        """Side of the square to which every picture is scaled and cropped at its centre."""

    @property
    def framing(self) -> Framing:
        """How pictures are cut to size: framing.PLAIN for squares, or buckets, mirrored and turned views."""

    @property
    def hint(self) -> HintRecipe:
        """How hints come about."""

    @property
    def held_out(self) -> int:
        """How many pictures are kept for validation and never trained on."""

    @property
    def on_unreadable(self) -> Literal["stop", "skip"]:
        """What to do about pictures that turn out to be unreadable."""

    def scan(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> tuple[Sample, ...]:
        """All samples. Raises InputError listing what is wrong with them.

        Args:
            known: what earlier calls learnt of files that have not changed, so that they are not read again; filled with what is learnt now.
            progress: hears of pictures.
        """

    def look(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> Iterator[Sample | Problem]:
        """The same one by one, with what is wrong in place of samples that cannot be used. Raises InputError: nothing can be looked at."""

    def lone_captions(self) -> Iterator[str]:
        """Names of caption files that belong to no picture. None is read. Raises InputError: nothing can be looked at."""

    def stamp(self) -> str:
        """Stands for names, sizes and times of all files and for all settings: `scan` gives the same while it is the same.

        Nothing is read for it. Empty if it cannot be told.
        """

    def split(self, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
        """Positions of the samples to train on, and of those to validate with, both in their order. Raises InputError: none to train on."""

    def read(self, sample: Sample) -> np.ndarray:
        """Its picture, uint8 RGB [resolution_px, resolution_px, 3]. Raises UnreadablePictureError."""

    def read_whole(self, sample: Sample) -> np.ndarray:
        """Its picture as it is, decoded and upright, uint8 RGB [H, W, 3]. Asked for where `framing` is not plain."""

    def read_hint(self, sample: Sample) -> np.ndarray:
        """Its given hint, scaled and cropped like the picture, uint8 RGB. Raises InputError."""

    def read_whole_hint(self, sample: Sample) -> np.ndarray:
        """Its given hint as it is, of the picture's proportions, uint8 RGB. Asked for where `framing` is not plain."""

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        """A hash of everything that training sees."""

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        """Stops with a list of all problems, or logs them where the user chose to skip."""


def require_resolution(resolution_px: int) -> None:
    """Raises:
    InputError: the side of the square cannot be encoded.
    """
    if resolution_px < RESOLUTION_STEP_PX or resolution_px % RESOLUTION_STEP_PX:
        remedy = f"{max(round(resolution_px / RESOLUTION_STEP_PX), 1) * RESOLUTION_STEP_PX} is the nearest."
        raise InputError("resolution", expected=f"a multiple of {RESOLUTION_STEP_PX}", found=resolution_px, remedy=remedy)


def require_held_out(held_out: int) -> None:
    """Raises:
    InputError: a negative number of held-out pictures.
    """
    if held_out < 0:
        raise InputError("held-out pictures", expected="0 or more", found=held_out, remedy="Hold out 16, for example.")


def split_held_out(digests: Sequence[str], held_out: int) -> tuple[list[int], list[int]]:
    """Splits samples into training and held-out ones by their pictures' content.

    The held-out ones are those with the smallest digests, so the split depends neither on names nor on captions, and adding a
    picture moves at most one. Copies of a held-out picture are in neither part: they would be trained on otherwise.

    Returns:
        Positions of the training samples and of the held-out ones, both in the samples' own order.

    Raises:
        InputError: nothing would be left to train on.
    """
    chosen = set(sorted(set(digests))[:held_out])
    train = [position for position, digest in enumerate(digests) if digest not in chosen]
    first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
    if not train:
        found = f"{len(set(digests))} different usable pictures, of which {held_out} are to be held out"
        raise InputError("held-out pictures", expected="fewer than there are pictures", found=found, remedy="Hold out fewer, or add some.")
    return train, sorted(first[digest] for digest in chosen)


def list_problems(problems: Sequence[Problem]) -> str:
    """The count and the first PROBLEMS_SHOWN problems, each with the name of its picture."""
    shown = "; ".join(f"{problem.name} {problem.what}" for problem in problems[:PROBLEMS_SHOWN])
    rest = len(problems) - PROBLEMS_SHOWN
    return f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}: {shown}" + (f"; and {rest} more" if rest > 0 else "")

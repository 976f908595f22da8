"""A folder of pictures with captions beside them: what is in it, and everything that is wrong with it, said at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .canny import CannyRecipe
from .dataset import Problem, Sample, list_problems, require_held_out, require_resolution, split_held_out
from .framing import PLAIN, Framing
from .hints import DrawnHint, hint_key
from .keys import content_key
from .known import IN_MEMORY, KnownFiles
from .picture import read_picture
from .placed import PlacedPictures
from .policy import Policy
from .sources.folder_tree import PICTURE_ENDINGS, FolderTree
from .sources.record import Record
from .sources.scan import CAPTION_LIMIT_BYTES, Scanner
from .sources.table import TABLE_NAMES

__all__ = [
    "CAPTION_LIMIT_BYTES", "PICTURE_ENDINGS", "ImageFolder", "Problem", "Sample", "list_problems", "picture_files", "read_picture",
    "split_held_out",
]  # fmt: skip

# Part of every key: raise it when the same files would give other pictures or captions.
_DATA_VERSION = 1


@dataclass(frozen=True)
class ImageFolder(PlacedPictures):
    """Describes a data set: a folder of pictures, each with a caption in a .txt or .caption file of the same name. Nothing is loaded.

    Raises:
        InputError: settings out of range.
    """

    path: Path
    """The folder; its sub-folders are not looked into."""
    resolution_px: int = 512
    """Side of the square to which every picture is scaled and cropped at its centre; a multiple of 16."""
    hint: CannyRecipe | DrawnHint = field(default_factory=CannyRecipe)
    """How hints are made from the scaled and cropped picture."""
    held_out: int = 0
    """How many pictures are kept for validation and never trained on."""
    on_unreadable: Literal["stop", "skip"] = "stop"
    """What to do about pictures or captions that cannot be read: list them and stop, or leave them out."""
    caption_missing: Literal["stop", "empty"] = "stop"
    """What to do about pictures without a caption: list them and stop, or train them with the empty caption."""
    framing: Framing = PLAIN
    """Buckets, mirrored and turned views; the default is the square."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        require_resolution(self.resolution_px)
        require_held_out(self.held_out)
        if self.framing.buckets is not None:
            self.framing.buckets.require_resolution(self.resolution_px)
        _require_choice("on_unreadable", self.on_unreadable, ("stop", "skip"))
        _require_choice("caption_missing", self.caption_missing, ("stop", "empty"))

    @property
    def source(self) -> FolderTree:
        """The pictures as records."""
        return FolderTree(self.path, nested=False, subject_kind="image folder")

    def scan(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> tuple[Sample, ...]:
        """Reads every picture's header and every caption, in the order of their names.

        Raises:
            InputError: no folder, no pictures, too few for the held-out ones; or unreadable files or missing captions, all listed.
        """
        samples = self._policy.sort_out(self.look(known, progress))
        if not samples:
            raise _no_pictures(self.path)
        self.split(samples)
        return samples

    def look(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> Iterator[Sample | Problem]:
        return Scanner(self.caption_missing, IN_MEMORY if known is None else known, progress).samples(self.source.entries())

    def lone_captions(self) -> Iterator[str]:
        return self.source.lone_captions()

    def stamp(self) -> str:
        files = self.source.stamp()
        return content_key("image folder", _DATA_VERSION, files, str(self)) if files else ""

    def split(self, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
        return split_held_out([sample.digest for sample in samples], self.held_out)

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        """A hash of everything that training sees: picture and caption contents, their order, resolution, hint and split.

        Args:
            samples: what `scan` gave, if that is at hand; otherwise the folder is scanned.
        """
        contents = [[sample.digest, sample.caption] for sample in (self.scan() if samples is None else samples)]
        setup = (self.resolution_px, *hint_key(self.hint), self.held_out, *self.framing.key())
        return content_key("image folder", _DATA_VERSION, contents, *setup)

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        """Stops with a list of all problems, or logs them where the user chose to skip.

        Raises:
            InputError: there are problems and the user did not choose to skip unreadable files.
        """
        self._policy.refuse_or_skip(problems)

    @property
    def _policy(self) -> Policy:
        table = next((name for name in TABLE_NAMES if (self.path / name).is_file()), "")
        read_by = f" (Picture Source reads its {table})" if table else ""
        expected = f"readable pictures, each with a caption in a .txt or .caption file of the same name{read_by}"
        return Policy(f"image folder {self.path}", self.on_unreadable, expected)


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, by name; none is opened.

    Raises:
        InputError: no such folder, it cannot be read, or there are no pictures in it.
    """
    source = ImageFolder(folder).source
    pictures = [folder / entry.name for entry in source.entries() if isinstance(entry, Record)]
    if not pictures:
        raise _no_pictures(folder)
    return pictures


def _no_pictures(folder: Path) -> InputError:
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    remedy = "Put pictures into it."
    if inner:
        remedy = f"Its sub-folders are not looked into: Picture Source does that, with kohya's repeats. Or did you mean {folder / inner[0]}?"
    return InputError(f"image folder {folder}", expected=f"pictures ({', '.join(PICTURE_ENDINGS)})", found="none", remedy=remedy)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(name, expected=" or ".join(choices), found=value, remedy=f"Choose {choices[0]}.")

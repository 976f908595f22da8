"""A folder of pictures with captions beside them: what is in it, and everything that is wrong with it, said at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import InputError
from ..files.digest import KnownDigests, stamp_of
from .canny import CannyRecipe
from .dataset import Problem, Sample, list_problems, require_held_out, require_resolution, split_held_out
from .keys import content_key
from .picture import decode_picture, fit_square, read_file, read_picture
from .picture_header import UnreadablePictureError, read_picture_header

__all__ = ["PICTURE_ENDINGS", "ImageFolder", "Problem", "Sample", "list_problems", "picture_files", "read_picture", "split_held_out"]

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CAPTION_ENDING = ".txt"
CAPTION_LIMIT_BYTES = 64 * 1024
_READERS = 4
# Part of every key: raise it when the same files would give other pictures or captions.
_DATA_VERSION = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """Describes a data set: a folder of pictures, each with a caption in a text file of the same name. Nothing is loaded.

    Raises:
        InputError: settings out of range.
    """

    path: Path
    """The folder; its sub-folders are not looked into."""
    resolution_px: int = 512
    """Side of the square to which every picture is scaled and cropped at its centre; a multiple of 16."""
    hint: CannyRecipe = field(default_factory=CannyRecipe)
    """How edges are made from the scaled and cropped picture."""
    held_out: int = 0
    """How many pictures are kept for validation and never trained on."""
    on_unreadable: Literal["stop", "skip"] = "stop"
    """What to do about pictures or captions that cannot be read: list them and stop, or leave them out."""
    caption_missing: Literal["stop", "empty"] = "stop"
    """What to do about pictures without a caption: list them and stop, or train them with the empty caption."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        require_resolution(self.resolution_px)
        require_held_out(self.held_out)
        _require_choice("on_unreadable", self.on_unreadable, ("stop", "skip"))
        _require_choice("caption_missing", self.caption_missing, ("stop", "empty"))

    def scan(self) -> tuple[Sample, ...]:
        """Reads every picture's header and every caption, in the order of their names.

        Raises:
            InputError: no folder, no pictures, too few for the held-out ones; or unreadable files or missing captions, all listed.
        """
        pictures = picture_files(self.path)
        captions = {path.stem: path for path in _list_files(self.path) if path.suffix.lower() == CAPTION_ENDING}
        with ThreadPoolExecutor(_READERS, thread_name_prefix="graft-scan") as readers:
            found = list(readers.map(lambda path: self._examine(path, captions.get(path.stem)), pictures))
        samples = tuple(entry for entry in found if isinstance(entry, Sample))
        self.refuse_or_skip(entry for entry in found if isinstance(entry, Problem))
        split_held_out([sample.digest for sample in samples], self.held_out)
        return samples

    def read(self, sample: Sample) -> np.ndarray:
        """The sample's picture, uint8 RGB [resolution_px, resolution_px, 3].

        Raises:
            UnreadablePictureError: it cannot be decoded, or is no longer the file that was scanned.
        """
        data = read_file(self.path / sample.name)
        if hashlib.sha256(data).hexdigest() != sample.digest:
            raise UnreadablePictureError("was changed while it was in use")
        return fit_square(decode_picture(data), self.resolution_px)

    def read_hint(self, sample: Sample) -> np.ndarray:
        """A folder's hints are made from its pictures; none are given."""
        raise AssertionError(f"{sample.name} has no hint of its own")

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        """A hash of everything that training sees: picture and caption contents, their order, resolution, hint and split.

        Args:
            samples: what `scan` gave, if that is at hand; otherwise the folder is scanned.
        """
        contents = [[sample.digest, sample.caption] for sample in (self.scan() if samples is None else samples)]
        return content_key("image folder", _DATA_VERSION, contents, self.resolution_px, self.hint.low, self.hint.high, self.held_out)

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        """Stops with a list of all problems, or logs them where the user chose to skip.

        Raises:
            InputError: there are problems and the user did not choose to skip unreadable files.
        """
        problems = list(problems)
        if not problems:
            return
        if self.on_unreadable == "skip" and all(problem.what != _MISSING_CAPTION for problem in problems):
            logger.warning("left out of %s: %s", self.path, list_problems(problems))
            return
        raise InputError(
            f"image folder {self.path}", expected="readable pictures, each with a caption in a .txt file of the same name",
            found=list_problems(problems), remedy=_remedy(problems),
        )  # fmt: skip

    def _examine(self, picture: Path, caption: Path | None) -> Sample | Problem:
        try:
            digest = _picture_digest(picture)
        except UnreadablePictureError as error:
            return Problem(picture.name, str(error))
        text = "" if caption is None else _read_caption(caption)
        if isinstance(text, Problem):
            return text
        if not text and self.caption_missing == "stop":
            return Problem(picture.name, _MISSING_CAPTION)
        return Sample(picture.name, text, digest)


_MISSING_CAPTION = "has no caption"
# Of pictures whose headers were in order. One run of a graph scans a folder more than once; `read` compares what it decodes.
_DIGESTS = KnownDigests()


def _picture_digest(picture: Path) -> str:
    """Of a picture whose header is in order; one that has not changed since it was looked at is not read again."""
    try:
        stamp = stamp_of(picture)
    except OSError as error:
        raise UnreadablePictureError(f"cannot be opened ({error.strerror})") from error
    digest = _DIGESTS.recall(stamp)
    if digest is None:
        data = read_file(picture)
        read_picture_header(data)
        digest = hashlib.sha256(data).hexdigest()
        _DIGESTS.remember(stamp, digest)
    return digest


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, by name; none is opened.

    Raises:
        InputError: no such folder, it cannot be read, or there are no pictures in it.
    """
    pictures = [path for path in _list_files(folder) if path.suffix.lower() in PICTURE_ENDINGS]
    if not pictures:
        raise _no_pictures(folder)
    return pictures


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise InputError(f"image folder {folder}", expected="a folder of pictures", found=found, remedy="Check the path.")
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        subject, remedy = f"image folder {folder}", "Check its permissions."
        raise InputError(subject, expected="a readable folder", found=error.strerror, remedy=remedy) from error


def _no_pictures(folder: Path) -> InputError:
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    remedy = f"Its sub-folders are not looked into; did you mean {folder / inner[0]}?" if inner else "Put pictures into it."
    return InputError(f"image folder {folder}", expected=f"pictures ({', '.join(PICTURE_ENDINGS)})", found="none", remedy=remedy)


def _read_caption(path: Path) -> str | Problem:
    """The text with every run of white space, line ends included, as one space."""
    try:
        data = read_file(path)
        text = data.decode("utf-8-sig")
    except UnreadablePictureError as error:
        return Problem(path.name, str(error))
    except UnicodeDecodeError:
        return Problem(path.name, "is not UTF-8 text")
    if len(data) > CAPTION_LIMIT_BYTES:
        return Problem(path.name, f"has {len(data):,} bytes, more than a caption's limit of {CAPTION_LIMIT_BYTES:,}")
    return " ".join(text.split())


def _remedy(problems: Sequence[Problem]) -> str:
    missing = sum(problem.what == _MISSING_CAPTION for problem in problems)
    advice = ["Write the missing captions, or set missing_captions to 'empty'."] if missing else []
    if missing < len(problems):
        advice.append("Replace or remove the unreadable files, or set unreadable_pictures to 'skip'.")
    return " ".join(advice)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(name, expected=" or ".join(choices), found=value, remedy=f"Choose {choices[0]}.")

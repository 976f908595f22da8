"""A folder of pictures with captions beside them, and the folders inside it; kohya's `10_name` means ten times in each epoch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..dataset import Problem
from ..kohya_latents import LATENTS_ENDING
from .listing import Listing, list_folder, stamp_files
from .place import FilePlace
from .record import Entry, Record

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CAPTION_ENDINGS = (".txt", ".caption")
"""Of files with captions; the first that is there is taken."""
UNREAD_ENDINGS = (".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".tga", ".exr", ".hdr", ".svg", ".ico", ".dng", ".cr2", ".nef")
"""Pictures to their owners, but not to us: named rather than passed over."""
MASK_ENDING = "-masklabel"
"""Ends the name, before its `.png`, of the mask of the picture with the same name: OneTrainer's custom. Such a file is no picture of its own."""
REPEATS_LIMIT = 10_000
_KOHYA_FOLDER = re.compile(r"(\d+)_(.*)", re.DOTALL)

# Part of every stamp: raise it when the same files would be listed as other pictures or captions.
_LISTING_VERSION = 3


@dataclass(frozen=True)
class FolderTree:
    """Pictures of a folder (Source)."""

    path: Path
    nested: bool = True
    """Whether folders inside it are looked into, and repeats in their names respected."""
    subject_kind: str = "picture folder"

    @property
    def subject(self) -> str:
        return f"{self.subject_kind} {self.path}"

    def entries(self) -> Iterator[Entry]:
        for listing in list_folder(self.path, self.subject, self.nested):
            if isinstance(listing, Problem):
                yield listing
            else:
                yield from self._entries_of(listing)

    def stamp(self) -> str:
        listings = (listing for listing in list_folder(self.path, self.subject, self.nested) if isinstance(listing, Listing))
        files = stamp_files(listing.path(name) for listing in listings for name in listing.names if _is_looked_at(name))
        return files and f"{_LISTING_VERSION} {files}"

    def lone_captions(self) -> Iterator[str]:
        """Names of files with captions that no picture beside them shares its name with. No file is opened.

        Raises:
            InputError: no such folder, or it cannot be read.
        """
        for listing in list_folder(self.path, self.subject, self.nested):
            if isinstance(listing, Listing):
                pictures = {os.path.splitext(name)[0] for name in listing.names if _ending(name) in _OWNERS_PICTURES}
                lone = (name for name in listing.names if _ending(name) in CAPTION_ENDINGS and os.path.splitext(name)[0] not in pictures)
                yield from (listing.full_name(name) for name in lone)

    def _entries_of(self, listing: Listing) -> Iterator[Entry]:
        repeats, name_behind = self._kohya(listing.inner)
        captions = caption_files(listing)
        for name in listing.names:
            stem, ending = os.path.splitext(name)
            if stem.endswith(MASK_ENDING):
                continue  # masked.py looks for it
            if ending.lower() in PICTURE_ENDINGS:
                caption = captions.get(stem)
                text = FilePlace(listing.path(caption)) if caption else None
                yield Record(listing.full_name(name), FilePlace(listing.path(name)), text, repeats=repeats, fallback_caption=name_behind)
            elif ending.lower() in UNREAD_ENDINGS:
                yield Problem(listing.full_name(name), f"has the format {ending[1:].upper()}, which is not read; save it as PNG, JPEG or WebP")

    def _kohya(self, inner: str) -> tuple[int, str]:
        """Repeats, and the name behind them, of the nearest folder that has them."""
        if not self.nested:
            return 1, ""
        for name in reversed(inner.split("/")):
            if match := _KOHYA_FOLDER.fullmatch(name):
                return self._repeats(inner, int(match[1])), match[2].strip()
        return 1, ""

    def _repeats(self, inner: str, repeats: int) -> int:
        if not 1 <= repeats <= REPEATS_LIMIT:
            remedy = "Rename it: the number before the underscore says how often its pictures come in each epoch."
            raise InputError(f"folder {inner} in {self.path}", expected=f"1 to {REPEATS_LIMIT:,} repeats", found=repeats, remedy=remedy)
        return repeats


_OWNERS_PICTURES = frozenset((*PICTURE_ENDINGS, *UNREAD_ENDINGS))
_KNOWN_ENDINGS = _OWNERS_PICTURES.union(CAPTION_ENDINGS)


def _is_looked_at(name: str) -> bool:
    """Whether anything may change with this file: latents that other trainers have cached are taken where they are wanted (encode.py)."""
    return _ending(name) in _KNOWN_ENDINGS or name.endswith(LATENTS_ENDING)


def caption_files(listing: Listing) -> dict[str, str]:
    """Names of the files that hold captions, by the name that they share with their pictures; the first ending that is there wins."""
    found: dict[str, str] = {}
    for wanted in reversed(CAPTION_ENDINGS):
        found |= {os.path.splitext(name)[0]: name for name in listing.names if _ending(name) == wanted}
    return found


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()

"""From records to samples: headers, digests and captions read by several workers, each file once for as long as it does not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...progress import NO_PROGRESS, Progress
from ..dataset import Problem, Sample
from ..image_check import same_proportions
from ..known import Fact, KnownFiles
from ..picture_header import UnreadablePictureError, read_picture_header
from .place import BytesPlace
from .record import Entry, Record

CAPTION_LIMIT_BYTES = 64 * 1024
MISSING_CAPTION, MISSING_CAPTION_FILE, EMPTY_CAPTION_FILE = "has no caption", "has no caption file", "has an empty caption file"
CAPTION_FAULTS = frozenset((MISSING_CAPTION, MISSING_CAPTION_FILE, EMPTY_CAPTION_FILE))
"""What problems say of pictures that have no text: nothing in a table or an archive, no file, a file of white space."""
READERS = 4
LOOKED_AT_TOGETHER = 64
"""Files between two looks at whether the user has asked to stop."""

MissingCaptions: TypeAlias = Literal["stop", "empty", "folder name"]


@dataclass(frozen=True)
class Scanner:
    """Looks at pictures and captions."""

    caption_missing: MissingCaptions
    """What to do about pictures without a caption: a problem, the empty caption, or the name of their kohya folder."""
    known: KnownFiles
    progress: Progress = NO_PROGRESS

    def samples(self, entries: Iterable[Entry]) -> Iterator[Sample | Problem]:
        """A sample or what is wrong for each entry, in their order. What is learnt is kept, also where this is interrupted."""
        listed = list(entries)  # small values: how many there are has to be known for the bar
        self.progress.start(len(listed), "picture")
        try:
            with ThreadPoolExecutor(READERS, thread_name_prefix="graft-scan") as readers:
                for first in range(0, len(listed), LOOKED_AT_TOGETHER):
                    yield from readers.map(self._examine, listed[first : first + LOOKED_AT_TOGETHER])
                    self.progress.check_interrupt()
                    self.progress.advance(min(first + LOOKED_AT_TOGETHER, len(listed)))
        finally:
            self.progress.finish()
            self.known.save()

    def _examine(self, entry: Entry) -> Sample | Problem:
        if isinstance(entry, Problem):
            return entry
        try:
            digest, width, height = self._picture(entry.picture)
        except UnreadablePictureError as error:
            return Problem(entry.name, str(error))
        own = self._own_caption(entry)
        if isinstance(own, Problem):
            return own
        fault, caption = "" if own else _caption_fault(entry), own or self._stand_in(entry)
        if not caption:
            return Problem(entry.name, fault)
        hint = self._hint(entry, (width, height))
        if isinstance(hint, Problem):
            return hint
        return Sample(
            entry.name, " ".join(caption), digest, hint, lines=caption if len(caption) > 1 else (), size_px=(width, height),
            repeats=entry.repeats, place=entry.picture, hint_place=entry.hint, caption_fault=fault,
        )  # fmt: skip

    def _picture(self, place: BytesPlace) -> Fact:
        """Digest, width and height of a picture whose header is in order; one that has not changed since it was looked at is not read again."""
        try:
            stamp = place.stamp()
        except OSError as error:
            raise UnreadablePictureError(f"cannot be opened ({error.strerror})") from error
        return self.known.or_learn(stamp, lambda: look_at(place.read()))

    def _hint(self, record: Record, size_px: tuple[int, int]) -> str | Problem:
        if record.hint is None:
            return ""
        try:
            digest, width, height = self._picture(record.hint)
        except UnreadablePictureError as error:
            return Problem(record.name, f"has a hint, {record.hint.name}, that {error}")
        if same_proportions((height, width), size_px[::-1]):
            return digest
        return Problem(record.name, f"of {size_px[0]} x {size_px[1]} px has a hint of other proportions, {width} x {height} px")

    def _stand_in(self, record: Record) -> tuple[str, ...]:
        """Lines in place of a caption that is not there; none where that is not allowed."""
        if self.caption_missing == "folder name" and record.fallback_caption:
            return (record.fallback_caption,)
        return ("",) if self.caption_missing == "empty" else ()

    def _own_caption(self, record: Record) -> tuple[str, ...] | Problem:
        """Its lines; none where there is no text."""
        caption, name = record.caption, record.name
        try:
            if caption is None or isinstance(caption, str):
                return _lines(caption or "")
            inner, slash, _ = record.name.rpartition("/")
            name, place = f"{inner}{slash}{caption.name}", caption
            return _lines(self.known.or_learn(place.stamp(), lambda: [_decoded(place.read())])[0])
        except OSError as error:
            return Problem(name, f"cannot be opened ({error.strerror})")
        except ValueError as error:
            return Problem(name, str(error))


def _caption_fault(record: Record) -> str:
    if record.caption is None:
        return MISSING_CAPTION_FILE
    return MISSING_CAPTION if isinstance(record.caption, str) else EMPTY_CAPTION_FILE


def look_at(data: bytes) -> Fact:
    """Digest, width and height of a picture whose header is in order."""
    header = read_picture_header(data)
    return [hashlib.sha256(data).hexdigest(), *header.upright_px]


def _decoded(data: bytes) -> str:
    if len(data) > CAPTION_LIMIT_BYTES:
        raise ValueError(f"has {len(data):,} bytes, more than a caption's limit of {CAPTION_LIMIT_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error


def _lines(text: str) -> tuple[str, ...]:
    """Lines that are not blank, every run of white space as one space."""
    if len(text) > CAPTION_LIMIT_BYTES:
        raise ValueError(f"has a caption of {len(text):,} characters, more than the limit of {CAPTION_LIMIT_BYTES:,}")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return tuple(line for line in lines if line)

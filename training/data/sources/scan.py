"""From records to samples: headers, digests and captions read by several workers, each file once for as long as it does not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from ..dataset import Problem, Sample
from ..known import Fact, KnownFiles
from ..picture_header import UnreadablePictureError, read_picture_header
from .place import BytesPlace
from .record import Entry, Record

CAPTION_LIMIT_BYTES = 64 * 1024
MISSING_CAPTION = "has no caption"
READERS = 4
_READ_AHEAD = 1024

MissingCaptions: TypeAlias = Literal["stop", "empty", "folder name"]


@dataclass(frozen=True)
class Scanner:
    """Looks at pictures and captions."""

    caption_missing: MissingCaptions
    """What to do about pictures without a caption: a problem, the empty caption, or the name of their kohya folder."""
    known: KnownFiles

    def samples(self, entries: Iterable[Entry]) -> Iterator[Sample | Problem]:
        """A sample or what is wrong for each entry, in their order; only a window of them is in memory."""
        entries = iter(entries)
        with ThreadPoolExecutor(READERS, thread_name_prefix="graft-scan") as readers:
            while window := list(islice(entries, _READ_AHEAD)):
                yield from readers.map(self._examine, window)

    def _examine(self, entry: Entry) -> Sample | Problem:
        if isinstance(entry, Problem):
            return entry
        try:
            digest, width, height = self._picture(entry.picture)
        except UnreadablePictureError as error:
            return Problem(entry.name, str(error))
        caption = self._caption(entry)
        if isinstance(caption, Problem):
            return caption
        hint = self._hint(entry)
        if isinstance(hint, Problem):
            return hint
        return Sample(
            entry.name, caption, digest, hint, size_px=(width, height), repeats=entry.repeats, place=entry.picture,
            hint_place=entry.hint,
        )  # fmt: skip

    def _picture(self, place: BytesPlace) -> Fact:
        """Digest, width and height of a picture whose header is in order; one that has not changed since it was looked at is not read again."""
        try:
            stamp = place.stamp()
        except OSError as error:
            raise UnreadablePictureError(f"cannot be opened ({error.strerror})") from error
        return self.known.or_learn(stamp, lambda: _look_at(place.read()))

    def _hint(self, record: Record) -> str | Problem:
        if record.hint is None:
            return ""
        try:
            return self._picture(record.hint)[0]
        except UnreadablePictureError as error:
            return Problem(record.name, f"has a hint, {record.hint.name}, that {error}")

    def _caption(self, record: Record) -> str | Problem:
        text = self._caption_text(record.caption, record)
        if isinstance(text, Problem) or text:
            return text
        if self.caption_missing == "folder name" and record.fallback_caption:
            return record.fallback_caption
        return "" if self.caption_missing == "empty" else Problem(record.name, MISSING_CAPTION)

    def _caption_text(self, caption: str | BytesPlace, record: Record) -> str | Problem:
        name, text = record.name, caption
        try:
            if isinstance(caption, BytesPlace):
                inner, slash, _ = record.name.rpartition("/")
                name, text = f"{inner}{slash}{caption.name}", self.known.or_learn(caption.stamp(), lambda: [_decoded(caption.read())])[0]
            assert isinstance(text, str)
            return _one_line(text)
        except (UnreadablePictureError, OSError, ValueError) as error:
            return Problem(name, f"cannot be opened ({error.strerror})" if isinstance(error, OSError) else str(error))


def _look_at(data: bytes) -> Fact:
    header = read_picture_header(data)
    return [hashlib.sha256(data).hexdigest(), *header.upright_px]


def _decoded(data: bytes) -> str:
    if len(data) > CAPTION_LIMIT_BYTES:
        raise ValueError(f"has {len(data):,} bytes, more than a caption's limit of {CAPTION_LIMIT_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error


def _one_line(text: str) -> str:
    """Every run of white space, line ends included, as one space."""
    if len(text) > CAPTION_LIMIT_BYTES:
        raise ValueError(f"has a caption of {len(text):,} characters, more than the limit of {CAPTION_LIMIT_BYTES:,}")
    return " ".join(text.split())

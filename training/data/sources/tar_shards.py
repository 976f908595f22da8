"""WebDataset shards: tar archives in which files of one sample follow one another under one name: `0001.jpg`, `0001.txt`, `0001.hint.png`.

Nothing is unpacked: a member of an archive that is not compressed lies in it as it is, and is read by its place. So no name in an archive
can ever lead to a file outside it; names that try are reported all the same.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError
from ..dataset import Problem
from ..picture_header import UnreadablePictureError
from .columns import CAPTION_COLUMNS, HINT_COLUMNS, Columns
from .folder_tree import PICTURE_ENDINGS
from .listing import stamp_files
from .names import inner_name, shown
from .place import PartPlace
from .record import Entry, Record
from .scan import CAPTION_LIMIT_BYTES

_PICTURES = frozenset(ending[1:] for ending in PICTURE_ENDINGS)
_TEXTS = ("txt", "caption", "text")
_JSON = "json"
_JSON_LIMIT_BYTES = 16 * CAPTION_LIMIT_BYTES


@dataclass(frozen=True)
class TarShards:
    """Pictures in tar archives (Source)."""

    paths: tuple[Path, ...]
    columns: Columns = field(default_factory=Columns)
    """What is behind the first dot of a member's name: `jpg`, `txt`, `hint.png`. A caption's may also be a field of the sample's JSON."""

    @property
    def subject(self) -> str:
        return f"tar archive {self.paths[0]}" if len(self.paths) == 1 else f"{len(self.paths)} tar archives in {self.paths[0].parent}"

    def entries(self) -> Iterator[Entry]:
        for path in self.paths:
            yield from self._shard(path)

    def stamp(self) -> str:
        return stamp_files(str(path) for path in self.paths)

    def _shard(self, path: Path) -> Iterator[Entry]:
        seen: set[str] = set()
        for key, members in _groups(_members(path)):
            if isinstance(members, Problem):
                yield members
            elif key in seen:
                yield Problem(f"{path.name}/{key}", "comes more than once in its archive")
            else:
                yield from self._entries(f"{path.name}/{key}", members)
            seen.add(key)

    def _entries(self, name: str, members: dict[str, PartPlace]) -> Iterator[Entry]:
        hint_kind = self._kind(self.columns.hint, members, _hint_kinds())
        pictures = {kind for kind in members if kind in _PICTURES and kind != hint_kind}
        picture_kind = self._kind(self.columns.picture, members, sorted(pictures))
        if picture_kind is None:
            yield Problem(name, "has no picture" if not self.columns.picture else f"has no {self.columns.picture}")
        elif self.columns.hint and hint_kind is None:
            yield Problem(name, f"has no {self.columns.hint}")
        else:
            yield self._record(name, members[picture_kind], members, members[hint_kind] if hint_kind else None)

    def _record(self, name: str, picture: PartPlace, members: dict[str, PartPlace], hint: PartPlace | None) -> Entry:
        kind = self._kind(self.columns.caption, members, _TEXTS)
        if kind is not None:
            return Record(name, picture, members[kind], hint)
        if _JSON not in members:
            return Record(name, picture, "", hint)
        try:
            return Record(name, picture, self._from_json(members[_JSON]), hint)
        except (UnreadablePictureError, ValueError) as error:
            return Problem(f"{name}.{_JSON}", str(error))

    def _from_json(self, place: PartPlace) -> str:
        if place.size_bytes > _JSON_LIMIT_BYTES:
            raise ValueError(f"has {place.size_bytes:,} bytes, more than the limit of {_JSON_LIMIT_BYTES:,}")
        try:
            fields = json.loads(place.read().decode("utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError("is no JSON") from error
        wanted = [self.columns.caption] if self.columns.caption else CAPTION_COLUMNS
        found = next((fields[name] for name in wanted if name in fields), "") if isinstance(fields, dict) else ""
        if not isinstance(found, str):
            raise ValueError(f"has a caption that is no text: {shown(found)}")
        return found

    def _kind(self, wanted: str, members: dict[str, PartPlace], usual: Iterable[str]) -> str | None:
        return next((kind for kind in ([wanted] if wanted else usual) if kind in members), None)


def tar_files(folder: Path) -> tuple[Path, ...]:
    """The archives in a folder, by name."""
    return tuple(sorted(path for path in folder.glob("*.tar") if path.is_file()))


def _hint_kinds() -> Iterator[str]:
    """`hint.png`, `conditioning.jpg` and the like."""
    stems = [name for name in HINT_COLUMNS if not name.endswith("_file_name")]
    return (f"{stem}.{ending}" for stem in stems for ending in sorted(_PICTURES))


def _members(path: Path) -> Iterator[tuple[str, PartPlace | Problem]]:
    """Names of the files in an archive with their places, in its own order; it is skimmed, not read."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would remember every member
                yield from _member(path, member)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        yield "", Problem(path.name, f"is no tar archive that can be read to its end ({shown(str(error))}); compressed ones have to be unpacked")
    except OSError as error:
        subject, remedy = f"tar archive {path}", "Check the path and its permissions."
        raise InputError(subject, expected="a file that can be read", found=error.strerror, remedy=remedy) from error


def _member(path: Path, member: tarfile.TarInfo) -> Iterator[tuple[str, PartPlace | Problem]]:
    if member.isdir():
        return
    where = f"{path.name}/{shown(member.name)}"
    if not member.isreg() or member.issparse():
        yield "", Problem(where, "is a link or a special file, and not read")
        return
    try:
        name = inner_name(member.name)
    except ValueError as error:
        yield "", Problem(where, str(error))
        return
    if not name.rpartition("/")[2].startswith("."):
        yield name, PartPlace(str(path), member.offset_data, member.size, name)


def _groups(members: Iterable[tuple[str, PartPlace | Problem]]) -> Iterator[tuple[str, dict[str, PartPlace] | Problem]]:
    """Consecutive files of one sample: {what is behind the first dot, in small letters: place}."""
    key, group = "", dict[str, PartPlace]()
    for name, place in members:
        if isinstance(place, Problem):
            yield "", place
            continue
        folder, slash, file_name = name.rpartition("/")
        stem, _, kind = file_name.partition(".")
        if f"{folder}{slash}{stem}" != key:
            if group:
                yield key, group
            key, group = f"{folder}{slash}{stem}", {}
        group[kind.lower()] = place
    if group:
        yield key, group

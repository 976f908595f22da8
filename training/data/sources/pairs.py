"""Two folders: pictures with captions in one, their ready-made hints under the same names in the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..dataset import Problem
from .folder_tree import PICTURE_ENDINGS, FolderTree
from .listing import list_folder, stamp_files
from .place import FilePlace
from .record import Entry

NO_PARTNER = "has no partner"


@dataclass(frozen=True)
class PairedFolders:
    """Pictures with a hint each (Source). Partners share folder and name; endings may differ."""

    pictures: FolderTree
    hints: Path

    @property
    def subject(self) -> str:
        return self.pictures.subject

    def entries(self) -> Iterator[Entry]:
        waiting, problems = self._hint_files()
        yield from problems
        used: set[str] = set()
        for entry in self.pictures.entries():
            stem = os.path.splitext(entry.name)[0]
            used.add(stem)
            if isinstance(entry, Problem):
                yield entry
            elif stem in waiting:
                yield replace(entry, hint=FilePlace(waiting[stem]))
            else:
                yield Problem(entry.name, f"{NO_PARTNER} in {self.hints}")
        yield from (Problem(stem, f"in {self.hints} {NO_PARTNER} in {self.pictures.path}") for stem in waiting if stem not in used)

    def stamp(self) -> str:
        pictures, hints = self.pictures.stamp(), stamp_files(self._hint_files()[0].values())
        return f"{pictures}{hints}" if pictures and hints else ""

    def _hint_files(self) -> tuple[dict[str, str], list[Problem]]:
        """Paths of hints by their names without ending."""
        found: dict[str, str] = {}
        problems: list[Problem] = []
        for listing in list_folder(self.hints, f"folder of hints {self.hints}", self.pictures.nested):
            if isinstance(listing, Problem):
                problems.append(listing)
                continue
            names = [name for name in listing.names if os.path.splitext(name)[1].lower() in PICTURE_ENDINGS]
            for name in names:
                stem = os.path.splitext(listing.full_name(name))[0]
                if stem in found:
                    problems.append(Problem(listing.full_name(name), "is a second hint of the same name"))
                found.setdefault(stem, listing.path(name))
        return found, problems



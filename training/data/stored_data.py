"""How much room encoded data takes, and clean-up: what nothing has used for longest gives way, never what is in use.

The unit is a data set: its index, whose time is that of its last use, and the shards that it names; a shard that several data sets name goes with
the last of them. Files that no index names (pictures out of a graph, an encoding that was interrupted) stand for themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..files.header import read_header
from ..in_use import names_in_use
from .encoded import INDEX_BEGINNING
from .index import index_facts
from .shelf import SHARD_ENDING, remove_leftovers


@dataclass(frozen=True)
class StoredData:
    """One encoded data set, or one file that belongs to none."""

    folder: Path
    name: str
    """Of the index, or of the file."""
    sizes_bytes: Mapping[str, int] = field(repr=False, hash=False)
    """Of all files that it needs and that are there, by their names."""
    used_at: float
    """Seconds since the epoch."""
    in_use: bool
    """A living process has encoded it, or has found it encoded."""
    described: str = ""
    """How many pictures in which size; empty for a file that belongs to none."""

    @property
    def files(self) -> frozenset[str]:
        return frozenset(self.sizes_bytes)

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes_bytes.values())


@dataclass(frozen=True)
class DataStore:
    """The folder that data sets are encoded to."""

    folder: Path

    def stored(self) -> list[StoredData]:
        """Everything in it, the least recently used first."""
        sizes, times = self._files()
        used = names_in_use(self.folder)
        sets = [found for name in sizes if name.startswith(INDEX_BEGINNING) and (found := self._data_set(name, sizes, times, used))]
        named = {name for found in sets for name in found.files}
        alone = [StoredData(self.folder, name, {name: sizes[name]}, times[name], name in used) for name in sizes.keys() - named]
        return sorted([*sets, *alone], key=lambda entry: (entry.used_at, entry.name))

    def size_bytes(self, entries: Sequence[StoredData]) -> int:
        """What some entries take together; shards that several need count once."""
        return sum({name: size for entry in entries for name, size in entry.sizes_bytes.items()}.values())

    def remove(self, entry: StoredData, rest: Sequence[StoredData]) -> bool:
        """Removes what only this one needs; nothing if a process has begun to use it meanwhile.

        Args:
            entry: what is to go.
            rest: what stays.
        """
        if entry.name in names_in_use(self.folder):
            return False
        # The index first: half a data set is never found. Who has found it notes its shards before it looks whether the index is still there.
        self._unlink([entry.name])
        kept = names_in_use(self.folder).union(*(other.files for other in rest))
        self._unlink(sorted(entry.files - kept - {entry.name}))
        self._remove_notes()
        remove_leftovers(self.folder)
        return not (self.folder / entry.name).exists()

    def _unlink(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink()

    def _files(self) -> tuple[dict[str, int], dict[str, float]]:
        sizes, times = {}, {}
        for path in self.folder.glob(f"*{SHARD_ENDING}") if self.folder.is_dir() else ():
            with suppress(OSError):  # it went meanwhile
                state = path.stat()
                sizes[path.name], times[path.name] = state.st_size, state.st_mtime
        return {name: sizes[name] for name in sorted(sizes)}, times

    def _data_set(self, name: str, sizes: dict[str, int], times: dict[str, float], used: set[str]) -> StoredData | None:
        """None where the index cannot be understood: it then stands for itself."""
        try:
            facts = index_facts(read_header(self.folder / name))
        except (InputError, OSError):
            return None
        needed = {file: sizes[file] for file in (name, *facts.shards) if file in sizes}
        return StoredData(self.folder, name, needed, times[name], name in used, f"{facts.samples:,} pictures at {facts.resolution_px} px")

    def _remove_notes(self) -> None:
        """Notes by which unchanged files find an index that has gone."""
        for note in self.folder.glob("unchanged-*.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                key = str(json.loads(note.read_text("ascii"))["index"])
                if not (self.folder / f"{INDEX_BEGINNING}{key[:40]}{SHARD_ENDING}").exists():
                    note.unlink()

"""What was learnt of files that have not changed since: digests and sizes of pictures, texts of captions. Kept between processes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.digest import REMEMBERED_LIMIT, SETTLED_NS, Stamp
from ..files.write import write_bytes
from .keys import content_key

Fact = list[Any]
"""Plain values, as JSON keeps them."""
# Raise it when facts about the same file would be others.
_KNOWN_VERSION = 1
_SHARD_DIGITS = 2
_LOADING = threading.Lock()


class KnownFiles:
    """Facts about files by their stamps. Threads may share it.

    Args:
        folder: where they are kept, those about the files of one folder together; None keeps REMEMBERED_LIMIT of them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._shards: dict[str, dict[str, Fact]] = {}
        self._changed: set[str] = set()
        self._names: dict[str, str] = {}

    def recall(self, stamp: Stamp) -> Fact | None:
        """What is known of the file that has this stamp."""
        entry = self._shard(stamp.path)[1].get(stamp.path)
        return entry[2:] if entry and entry[0] == stamp.size_bytes and entry[1] == stamp.modified_ns else None

    def remember(self, stamp: Stamp, fact: Fact) -> None:
        """`stamp` is from before the file was read; a file that is not settled yet is not remembered."""
        if time.time_ns() - stamp.modified_ns < SETTLED_NS:
            return
        name, facts = self._shard(stamp.path)
        if self._folder is None and len(facts) >= REMEMBERED_LIMIT:
            facts.clear()
        facts[stamp.path] = [stamp.size_bytes, stamp.modified_ns, *fact]
        self._changed.add(name)

    def or_learn(self, stamp: Stamp, learn: Callable[[], Fact]) -> Fact:
        """What is known, or else what `learn` finds out, which is remembered. What it raises is not."""
        fact = self.recall(stamp)
        if fact is None:
            fact = learn()
            self.remember(stamp, fact)
        return fact

    def save(self) -> None:
        """Writes what was learnt since the last time. A disk that is full costs only the memory."""
        if self._folder is None:
            return
        for name in sorted(self._changed):
            text = json.dumps({"version": _KNOWN_VERSION, "files": self._shards[name]}, ensure_ascii=True, separators=(",", ":"))
            with suppress(InputError, OSError):
                write_bytes(Path(self._folder, f"known-{name}.json"), text.encode("ascii"))
                self._changed.discard(name)

    def _shard(self, path: str) -> tuple[str, dict[str, Fact]]:
        folder = os.path.dirname(path)
        name = self._names.get(folder)
        if name is None:
            name = "" if self._folder is None else content_key("known", os.fsencode(folder).hex())[:_SHARD_DIGITS]
            with _LOADING:
                if name not in self._shards:
                    self._shards[name] = {} if self._folder is None else _load(Path(self._folder, f"known-{name}.json"))
            self._names[folder] = name
        return name, self._shards[name]


def _load(file: Path) -> dict[str, Fact]:
    """Nothing where there is no file, or one that cannot be understood: everything is then learnt anew."""
    try:
        kept = json.loads(file.read_bytes())
        return kept["files"] if kept["version"] == _KNOWN_VERSION and isinstance(kept["files"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def known_in(cache_folder: Path) -> KnownFiles:
    """What is known of files, kept beside what data sets are encoded to."""
    return KnownFiles(cache_folder / "known")


IN_MEMORY = KnownFiles()
"""For those who keep nothing on disk: one run of a graph scans a folder more than once."""

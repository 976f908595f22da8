"""What was learnt of files that have not changed since: digests and sizes of pictures, texts of captions. Kept between processes in one file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.digest import REMEMBERED_LIMIT, SETTLED_NS, Stamp
from ..files.write import write_bytes

Fact = list[Any]
"""Plain values, as JSON keeps them."""
# Raise it when facts about the same file would be others.
_KNOWN_VERSION = 1


class KnownFiles:
    """Facts about files by their stamps. Threads may share it.

    Args:
        file: where it is kept; None keeps it in memory, and there only REMEMBERED_LIMIT facts.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._is_changed = file, False
        self._facts: dict[str, Fact] = {} if file is None else _load(file)

    def recall(self, stamp: Stamp) -> Fact | None:
        """What is known of the file that has this stamp."""
        entry = self._facts.get(stamp.path)
        return entry[2:] if entry and entry[0] == stamp.size_bytes and entry[1] == stamp.modified_ns else None

    def remember(self, stamp: Stamp, fact: Fact) -> None:
        """`stamp` is from before the file was read; a file that is not settled yet is not remembered."""
        if time.time_ns() - stamp.modified_ns < SETTLED_NS:
            return
        if self._file is None and len(self._facts) >= REMEMBERED_LIMIT:
            self._facts.clear()
        self._facts[stamp.path] = [stamp.size_bytes, stamp.modified_ns, *fact]
        self._is_changed = True

    def or_learn(self, stamp: Stamp, learn: Callable[[], Fact]) -> Fact:
        """What is known, or else what `learn` finds out, which is remembered. What it raises is not."""
        fact = self.recall(stamp)
        if fact is None:
            fact = learn()
            self.remember(stamp, fact)
        return fact

    def save(self) -> None:
        """Writes what was learnt since the last time. A disk that is full costs only the memory."""
        if self._file is None or not self._is_changed:
            return
        text = json.dumps({"version": _KNOWN_VERSION, "files": self._facts}, ensure_ascii=True, separators=(",", ":"))
        with suppress(InputError, OSError):
            write_bytes(self._file, text.encode("ascii"))
            self._is_changed = False


def _load(file: Path) -> dict[str, Fact]:
    """Nothing where there is no file, or one that cannot be understood: everything is then learnt anew."""
    try:
        kept = json.loads(file.read_bytes())
        return kept["files"] if kept["version"] == _KNOWN_VERSION and isinstance(kept["files"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


IN_MEMORY = KnownFiles()
"""For those who keep nothing on disk: one run of a graph scans a folder more than once."""

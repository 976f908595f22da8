"""The imagefolder layout of Hugging Face: a `metadata.jsonl` or `metadata.csv` beside the pictures that it names, with captions and hints."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..dataset import Problem
from .columns import Columns
from .listing import stamp_files
from .names import inner_name, shown
from .place import FilePlace
from .record import Entry, Record
from .scan import CAPTION_LIMIT_BYTES

TABLE_NAMES = ("metadata.jsonl", "metadata.csv", "train.jsonl")
"""Of tables that are looked for in a folder; the first that is there is taken."""
_LINE_LIMIT_BYTES = 4 * CAPTION_LIMIT_BYTES


@dataclass(frozen=True)
class TableSource:
    """Pictures that a table names (Source). Its rows are read one by one."""

    path: Path
    """The table: JSON lines, or CSV with a head."""
    columns: Columns = field(default_factory=Columns)

    @property
    def subject(self) -> str:
        return f"table {self.path}"

    def entries(self) -> Iterator[Entry]:
        seen: set[str] = set()
        try:
            with self.path.open("rb") as file:
                rows = self._csv_rows(file) if self.path.suffix.lower() == ".csv" else self._json_rows(file)
                for row in self._entries(rows):
                    yield self._alone(row, seen)
        except OSError as error:
            subject, remedy = self.subject, "Check the path and its permissions."
            raise InputError(subject, expected="a file that can be read", found=error.strerror, remedy=remedy) from error

    def stamp(self) -> str:
        records = (entry for entry in self.entries() if isinstance(entry, Record))
        places = (place.path for record in records for place in (record.picture, record.hint) if isinstance(place, FilePlace))
        return stamp_files(chain([str(self.path)], places))

    def _alone(self, entry: Entry, seen: set[str]) -> Entry:
        if entry.name in seen and isinstance(entry, Record):
            return Problem(entry.name, "is named in the table more than once")
        seen.add(entry.name)
        return entry

    def _entries(self, rows: Iterable[tuple[int, dict[str, Any] | str]]) -> Iterator[Entry]:
        columns: Columns | None = None
        for number, row in rows:
            if isinstance(row, str):
                yield Problem(f"{self.path.name} line {number}", row)
                continue
            columns = columns or self.columns.found_in(row, self.subject)
            yield self._entry(number, row, columns)

    def _entry(self, number: int, row: dict[str, Any], columns: Columns) -> Entry:
        picture, caption, hint = (row.get(name) if name else None for name in (columns.picture, columns.caption, columns.hint))
        where = f"{self.path.name} line {number}"
        if not isinstance(picture, str) or not picture:
            return Problem(where, f"names no picture in {columns.picture}")
        if caption is not None and not isinstance(caption, str):
            return Problem(where, f"has a caption that is no text: {shown(caption)}")
        if columns.hint and (not isinstance(hint, str) or not hint):
            return Problem(where, f"names no hint in {columns.hint}")
        try:
            name = inner_name(picture)
            return Record(name, self._place(name), caption or "", self._place(inner_name(hint)) if isinstance(hint, str) else None)
        except ValueError as error:
            return Problem(f"{where}: {shown(picture)}", str(error))

    def _place(self, name: str) -> FilePlace:
        return FilePlace(os.path.join(self.path.parent, *name.split("/")))

    def _json_rows(self, file: Any) -> Iterator[tuple[int, dict[str, Any] | str]]:
        for number, line in _lines(file):
            if isinstance(line, str) or line.strip():
                yield number, line if isinstance(line, str) else _json_row(line)

    def _csv_rows(self, file: Any) -> Iterator[tuple[int, dict[str, Any] | str]]:
        too_long: list[tuple[int, str]] = []
        reader = csv.DictReader(_csv_text(file, too_long))
        while True:
            try:
                row = next(reader)
            except StopIteration:
                yield from too_long
                return
            except csv.Error as error:
                yield reader.line_num, f"is no CSV ({error})"
                continue
            yield reader.line_num, {name: value for name, value in row.items() if name}


def _csv_text(file: Any, too_long: list[tuple[int, str]]) -> Iterator[str]:
    for number, line in _lines(file):
        if isinstance(line, str):
            too_long.append((number, line))
        else:
            yield line.decode("utf-8-sig", "replace")


def _lines(file: Any) -> Iterator[tuple[int, bytes | str]]:
    """Lines with their numbers; in place of one that is too long, what is wrong with it."""
    number = 0
    while line := file.readline(_LINE_LIMIT_BYTES):
        number += 1
        is_too_long = len(line) == _LINE_LIMIT_BYTES and not line.endswith(b"\n")
        while is_too_long and line and not line.endswith(b"\n"):
            line = file.readline(_LINE_LIMIT_BYTES)
        yield number, f"has more than {_LINE_LIMIT_BYTES:,} bytes" if is_too_long else line


def _json_row(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        return f"is no JSON ({type(error).__name__})"
    return row if isinstance(row, dict) else "is no JSON object"

"""Parquet tables that hold the pictures' bytes, as Hugging Face writes them. Read by pyarrow, which only this source needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files.digest import Stamp, stamp_of
from ..dataset import Problem
from ..picture import FILE_LIMIT_BYTES
from ..picture_header import UnreadablePictureError
from .columns import Columns
from .listing import stamp_files
from .names import shown
from .place import BytesPlace
from .record import Entry, Record

GROUPS_KEPT = 4
"""Groups of rows that stay in memory between reads: pictures are read in order, by a few workers."""
_KEPT = threading.Lock()


@dataclass(frozen=True, slots=True)
class CellPlace(BytesPlace):
    """One cell of a table: bytes, or a structure of which `bytes` is a field. Reading one reads its group of rows."""

    path: str
    group: int
    row: int
    """Within its group."""
    column: str

    @property
    def name(self) -> str:
        return f"{Path(self.path).name} group {self.group} row {self.row} {self.column}"

    def read(self) -> bytes:
        try:
            with _KEPT:  # one decompresses, the others wait for the same group
                cells = _cells(self.path, stamp_of(self.path).modified_ns, self.group, self.column)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise UnreadablePictureError(f"cannot be read from its table ({shown(str(error))})") from error
        cell = cells[self.row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise UnreadablePictureError("is not in its table: there are no bytes")
        if len(data) > FILE_LIMIT_BYTES:
            raise UnreadablePictureError(f"is larger than {FILE_LIMIT_BYTES:,} bytes")
        return data

    def stamp(self) -> Stamp:
        whole = stamp_of(self.path)
        return Stamp(f"{whole.path}#{self.column}[{self.group},{self.row}]", whole.size_bytes, whole.modified_ns)


@dataclass(frozen=True)
class ParquetTables:
    """Pictures in parquet files (Source)."""

    paths: tuple[Path, ...]
    columns: Columns = field(default_factory=Columns)

    @property
    def subject(self) -> str:
        return f"parquet table {self.paths[0]}" if len(self.paths) == 1 else f"{len(self.paths)} parquet tables in {self.paths[0].parent}"

    def entries(self) -> Iterator[Entry]:
        for path in self.paths:
            try:
                yield from self._table(path)
            except OSError as error:
                remedy = "Check the path and its permissions."
                raise InputError(f"parquet table {path}", expected="a file that can be read", found=error.strerror or error, remedy=remedy) from error
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                yield Problem(path.name, f"is no parquet table that can be read ({shown(str(error))})")

    def stamp(self) -> str:
        return stamp_files(str(path) for path in self.paths)

    def _table(self, path: Path) -> Iterator[Entry]:
        table = _open(str(path))
        columns = self.columns.found_in(table.schema_arrow.names, f"parquet table {path}")
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            captions = table.read_row_group(group, columns=[columns.caption]).column(columns.caption) if columns.caption else None
            for row in range(rows):
                caption = None if captions is None else captions[row].as_py()
                yield self._entry(path, f"{path.name} row {first + row}", (group, row), caption, columns)
            first += rows

    def _entry(self, path: Path, name: str, cell: tuple[int, int], caption: Any, columns: Columns) -> Entry:
        if isinstance(caption, list) and caption:
            caption = caption[0]
        if caption is not None and not isinstance(caption, str):
            return Problem(name, f"has a caption that is no text: {shown(caption)}")
        hint = CellPlace(str(path), *cell, columns.hint) if columns.hint else None
        return Record(name, CellPlace(str(path), *cell, columns.picture), caption or "", hint)


def parquet_files(folder: Path) -> tuple[Path, ...]:
    """The tables in a folder, by name."""
    return tuple(sorted(path for path in folder.glob("*.parquet") if path.is_file()))


@lru_cache(maxsize=GROUPS_KEPT)
def _cells(path: str, modified_ns: int, group: int, column: str) -> Any:
    return _open(path).read_row_group(group, columns=[column]).column(column)


def _open(path: str) -> Any:
    """Raises:
    InputError: pyarrow is not there.
    ValueError: not a parquet file.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        remedy = "Install it into ComfyUI's Python (pip install pyarrow), or unpack the pictures into a folder."
        raise InputError(f"parquet table {path}", expected="the package pyarrow", found="it is not installed", remedy=remedy) from error
    return parquet.ParquetFile(path)

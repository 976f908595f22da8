"""From a path to a source: told by the user, or by what lies there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ...errors import InputError
from .columns import Columns
from .folder_tree import FolderTree
from .pairs import PairedFolders
from .parquet import ParquetTables, parquet_files
from .record import Record, Source
from .table import TABLE_NAMES, TableSource
from .tar_shards import TarShards, tar_files

Kind: TypeAlias = Literal["auto", "folder", "table", "tar", "parquet"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_BY_ENDING: dict[str, Kind] = {".jsonl": "table", ".csv": "table", ".tar": "tar", ".parquet": "parquet"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where pictures are, as the user says it."""

    path: Path
    """A folder, or a single table or archive."""
    kind: Kind = "auto"
    columns: Columns = field(default_factory=Columns)
    hints: Path | None = None
    """A folder of ready-made hints under the pictures' names."""
    nested: bool = True
    """Whether folders inside a folder are looked into."""


def open_source(origin: Origin) -> Source:
    """The source at a place; nothing is read but the names in a folder.

    Raises:
        InputError: nothing there, something that is no source, no archives or tables of the kind that was asked for, or a folder of hints
            beside something else than a folder of pictures.
    """
    if origin.kind not in KINDS:
        raise InputError("kind", expected=", ".join(KINDS), found=origin.kind, remedy="Choose auto.")
    kind = _kind(origin.path) if origin.kind == "auto" else origin.kind
    if origin.hints is not None:
        return _pairs(origin, kind)
    if kind == "folder":
        return FolderTree(origin.path, nested=origin.nested)
    if kind == "table":
        return TableSource(_table(origin.path), origin.columns)
    if kind == "tar":
        return TarShards(_several(origin.path, tar_files(origin.path), "tar archives (.tar)"), origin.columns)
    return ParquetTables(_several(origin.path, parquet_files(origin.path), "parquet tables (.parquet)"), origin.columns)


def gives_hints(source: Source) -> bool:
    """Whether a source has hints of its own, as its first picture shows.

    Raises:
        InputError: the source as a whole cannot be read.
    """
    first = next((entry for entry in source.entries() if isinstance(entry, Record)), None)
    return first is not None and first.hint is not None


def lone_captions(source: Source) -> Iterator[str]:
    """Names of a folder's caption files that belong to no picture; sources that are no folders have none.

    Raises:
        InputError: the folder cannot be read.
    """
    tree = source.pictures if isinstance(source, PairedFolders) else source
    if isinstance(tree, FolderTree):
        yield from tree.lone_captions()


def _kind(path: Path) -> Kind:
    if not path.is_dir():
        kind = _BY_ENDING.get(path.suffix.lower())
        if kind is not None:
            return kind
        found = f"the file {path.name}" if path.exists() else "nothing there"
        expected = "a folder, or a .jsonl, .csv, .tar or .parquet file"
        raise InputError(f"pictures {path}", expected=expected, found=found, remedy="Check the path.")
    if any((path / name).is_file() for name in TABLE_NAMES):
        return "table"
    if tar_files(path):
        return "tar"
    return "parquet" if parquet_files(path) else "folder"


def _pairs(origin: Origin, kind: Kind) -> Source:
    assert origin.hints is not None
    if kind != "folder":
        remedy = "Name the column of hints instead, or leave the folder of hints empty."
        raise InputError("folder of hints", expected="a folder of pictures beside it", found=f"a {kind}", remedy=remedy)
    return PairedFolders(FolderTree(origin.path, nested=origin.nested), origin.hints)


def _table(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in TABLE_NAMES if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"folder {path}", expected=f"a table, {' or '.join(TABLE_NAMES)}", found="none", remedy="Name the table itself.")
    return found


def _several(path: Path, found: tuple[Path, ...], expected: str) -> tuple[Path, ...]:
    if not path.is_dir():
        return (path,)
    if not found:
        raise InputError(f"folder {path}", expected=expected, found="none", remedy="Choose the folder that they lie in.")
    return found

"""What every source gives: records of pictures, one by one, and what is wrong with those that it cannot give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..dataset import Problem
from .place import BytesPlace


@dataclass(frozen=True, slots=True)
class Record:
    """One picture before anything of it has been read."""

    name: str
    """What the user knows it by, with `/` between folders; no two of a source are the same."""
    picture: BytesPlace
    caption: str | BytesPlace | None = ""
    """The text, or the UTF-8 text file that holds it; empty where there is none, None where the file for it is not there."""
    hint: BytesPlace | None = None
    """Its ready-made conditioning picture."""
    repeats: int = 1
    """How often it comes in each epoch."""
    fallback_caption: str = ""
    """What kohya's trainers use where there is no caption: the name of the folder behind its number of repeats."""


Entry: TypeAlias = "Record | Problem"


class Source(Protocol):
    """A place with pictures. Immutable; nothing is opened before `entries` is called."""

    @property
    def subject(self) -> str:
        """What messages call it: `picture folder D:/cats`."""

    def entries(self) -> Iterator[Entry]:
        """Records in an order that depends on names alone, and problems where something cannot be one. Reads no picture.

        Raises:
            InputError: the source as a whole is not there or cannot be read.
        """

    def stamp(self) -> str:
        """Stands for names, sizes and times of all files: the same as before means that nothing has changed. Empty if it cannot be told yet."""

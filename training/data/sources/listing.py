"""What lies in a folder and, if wanted, in those inside it: in the order of names, loops of links not followed, nothing opened."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...files.digest import SETTLED_NS
from ..dataset import Problem


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one folder, without hidden ones."""

    folder: str
    inner: str
    """Its path from where the listing began, with `/`; empty for the beginning itself."""
    names: tuple[str, ...]
    """Of files, sorted."""

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def full_name(self, name: str) -> str:
        """From where the listing began; bytes of a name that are no UTF-8 are written out, because such a name cannot be shown or stored."""
        whole = f"{self.inner}/{name}" if self.inner else name
        return whole.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def list_folder(folder: Path, subject: str, nested: bool) -> Iterator[Listing | Problem]:
    """Listings of a folder and of those inside it, a folder before those in it.

    Args:
        folder: where to begin.
        subject: what messages call it.
        nested: whether to look into sub-folders.

    Raises:
        InputError: no such folder, or it cannot be read. Inner folders that cannot be read are problems.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        remedy = "Check the path; in a workflow a relative one begins in the input folder, so give the whole path."
        raise InputError(subject, expected="a folder of pictures", found=found, remedy=remedy)
    try:
        yield from _listings(str(folder), "", nested, set())
    except OSError as error:
        raise InputError(subject, expected="a readable folder", found=error.strerror, remedy="Check its permissions.") from error


def stamp_files(paths: Iterable[str]) -> str:
    """A hash of paths, sizes and times; empty if a file is gone or so young that it may change again without its time showing it."""
    digest, youngest_ns = hashlib.sha256(), 0
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            return ""
        youngest_ns = max(youngest_ns, state.st_mtime_ns)
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return "" if time.time_ns() - youngest_ns < SETTLED_NS else digest.hexdigest()


def _listings(folder: str, inner: str, nested: bool, seen: set[tuple[int, int]]) -> Iterator[Listing | Problem]:
    state = os.stat(folder)
    # Windows gives some network folders no number: then loops end where paths become too long.
    identity = (state.st_dev, state.st_ino)
    if identity in seen:
        yield Problem(inner, "is the same folder as one that is looked into already")
        return
    if state.st_ino:
        seen.add(identity)
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: os.path.normcase(entry.name))
    folders = [entry for entry in entries if _is_folder(entry)]
    # A link that leads nowhere counts as a file: whoever opens it says so.
    yield Listing(folder, inner, tuple(entry.name for entry in entries if not _is_folder(entry)))
    if nested:
        for entry in sorted(folders, key=lambda entry: entry.is_symlink()):
            yield from _inner_listings(entry.path, f"{inner}/{entry.name}" if inner else entry.name, seen)


def _inner_listings(folder: str, inner: str, seen: set[tuple[int, int]]) -> Iterator[Listing | Problem]:
    try:
        yield from _listings(folder, inner, True, seen)
    except OSError as error:
        yield Problem(inner, f"cannot be read ({error.strerror})")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

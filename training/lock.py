"""At most one process trains a run: a lock that the operating system itself lets go when its holder dies, so that none is ever stale."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError
from .files.write import explained

_log = logging.getLogger(__name__)
# On Windows locked bytes cannot be read by others: lock one far behind the text that says who holds it.
_LOCKED_BYTE = 1 << 30
_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 40, 0.005
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)


@contextmanager
def locked(path: Path, subject: str) -> Iterator[None]:
    """Holds the lock file at `path`; its text names the holder.

    Raises:
        InputError: another process (or another thread of this one) holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise explained(path, error) from error
    try:
        _take(handle, path, subject)
        _sign(handle)
        yield
    finally:
        os.close(handle)


def held_for_good(path: Path) -> int:
    """Makes the file at `path` and locks it for as long as this process lives; the handle may be written to, and must stay open.

    Raises:
        OSError: the folder may not be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0))
    for _ in range(_LOCK_ATTEMPTS):
        try:
            _lock(handle)
            break
        except OSError as error:
            if error.errno not in _HELD:  # where nothing can be locked, `is_held` takes every such file for held
                break
            time.sleep(_LOCK_PAUSE_S)  # another process is just looking whether it is held
    return handle


def is_held(path: Path) -> bool:
    """Whether a living process may hold the lock of this file."""
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        _lock(handle)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _take(handle: int, path: Path, subject: str) -> None:
    try:
        _lock(handle)
    except OSError as error:
        if error.errno in _HELD:
            remedy = "Wait until it has finished, or stop it."
            raise InputError(subject, expected="a run that nobody else is training", found=_holder(path), remedy=remedy) from error
        # Some network file systems know no locks; one user on one machine is safe without.
        _log.warning("%s cannot be locked (%s): do not train the same run twice at once", path, error.strerror)


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        os.lseek(handle, 0, os.SEEK_SET)  # what is written now belongs to the beginning, not behind a hole of a gigabyte
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sign(handle: int) -> None:
    text = json.dumps({"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode("ascii")
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    os.write(handle, text)


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(path.read_text("ascii"))
        return f"process {int(note['process'])}, training it since {note['since']}"
    return "another process, training it"

"""Locks as Windows has them, by a stand-in for its module: what is written beside a lock begins at the beginning."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
from graft.training import lock


def test_a_note_is_as_long_as_what_was_written(tmp_path, monkeypatch: pytest.MonkeyPatch):
    path, locked = str(tmp_path / "note"), []
    stand_in = SimpleNamespace(LK_NBLCK=2, locking=lambda handle, mode, count: locked.append(os.lseek(handle, 0, os.SEEK_CUR)))
    monkeypatch.setitem(sys.modules, "msvcrt", stand_in)
    with monkeypatch.context() as on_windows:
        on_windows.setattr(lock.os, "name", "nt")
        handle = lock.held_for_good(path)  # type: ignore[arg-type]
    os.write(handle, b"a run\n")
    os.close(handle)
    assert locked == [lock._LOCKED_BYTE] and os.path.getsize(path) == 6

"""The trainings of this server, as far back as it remembers, and what a page may ask about them. It answers with values; nobody names a path."""

from __future__ import annotations

import re
import threading
from typing import Any

from ...training.errors import InputError
from ...training.listener import Wish
from .run import WISHES, LiveRun

MOST_RUNS = 24
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_NUMBER = re.compile(r"\d{1,9}")
HINTS = "hint"


class Unknown(LookupError):  # noqa: N818 (an answer, not a fault)
    """This server has no such run or picture."""


class Board:
    """Runs by id, the newest of each node; bounded in number."""

    def __init__(self, most: int = MOST_RUNS) -> None:
        self._most, self._lock = most, threading.Lock()
        self._runs: dict[str, LiveRun] = {}
        self._stops: dict[str, int] = {}

    def add(self, run: LiveRun) -> list[LiveRun]:
        """Puts a run up in place of the one that its node had before, which is returned; the oldest that have ended give way."""
        with self._lock:
            before = [old for old in self._runs.values() if old.place == run.place]
            kept = {id: old for id, old in self._runs.items() if old.going_on or old.place != run.place}
            ended = [id for id, old in kept.items() if not old.going_on]
            for id in ended[: max(0, len(kept) + 1 - self._most)]:
                del kept[id]
            self._runs = {**kept, run.id: run}
            return before

    def stopped(self, node: str) -> None:
        """The node gave less than it was asked for: the next Run must ask it again, though nothing that goes into it has changed."""
        with self._lock:
            self._stops[node] = self._stops.get(node, 0) + 1

    def stops(self, node: str) -> int:
        """How often that has happened."""
        return self._stops.get(node, 0)

    # ------------------------------------------------------------ what a page asks; all texts are checked

    def summaries(self) -> dict[str, Any]:
        """The present figures of all runs, oldest first."""
        with self._lock:
            runs = list(self._runs.values())
        return {"runs": [run.summary() for run in runs]}

    def history(self, run_id: str) -> dict[str, Any]:
        """Raises Unknown."""
        return self._run(run_id).history()

    def wish(self, run_id: str, wish: str) -> bool:
        """Whether it will be fulfilled after the step that is being trained.

        Raises:
            Unknown: no such run.
            InputError: no such wish.
        """
        known: Wish | None = next((name for name in WISHES if name == wish), None)
        if known is None:
            raise InputError("wish", expected=", ".join(WISHES), found=repr(wish[:40]), remedy="Ask for one of these.")
        return self._run(run_id).wish(known)

    def picture(self, run_id: str, step: str, index: str) -> bytes:
        """A JPEG; `step` is a number, or "hint" for the hints beside the pictures. Raises Unknown."""
        run = self._run(run_id)
        if not _NUMBER.fullmatch(index) or not (step == HINTS or _NUMBER.fullmatch(step)):
            raise Unknown("picture")
        found = run.picture(None if step == HINTS else int(step), int(index))
        if found is None:
            raise Unknown("picture")
        return found

    def _run(self, run_id: str) -> LiveRun:
        run = self._runs.get(run_id) if _RUN_ID.fullmatch(run_id) else None
        if run is None:
            raise Unknown("run")
        return run


BOARD = Board()
"""This process's own."""

"""What the store holds, for people: each run with what was trained, how far, how well, and how much room it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import list_checkpoints
from .errors import InputError
from .files.write import write_bytes, write_json
from .history import History
from .state import RUN_FILE
from .store import Run, RunStore
from .store_size import StoredRun, stored_runs

WORKFLOW_FILE, PICTURE_FILE = "workflow.json", "picture.jpg"


@dataclass(frozen=True)
class Entry:
    """One run."""

    stored: StoredRun
    inputs: Mapping[str, Any]
    """run.json: what it was made from; empty where it cannot be read."""
    steps: int
    """Of its last checkpoint."""
    history: History
    """What it measured itself; earlier runs have their own entries."""

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def kind(self) -> str:
        """ "controlnet xlabs 2+0", "lora rank 16" """
        recipe = self.inputs.get("recipe")
        return kind_of(recipe) if isinstance(recipe, dict) else "unknown"

    @property
    def workflow(self) -> str:
        """The name of the workflow that began it; empty where that was not known, as in ComfyUI."""
        return str(self.inputs.get("workflow", ""))

    @property
    def held_out(self) -> float | None:
        """The newest held-out loss."""
        return self.history.held_out[-1].held_out if self.history.held_out else None

    @property
    def has_workflow(self) -> bool:
        return (self.stored.folder / WORKFLOW_FILE).is_file()

    @property
    def has_picture(self) -> bool:
        return (self.stored.folder / PICTURE_FILE).is_file()


def catalogue(store: RunStore) -> list[Entry]:
    """All runs, the most recently used first."""
    return [_entry(stored) for stored in reversed(stored_runs(store))]


def find(store: RunStore, name: str) -> Entry:
    """The run of that name, looked for among those that are there: a name is never made into a path.

    Raises:
        InputError: there is none.
    """
    found = next((stored for stored in stored_runs(store) if stored.name == name), None)
    if found is None:
        raise InputError("run", expected="the name of a run in the store", found=name[:64], remedy="List the runs again.")
    return _entry(found)


def kind_of(recipe: Mapping[str, Any]) -> str:
    """A recipe in a few words."""
    words = [str(recipe.get("kind", "unknown"))]
    if "layout" in recipe:
        words += [str(recipe["layout"]), f"{recipe.get('double_depth', 0)}+{recipe.get('single_depth', 0)}"]
    if "rank" in recipe:
        words.append(f"rank {recipe['rank']}")
    return " ".join(words)


def keep_workflow(run_folder: Path, workflow: Mapping[str, Any]) -> None:
    """Keeps the graph that made a run beside it: the newest counts."""
    if run_folder.is_dir():
        write_json(run_folder / WORKFLOW_FILE, dict(workflow))


def keep_picture(run_folder: Path, picture: bytes) -> None:
    """Keeps a JPEG that shows what a run has learnt."""
    if run_folder.is_dir():
        write_bytes(run_folder / PICTURE_FILE, picture)


def _entry(stored: StoredRun) -> Entry:
    checkpoints = list_checkpoints(stored.folder)
    steps = max((checkpoint.step for checkpoint in checkpoints), default=0)
    return Entry(stored, _inputs(stored.folder), steps, Run(stored.folder).history.read())


def _inputs(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RUN_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""The store's runs as the runs browser gets them: plain values, found by name among those that are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...training.catalogue import PICTURE_FILE, WORKFLOW_FILE, Entry, catalogue, find
from ...training.store import RunStore
from .board import Unknown
from .curve import Curve, HeldOut, rounded, single

BASE_DIGITS = 6


def listed(store: RunStore) -> dict[str, Any]:
    """All runs, the most recently used first."""
    return {"runs": [_summary(entry) for entry in catalogue(store)]}


def curve_of(store: RunStore, name: str) -> dict[str, Any]:
    """A run's summary, its curve in bounded size, and what it was made from. Raises InputError: there is none of that name."""
    entry = find(store, name)
    curve, held_out = Curve(), HeldOut()
    curve.extend(single(record.step, record.loss, record.learning_rate) for record in entry.history.steps)
    for record in entry.history.comparable_held_out if entry.history.held_out else ():
        held_out.add(record.step, record.held_out)
    return {
        **_summary(entry), "inputs": dict(entry.inputs), "points": [point.rounded() for point in curve.points],
        "held_out_points": [[step, rounded(loss)] for step, loss in held_out.points],
    }  # fmt: skip


def workflow_of(store: RunStore, name: str) -> Any:
    """The graph that made it. Raises Unknown or InputError."""
    return json.loads(_file(find(store, name), WORKFLOW_FILE).read_text("utf-8"))


def picture_of(store: RunStore, name: str) -> bytes:
    """A JPEG. Raises Unknown or InputError."""
    return _file(find(store, name), PICTURE_FILE).read_bytes()


def _file(entry: Entry, name: str) -> Path:
    path = entry.stored.folder / name
    if not path.is_file():
        raise Unknown(name)
    return path


def _summary(entry: Entry) -> dict[str, Any]:
    stored = entry.stored
    return {
        "name": entry.name, "kind": entry.kind, "steps": entry.steps,
        "base": str(entry.inputs.get("base_fingerprint", ""))[:BASE_DIGITS], "base_blocks": _blocks(entry.inputs.get("base_sizes")),
        "held_out": None if entry.held_out is None else rounded(entry.held_out), "size_bytes": stored.size_bytes, "used_at": stored.used_at,
        "in_use": stored.in_use, "parent": stored.parent, "has_workflow": entry.has_workflow, "has_picture": entry.has_picture,
    }  # fmt: skip


def _blocks(base_sizes: Any) -> str | None:
    """Double and single blocks of the base: "19+38" is FLUX.1; None where sizes were not kept."""
    if not isinstance(base_sizes, Mapping) or not {"double_depth", "single_depth"} <= base_sizes.keys():
        return None
    return f"{base_sizes['double_depth']}+{base_sizes['single_depth']}"

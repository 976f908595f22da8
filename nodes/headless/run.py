"""From a workflow file to its results: read, import, set, check, run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...training.errors import InputError
from .api_format import graph_from_api, is_api_format
from .check import checked
from .execute import Listener, NodeResult, execute
from .graph import Graph, Registry
from .overrides import with_settings
from .ui_format import graph_from_ui, is_ui_format


def run_workflow(path: Path, settings: Sequence[str], listener: Listener) -> list[NodeResult]:
    """Runs a workflow file on the current host with Graft's nodes and the core's stand-ins.

    Args:
        settings: "NODE.INPUT=VALUE" each.

    Raises:
        InputError: the file, a setting, the graph or what a node was given cannot be used.
    """
    registry, titles = all_nodes()
    graph = with_settings(read_graph(path, registry, titles), settings, registry)
    return execute(checked(graph, registry), registry, listener)


def all_nodes() -> tuple[dict[str, type], dict[str, str]]:
    """Node classes and display names by id."""
    from ..registry import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .core_registry import CORE_CLASSES, CORE_NAMES

    return {**CORE_CLASSES, **NODE_CLASS_MAPPINGS}, {**CORE_NAMES, **NODE_DISPLAY_NAME_MAPPINGS}


def read_graph(path: Path, registry: Registry, titles: Mapping[str, str]) -> Graph:
    """A graph from a file in UI or API format, named after the file. Raises InputError if it is neither."""
    content = _read_json(path)
    if is_ui_format(content):
        return graph_from_ui(path.stem, content, registry, titles)
    if is_api_format(content):
        return graph_from_api(path.stem, content, titles)
    raise InputError(
        f"workflow {path}", expected="a ComfyUI workflow, as saved (UI format) or as exported (API format)", found="other JSON",
        remedy="Save it from ComfyUI with Workflow > Save or Workflow > Export (API).",
    )  # fmt: skip


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"workflow {path}", expected="a file", found=error.strerror, remedy="Check the path.") from error
    except (ValueError, RecursionError) as error:
        found, remedy = f"something else ({error})", "Save it again from ComfyUI."
        raise InputError(f"workflow {path}", expected="a workflow as JSON in UTF-8", found=found, remedy=remedy) from error

"""A workflow file as the server's own request: its node classes are asked for, its refusals told with ids and titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...training.errors import InputError
from ..headless.declared import declared_inputs
from ..headless.graph import Graph, GraphError, Registry, meant
from ..headless.overrides import with_settings
from ..headless.run import read_graph
from .client import ComfyServer, Refused

DYNAMIC = "COMFY_"
"""Inputs of such types change the node's list of widgets on the page: their values are stored in an order that only the page knows."""


def graph_for(server: ComfyServer, path: Path, settings: Sequence[str]) -> Graph:
    """The workflow in `path` with the settings applied, read with the server's own node classes.

    Raises:
        InputError: the file, a setting or the graph cannot be used, or the server lacks nodes; all problems are listed.
    """
    registry, titles = registry_of(server.get("/object_info"))
    graph = with_settings(read_graph(path, registry, titles), settings, registry)
    problems = [*_unknown(graph, registry), *_dynamic(graph, registry)]
    if problems:
        raise GraphError(graph.name, problems)
    return graph


def registry_of(object_info: Mapping[str, Any]) -> tuple[dict[str, type], dict[str, str]]:
    """Node classes that declare what the server's declare, and display names, by id."""
    titles = {id: str(info.get("display_name") or id) for id, info in object_info.items()}
    return {id: _class(id, info) for id, info in object_info.items()}, titles


def queue(server: ComfyServer, graph: Graph) -> tuple[str, list[str]]:
    """Queues the graph.

    Returns:
        the number of the run, and what the server finds wrong with outputs that it leaves out.

    Raises:
        GraphError: the server refuses it; each problem names its node.
    """
    body: dict[str, Any] = {"prompt": prompt_of(graph), "client_id": server.client_id}
    if graph.workflow is not None:
        body["extra_data"] = {"extra_pnginfo": {"workflow": graph.workflow}}
    try:
        answer = server.post("/prompt", body)
    except Refused as refused:
        raise GraphError(graph.name, list(_problems(graph, refused.answer)) or [str(refused)]) from refused
    return str(answer["prompt_id"]), list(_node_problems(graph, answer.get("node_errors")))


def prompt_of(graph: Graph) -> dict[str, Any]:
    """The graph in API format; a value that is a list is wrapped, lest the server take it for a link."""
    prompt = graph.prompt()
    for id, node in graph.nodes.items():
        wrapped = {name: {"__value__": value} for name, value in node.inputs.items() if isinstance(value, list)}
        prompt[id]["inputs"].update(wrapped)
    return prompt


def name_of(graph: Graph, id: Any) -> str:
    """How messages call a node: id and title; nodes that the server makes on the way are known by id alone."""
    node = graph.nodes.get(str(id))
    return node.name() if node else f"node {id}"


def _class(id: str, info: Mapping[str, Any]) -> type:
    inputs = dict(info.get("input") or {})
    members = {"INPUT_TYPES": classmethod(lambda cls: inputs), "RETURN_TYPES": tuple(info.get("output") or ())}
    return type(id, (), {**members, "OUTPUT_NODE": bool(info.get("output_node"))})


def _unknown(graph: Graph, registry: Registry) -> Iterator[str]:
    for node in graph.nodes.values():
        if node.type not in registry:
            remedy = f"Install the node pack that brings them there{meant(node.type, registry)}"
            yield f"{node.name()}: this server has no nodes of type {node.type}. {remedy}"


def _dynamic(graph: Graph, registry: Registry) -> Iterator[str]:
    for node in graph.nodes.values() if graph.workflow is not None else ():
        kinds = [entry.type for entry in declared_inputs(registry[node.type]).values()] if node.type in registry else []
        if any(str(kind).startswith(DYNAMIC) for kind in kinds):
            yield f"{node.name()}: only ComfyUI's page knows how its values are stored. Export the workflow there with Workflow > Export (API)"


# ---------------------------------------------------------------- what the server refuses


def _problems(graph: Graph, answer: Any) -> Iterator[str]:
    found = list(_node_problems(graph, answer.get("node_errors") if isinstance(answer, dict) else None))
    yield from found
    error = answer.get("error") if isinstance(answer, dict) else answer
    if not found and error:
        yield _said(error) if isinstance(error, dict) else str(error)


def _node_problems(graph: Graph, node_errors: Any) -> Iterator[str]:
    for id, entry in (node_errors or {}).items():
        for error in entry.get("errors", ()):
            yield f"{name_of(graph, id)}: {_said(error)}"


def _said(error: Mapping[str, Any]) -> str:
    parts = [str(error.get(name) or "").strip() for name in ("message", "details")]
    return ": ".join(part for part in dict.fromkeys(parts) if part)


def require_outputs(graph: Graph, outputs: Any) -> dict[str, Any]:
    """What the server remembers of a run's outputs, checked to be a table by node id."""
    if not isinstance(outputs, dict):
        raise InputError(f"workflow {graph.name}", expected="ComfyUI's history of the run", found=outputs, remedy="Look at the server's log.")
    return outputs

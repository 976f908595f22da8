"""Workflows in API (prompt) format: {"7": {"class_type": ..., "inputs": {name: value or ["3", 0]}, "_meta": {"title": ...}}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...training.errors import InputError
from .graph import Graph, Link, Node


def is_api_format(content: Any) -> bool:
    """Whether parsed JSON is a prompt, or a request to ComfyUI's /prompt that holds one."""
    prompt = _prompt(content)
    return isinstance(prompt, dict) and bool(prompt) and all(isinstance(node, dict) and "class_type" in node for node in prompt.values())


def graph_from_api(name: str, content: Mapping[str, Any], titles: Mapping[str, str]) -> Graph:
    """A graph from API format; `titles` are the node types' display names. Raises InputError for nodes without an inputs table."""
    return Graph(name, {str(id): _node(name, str(id), node, titles) for id, node in _prompt(content).items()})


def _prompt(content: Any) -> Any:
    return content["prompt"] if isinstance(content, dict) and isinstance(content.get("prompt"), dict) else content


def _node(name: str, id: str, node: Mapping[str, Any], titles: Mapping[str, str]) -> Node:
    inputs, node_type = node.get("inputs", {}), str(node["class_type"])
    if not isinstance(inputs, dict):
        raise InputError(f"workflow {name}, node {id}", expected="a table of inputs", found=inputs, remedy="Save the workflow again.")
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return Node(id, node_type, str(title or titles.get(node_type, node_type)), {key: _value(value) for key, value in inputs.items()})


def _value(value: Any) -> Any:
    """A link is a list of a node's id and an output's number; a list meant as a value comes wrapped in `__value__`."""
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)) and isinstance(value[1], int):
        return Link(str(value[0]), value[1])
    return value

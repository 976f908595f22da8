"""--set NODE.INPUT=VALUE: other values for inputs of a workflow, without editing its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .declared import WIDGET_TYPES, declared_inputs, parsed
from .graph import Graph, GraphError, Node, Registry


@dataclass(frozen=True)
class Setting:
    node: str
    input: str
    text: str


def with_settings(graph: Graph, settings: Sequence[str], registry: Registry) -> Graph:
    """The graph with each "NODE.INPUT=VALUE" applied; NODE is an id, or a title that only one node has.

    Raises:
        GraphError: listing every setting that cannot be applied, and why.
    """
    nodes, problems = dict(graph.nodes), []
    for text in settings:
        try:
            setting = _split(text)
            node = _find(nodes, setting.node)
            nodes[node.id] = _changed(node, setting, registry)
        except ValueError as error:
            problems.append(f"--set {text}: {error}")
    if problems:
        raise GraphError(graph.name, problems)
    return replace(graph, nodes=nodes)


def _split(text: str) -> Setting:
    """A title may hold dots, an input's name does not: the last dot before the first equals sign divides them."""
    target, equals, value = text.partition("=")
    node, dot, name = target.rpartition(".")
    if not (equals and dot and node.strip() and name.strip()):
        raise ValueError("expected NODE.INPUT=VALUE, for example --set 7.steps=200")
    return Setting(node.strip(), name.strip(), value)


def _find(nodes: dict[str, Node], wanted: str) -> Node:
    if wanted in nodes:
        return nodes[wanted]
    matches = [node for node in nodes.values() if node.title == wanted] or [node for node in nodes.values() if node.type == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f'{len(matches)} nodes are called "{wanted}"; use an id: {", ".join(node.id for node in matches)}')
    raise ValueError(f"no node has this id or title; there are {', '.join(_names(nodes))}")


def _names(nodes: dict[str, Node]) -> list[str]:
    return [f'{node.id} "{node.title}"' for node in nodes.values()]


def _changed(node: Node, setting: Setting, registry: Registry) -> Node:
    if node.type not in registry:
        raise ValueError(f"{node.name()} is of a type that this runner does not know")
    declared = declared_inputs(registry[node.type])
    settable = [name for name, entry in declared.items() if entry.type in WIDGET_TYPES]
    if setting.input not in settable:
        raise ValueError(f"{node.name()} has no such input to set; it has {', '.join(settable) or 'none'}")
    try:
        value = parsed(declared[setting.input], setting.text)
    except ValueError as error:
        raise ValueError(f"expected {error} for {node.name()}; found {setting.text!r}") from None
    return replace(node, inputs={**node.inputs, setting.input: value})

"""Workflows in UI format (what ComfyUI's browser page saves) become graphs: what the page itself does when a workflow is queued.

Reroutes, primitives, notes, muted and bypassed nodes exist on the page only; links pass through them or end there. Widget values are stored
by position, in the order in which the node class declares its widgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...training.errors import InputError
from .declared import declared_inputs
from .graph import Graph, Link, Node, Registry, Unconnected
from .subgraphs import BYPASSED, MUTED, Constant, Flat, Source, UiInput, UiNode, flatten
from .widgets import named_widgets

REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
NOTES = frozenset({"Note", "MarkdownNote"})


def is_ui_format(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("nodes"), list)


def graph_from_ui(name: str, content: Mapping[str, Any], registry: Registry, titles: Mapping[str, str]) -> Graph:
    """A graph from UI format; nodes of unknown types keep their links only (the check names them).

    Raises:
        InputError: the file is not well formed, or reroutes form a ring.
    """
    flat = flatten(name, content)
    resolver = _Resolver(name, flat)
    real = [node for node in flat.nodes.values() if _runs(node)]
    nodes = {node.id: Node(node.id, node.type, _title(node, titles), _inputs(node, resolver, registry)) for node in real}
    return Graph(name, nodes, content)


def _runs(node: UiNode) -> bool:
    return node.type not in NOTES | {REROUTE, PRIMITIVE} and node.mode not in (MUTED, BYPASSED)


def _title(node: UiNode, titles: Mapping[str, str]) -> str:
    return node.title or titles.get(node.type, node.type)


def _inputs(node: UiNode, resolver: _Resolver, registry: Registry) -> dict[str, Any]:
    """Widget values first; a link that leads somewhere takes a widget's place."""
    node_class = registry.get(node.type)
    declared = declared_inputs(node_class) if node_class else {}
    values = named_widgets(list(declared.values()), node.widgets)
    values |= {name: value for name, value in node.promoted.items() if name in declared}
    for entry in node.inputs:
        if entry.source is None:
            continue
        found = resolver.resolve(entry.source)
        if isinstance(found, Constant):
            values[entry.name] = found.value
        elif isinstance(found, Link):
            values[entry.name] = found
        elif entry.name not in values:
            values[entry.name] = Unconnected(resolver.reason(entry.source))
    return values


class _Resolver:
    """Follows links back through aliases, reroutes, primitives and bypassed nodes to where a value is really made."""

    def __init__(self, name: str, flat: Flat) -> None:
        self._name, self._flat = name, flat

    def resolve(self, link: Link) -> Source:
        return self._follow(link)[0]

    def reason(self, link: Link) -> str:
        """Why `link` leads nowhere, in the user's words."""
        end = self._follow(link)[1]
        node = self._flat.nodes.get(end.node_id)
        if node is None:
            return "it is linked to an input of its subgraph that is not connected"
        state = {MUTED: "muted", BYPASSED: "bypassed and has no input to pass through"}.get(node.mode, "not connected itself")
        return f'its source, node {node.id} "{node.title or node.type}", is {state}'

    def _follow(self, link: Link) -> tuple[Source, Link]:
        """What a link leads to, and the last place on the way there."""
        seen: set[Link] = set()
        while link not in seen:
            seen.add(link)
            found = self._step(link)
            if found == link or not isinstance(found, Link):
                return found, link
            link = found
        ring = f"a ring through node {link.node_id}"
        raise InputError(f"workflow {self._name}", expected="links without a ring", found=ring, remedy="Cut one of its links.")

    def _step(self, link: Link) -> Source:
        if link in self._flat.aliases:
            return self._flat.aliases[link]
        node = self._flat.nodes.get(link.node_id)
        if node is None:
            return None if ":-" in link.node_id else link
        if node.mode == MUTED:
            return None
        if node.type == REROUTE:
            return node.inputs[0].source if node.inputs else None
        if node.mode == BYPASSED:
            return _passed_through(node, link.slot)
        if node.type == PRIMITIVE:
            return _primitive(node)
        return link


def _primitive(node: UiNode) -> Source:
    return Constant(node.widgets[0]) if isinstance(node.widgets, list) and node.widgets else None


def _passed_through(node: UiNode, slot: int) -> Source:
    """A bypassed node's output is its input of the same type: the one in the same place if its type fits, else the first that fits."""
    if slot >= len(node.output_types):
        return None
    ordered: list[UiInput] = [*node.inputs[slot : slot + 1], *node.inputs]
    return next((entry.source for entry in ordered if entry.type == node.output_types[slot]), None)

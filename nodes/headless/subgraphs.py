"""Flattens a UI-format file: nodes inside subgraphs get ids like "5:3", and every input knows where its link starts.

Two spellings of links exist (schema 0.4: [id, from, from_slot, to, to_slot, type]; schema 1.0 and subgraphs: tables), and a subgraph's own
inputs and outputs are nodes -10 and -20 of its definition. Here they become aliases: (node, slot) -> where it really comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...training.errors import InputError
from .graph import Link

SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = "-10", "-20"
PROMOTED_FROM_INPUT = "-1"
MUTED, BYPASSED = 2, 4
MAX_DEPTH = 32


@dataclass(frozen=True)
class Constant:
    """A value that arrives over a link: a primitive's, or that of a widget promoted to a subgraph's node."""

    value: Any


Source = Link | Constant | None
"""Where an input's value comes from; None: from nowhere."""


@dataclass(frozen=True)
class UiInput:
    name: str
    type: Any
    widget: str | None
    source: Link | None


@dataclass(frozen=True)
class UiNode:
    """A node of the file. `widgets` are its widgets_values; `promoted` overrides some of them by name."""

    id: str
    type: str
    title: str | None
    mode: int
    inputs: tuple[UiInput, ...]
    output_types: tuple[Any, ...]
    widgets: Any
    properties: Mapping[str, Any]
    promoted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Flat:
    """All nodes of a file by their full id, and the aliases of subgraphs' inputs and outputs."""

    nodes: dict[str, UiNode]
    aliases: dict[Link, Source]


def flatten(name: str, content: Mapping[str, Any]) -> Flat:
    """All nodes, with subgraphs in place of their instances. Raises InputError for a file that is not well formed."""
    flat = Flat({}, {})
    _Flattener(name, _definitions(name, content), flat).scope(content, prefix="", promoted={}, depth=0)
    return flat


def _definitions(name: str, content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Subgraph definitions by id; a definition may hold definitions of its own."""
    found: dict[str, Mapping[str, Any]] = {}
    definitions = content.get("definitions") or {}
    if not isinstance(definitions, dict):
        raise _malformed(name, "a table of definitions", definitions)
    for definition in _list(name, definitions, "subgraphs"):
        found[str(definition.get("id"))] = definition
        found |= _definitions(name, definition)
    return found


@dataclass(frozen=True)
class _Flattener:
    name: str
    definitions: Mapping[str, Mapping[str, Any]]
    flat: Flat

    def scope(self, content: Mapping[str, Any], prefix: str, promoted: Mapping[str, Mapping[str, Any]], depth: int) -> None:
        """Adds the nodes of one level (the file's own, or one instance of a subgraph). `promoted`: node id -> widget name -> value."""
        if depth > MAX_DEPTH:
            raise _malformed(self.name, f"subgraphs nested at most {MAX_DEPTH} deep", prefix)
        links = dict(_link(self.name, link) for link in _list(self.name, content, "links"))
        for raw in _list(self.name, content, "nodes"):
            node = _node(self.name, raw, prefix, links)
            node = replace(node, promoted=promoted.get(str(raw["id"]), {}))
            self._add(node, depth)
        self._alias_outputs(content, prefix)

    def _alias_outputs(self, content: Mapping[str, Any], prefix: str) -> None:
        """The instance's output k is whatever is linked to slot k of the definition's output node."""
        if not prefix:
            return
        for raw in _list(self.name, content, "links"):
            _, origin = _link(self.name, raw)
            target, slot = _target(self.name, raw)
            if target == SUBGRAPH_OUTPUTS:
                self.flat.aliases[Link(prefix.removesuffix(":"), slot)] = Link(prefix + origin.node_id, origin.slot)

    def _add(self, node: UiNode, depth: int) -> None:
        definition = self.definitions.get(node.type)
        if definition is None or node.mode in (MUTED, BYPASSED):
            self._unique(node)
            return
        self._alias_inputs(node, definition)
        self.scope(definition, f"{node.id}:", self._promoted_inside(node, definition), depth + 1)

    def _unique(self, node: UiNode) -> None:
        if node.id in self.flat.nodes:
            raise InputError(f"workflow {self.name}", expected="one node of each id", found=f"two nodes {node.id}", remedy="Save it again.")
        self.flat.nodes[node.id] = node

    def _alias_inputs(self, node: UiNode, definition: Mapping[str, Any]) -> None:
        """Slot k of the definition's input node is whatever the instance's input of that name is linked to, else its promoted widget."""
        values = self._promoted_values(node)
        linked = {entry.name: entry.source for entry in node.inputs if entry.source is not None}
        for slot, entry in enumerate(_list(self.name, definition, "inputs")):
            entry_name = str(entry.get("name"))
            value = values.get((PROMOTED_FROM_INPUT, entry_name))
            source: Source = linked.get(entry_name) or (None if value is None else Constant(value))
            self.flat.aliases[Link(f"{node.id}:{SUBGRAPH_INPUTS}", slot)] = source

    def _promoted_inside(self, node: UiNode, definition: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Values of promoted widgets by inner node and widget name. A nested subgraph's node takes them as its own promotions."""
        inside: dict[str, dict[str, Any]] = {}
        for (inner, widget), value in self._promoted_values(node).items():
            if inner != PROMOTED_FROM_INPUT and value is not None:
                inside.setdefault(inner, {})[widget] = value
        return inside

    def _promoted_values(self, node: UiNode) -> dict[tuple[str, str], Any]:
        """(inner node id or -1, widget name) -> value of the widgets that show on a subgraph's node; None where the inner value holds.

        Newer files list them in properties.proxyWidgets; in older ones they are the node's inputs that have a widget.
        """
        proxies = node.properties.get("proxyWidgets")
        if isinstance(proxies, list) and proxies:
            names = [(str(entry[0]), str(entry[1])) for entry in proxies if isinstance(entry, list) and len(entry) >= 2]
        else:
            names = [(PROMOTED_FROM_INPUT, entry.name) for entry in node.inputs if entry.widget is not None]
        values = node.widgets if isinstance(node.widgets, list) else []
        known = dict(zip(names, values, strict=True)) if len(values) == len(names) else dict.fromkeys(names)
        return known | {name: value for name in names if (value := _override(node.promoted, name[1])) is not None}


def _override(promoted: Mapping[str, Any], widget: str) -> Any:
    """A value promoted twice over: outer names may carry the inner node's id before the widget's name ("12: seed")."""
    return next((value for key, value in promoted.items() if key == widget or key.endswith(f": {widget}")), None)


# ---------------------------------------------------------------- reading a file that may hold anything


def _list(name: str, content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key) or []
    if not isinstance(found, list) or not all(isinstance(entry, (dict, list)) for entry in found if entry is not None):
        raise _malformed(name, f"a list of {key}", found)
    return [entry for entry in found if entry is not None]


def _node(name: str, raw: Any, prefix: str, links: Mapping[int, Link]) -> UiNode:
    if not isinstance(raw, dict) or "id" not in raw or "type" not in raw:
        raise _malformed(name, "a node with an id and a type", raw)
    title, properties = raw.get("title"), raw.get("properties")
    return UiNode(
        id=f"{prefix}{raw['id']}",
        type=str(raw["type"]),
        title=str(title) if title else None,
        mode=raw.get("mode") or 0,
        inputs=tuple(_input(name, entry, prefix, links) for entry in _list(name, raw, "inputs")),
        output_types=tuple(entry.get("type") for entry in _list(name, raw, "outputs")),
        widgets=raw.get("widgets_values"),
        properties=properties if isinstance(properties, dict) else {},
    )


def _input(name: str, raw: Any, prefix: str, links: Mapping[int, Link]) -> UiInput:
    if not isinstance(raw, dict):
        raise _malformed(name, "an input with a name", raw)
    origin = links.get(raw["link"]) if isinstance(raw.get("link"), (int, str)) else None
    widget = raw.get("widget")
    widget_name = widget.get("name") if isinstance(widget, dict) else None
    return UiInput(str(raw.get("name")), raw.get("type"), widget_name, origin and Link(prefix + origin.node_id, origin.slot))


def _link(name: str, raw: Any) -> tuple[Any, Link]:
    """A link's id and where it starts."""
    keys: Iterable[Any] = ("id", "origin_id", "origin_slot") if isinstance(raw, dict) else (0, 1, 2)
    try:
        link_id, origin, slot = (raw[key] for key in keys)
        return link_id, Link(str(origin), int(slot))
    except (KeyError, IndexError, TypeError, ValueError):
        raise _malformed(name, "a link with an id and two ends", raw) from None


def _target(name: str, raw: Any) -> tuple[str, int]:
    keys: Iterable[Any] = ("target_id", "target_slot") if isinstance(raw, dict) else (3, 4)
    try:
        target, slot = (raw[key] for key in keys)
        return str(target), int(slot)
    except (KeyError, IndexError, TypeError, ValueError):
        raise _malformed(name, "a link with an id and two ends", raw) from None


def _malformed(name: str, expected: str, found: Any) -> InputError:
    return InputError(f"workflow {name}", expected=expected, found=str(found)[:200], remedy="Save it again from ComfyUI.")

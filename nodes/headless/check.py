"""Checks a whole graph before anything runs, and finds the order to run it in. All problems are listed at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...training.errors import InputError
from .declared import Declared, converted, declared_inputs
from .graph import Graph, GraphError, Link, Node, Registry, Unconnected, meant

SHOWN_CHOICES = 20


@dataclass(frozen=True)
class Plan:
    """A checked graph: values have their declared types, and `order` holds what the output nodes need, sources first."""

    graph: Graph
    order: tuple[str, ...]


def checked(graph: Graph, registry: Registry) -> Plan:
    """The plan for a graph in which nothing is wrong.

    Raises:
        GraphError: listing all problems: unknown nodes, with the nearest name that is known; missing, unknown and ill-typed inputs; links that
            do not fit; values out of range or not in their list; what the nodes' own VALIDATE_INPUTS say; cycles; a graph without an output node.
    """
    known = {id: node for id, node in graph.nodes.items() if node.type in registry}
    outputs = [id for id, node in known.items() if getattr(registry[node.type], "OUTPUT_NODE", False)]
    order = _order(graph, outputs)
    problems, nodes, needed = list(_unknown_nodes(graph, registry)), dict(graph.nodes), set(order)
    for id, node in known.items():
        nodes[id], found = _checked_node(node, graph, registry)
        problems += found if id in needed else [f"{problem}. No output needs this node: it can also be muted" for problem in found]
    problems += _cycles(graph)
    if not outputs and len(known) == len(graph.nodes):
        problems.append("no node is an output: expected at least one that saves or shows something, such as SaveImage")
    if problems:
        raise GraphError(graph.name, problems, "" if len(known) == len(graph.nodes) else _known_types(registry))
    return Plan(replace(graph, nodes=nodes), order)


# ---------------------------------------------------------------- nodes and their inputs


def _unknown_nodes(graph: Graph, registry: Registry) -> Iterator[str]:
    for node in graph.nodes.values():
        if node.type not in registry:
            yield f"{node.name()}: the headless runner does not know nodes of type {node.type}{meant(node.type, registry)}"


def _known_types(registry: Registry) -> str:
    """The remedy for all unknown nodes together."""
    return f"Run this workflow in ComfyUI, or use nodes that the headless runner knows: {', '.join(sorted(registry))}. "


def _checked_node(node: Node, graph: Graph, registry: Registry) -> tuple[Node, list[str]]:
    """The node with its values converted, and its problems."""
    node_class = registry[node.type]
    declared, own = declared_inputs(node_class), _OwnCheck(node_class)
    unknown = [name for name in node.inputs if name not in declared]
    problems = [f"{node.name()}, input {name}: there is no such input; {_list_inputs(declared)}" for name in unknown]
    values: dict[str, Any] = {}
    for name, entry in declared.items():
        try:
            values |= _checked_input(entry, node.inputs, graph, registry, own)
        except ValueError as error:
            problems.append(f"{node.name()}, input {name}: {error}")
    if not problems:
        problems += [f"{node.name()}: {problem}" for problem in own.problems(values, graph, registry)]
    return replace(node, inputs=values), problems


def _list_inputs(declared: Mapping[str, Declared]) -> str:
    return f"it has {', '.join(declared)}" if declared else "it has none"


def _checked_input(entry: Declared, inputs: Mapping[str, Any], graph: Graph, registry: Registry, own: _OwnCheck) -> dict[str, Any]:
    """{name: value} as it goes to the node; empty for an optional input that is not given. Raises ValueError with the problem."""
    value = inputs.get(entry.name, Unconnected("it has no value" if entry.is_widget else "it is not connected"))
    if isinstance(value, Unconnected):
        if entry.required:
            raise ValueError(f"missing: {value.reason}. Expected {_wanted(entry)}")
        return {}
    if isinstance(value, Link):
        _check_link(entry, value, graph, registry, own)
        return {entry.name: value}
    return {entry.name: _checked_value(entry, value, own)}


def _wanted(entry: Declared) -> str:
    return f"a value of type {entry.type}" if entry.is_widget else f"a link of type {entry.type}"


def _check_link(entry: Declared, link: Link, graph: Graph, registry: Registry, own: _OwnCheck) -> None:
    source = graph.nodes.get(link.node_id)
    if source is None:
        raise ValueError(f"linked to node {link.node_id}, which does not exist")
    if source.type not in registry:
        return
    types = registry[source.type].RETURN_TYPES  # type: ignore[attr-defined]
    if not 0 <= link.slot < len(types):
        raise ValueError(f"linked to output {link.slot} of {source.name()}, which has {len(types)} outputs")
    if not own.checks_types and not entry.accepts(types[link.slot]):
        raise ValueError(f"expected {_wanted(entry)}; found {_type_name(types[link.slot])} from {source.name()}")


def _type_name(received: Any) -> str:
    return received if isinstance(received, str) else "COMBO"


def _checked_value(entry: Declared, value: Any, own: _OwnCheck) -> Any:
    if entry.choices is None and entry.type not in ("INT", "FLOAT", "STRING", "BOOLEAN", "*"):
        raise ValueError(f"expected {_wanted(entry)}; found the value {value!r}")
    try:
        value = converted(entry, value)
    except ValueError as error:
        raise ValueError(f"expected {error}; found {value!r}") from None
    if not own.checks(entry.name):
        _check_range(entry, value)
    return value


def _check_range(entry: Declared, value: Any) -> None:
    low, high = entry.options.get("min"), entry.options.get("max")
    if entry.type in ("INT", "FLOAT") and ((low is not None and value < low) or (high is not None and value > high)):
        raise ValueError(f"expected {_range(low, high)}; found {value}")
    if entry.choices is not None and value not in entry.choices:
        raise ValueError(f"expected {_shown(entry.choices)}; found {value!r}")


def _range(low: Any, high: Any) -> str:
    if low is None or high is None:
        return f"at most {high}" if low is None else f"at least {low}"
    return f"{low} to {high}"


def _shown(choices: tuple[Any, ...]) -> str:
    if not choices:
        return "one of the files that this node lists, of which there are none here"
    shown = ", ".join(str(choice) for choice in choices[:SHOWN_CHOICES])
    return f"one of {shown}" + (f", ... ({len(choices)} in all)" if len(choices) > SHOWN_CHOICES else "")


# ---------------------------------------------------------------- VALIDATE_INPUTS


class _OwnCheck:
    """A node class's VALIDATE_INPUTS: inputs that it names are its own to check; linked ones reach it as None."""

    def __init__(self, node_class: type) -> None:
        self._function = getattr(node_class, "VALIDATE_INPUTS", None)
        parameters = inspect.signature(self._function).parameters.values() if self._function else ()
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        self.checks_types = "input_types" in self._names

    def checks(self, name: str) -> bool:
        return self._takes_all or name in self._names

    def problems(self, values: Mapping[str, Any], graph: Graph, registry: Registry) -> Iterator[str]:
        if self._function is None:
            return
        arguments = {name: None if isinstance(value, Link) else value for name, value in values.items() if self.checks(name)}
        if self.checks_types:
            arguments["input_types"] = dict(_received_types(values, graph, registry))
        yield from self._answer(arguments)

    def _answer(self, arguments: Mapping[str, Any]) -> Iterator[str]:
        try:
            answer = self._function(**arguments)  # type: ignore[misc]
        except InputError as error:
            answer = str(error)
        if answer is not True:
            yield str(answer) if answer else f"its values {dict(arguments)} do not fit together"


def _received_types(values: Mapping[str, Any], graph: Graph, registry: Registry) -> Iterator[tuple[str, Any]]:
    for name, link in values.items():
        if isinstance(link, Link) and graph.nodes[link.node_id].type in registry:
            yield name, registry[graph.nodes[link.node_id].type].RETURN_TYPES[link.slot]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- order


def _sources(graph: Graph, id: str) -> list[str]:
    return [link.node_id for _, link in graph.nodes[id].links() if link.node_id in graph.nodes]


def _cycles(graph: Graph) -> list[str]:
    """One sentence per cycle, naming the nodes on it in the direction of the data."""
    found: list[str] = []
    finished: set[str] = set()
    for start in graph.nodes:
        path: list[str] = []
        for id, leaving in _walk(graph, start, finished):
            if leaving:
                path.pop()
            elif id in path:
                ring = [*path[path.index(id) :], id]
                found.append(f"cycle: {' -> '.join(graph.nodes[each].name() for each in reversed(ring))}. Cut one of these links")
            else:
                path.append(id)
    return list(dict.fromkeys(found))


def _walk(graph: Graph, start: str, finished: set[str]) -> Iterator[tuple[str, bool]]:
    """Depth first towards the sources, without recursion: (id, False) on arriving, (id, True) on leaving; a node met on the way to itself
    is arrived at again and not entered."""
    entered: set[str] = set()
    stack = [(start, False)]
    while stack:
        id, leaving = stack.pop()
        if leaving:
            finished.add(id)
            yield id, True
        elif id not in finished:
            yield id, False
            if id not in entered:
                entered.add(id)
                stack.append((id, True))
                stack += [(source, False) for source in reversed(_sources(graph, id))]


def _order(graph: Graph, outputs: list[str]) -> tuple[str, ...]:
    """What the outputs need, each once, every source before its users; otherwise as the file has them."""
    order: list[str] = []
    finished: set[str] = set()
    for output in outputs:
        order += [id for id, leaving in _walk(graph, output, finished) if leaving]
    return tuple(order)

"""Runs a checked graph: each needed node once, sources first, as ComfyUI runs V1 node classes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...training.errors import InputError
from .check import Plan
from .declared import hidden_inputs
from .graph import Graph, Link, Node, Registry


class Listener(Protocol):
    """Hears which node runs, and may end the run between two nodes."""

    def node_started(self, number: int, count: int, name: str) -> None: ...

    def node_finished(self, seconds: float) -> None: ...

    def check_interrupt(self) -> None: ...


@dataclass(frozen=True)
class NodeResult:
    """What an output node had to show: its `ui` table, as ComfyUI's page gets it."""

    node: Node
    ui: Mapping[str, Any]


Outputs = dict[str, list[list[Any]]]
"""By node id: one list of values per output, as ComfyUI passes them (nodes with OUTPUT_IS_LIST give more than one value)."""


def execute(plan: Plan, registry: Registry, listener: Listener) -> list[NodeResult]:
    """Runs the plan and returns what its output nodes show.

    Everything runs under `torch.inference_mode()`, as it does in ComfyUI, so that a node that trains proves here that it steps out of it.
    An output is let go as soon as no later node needs it.
    """
    outputs: Outputs = {}
    uses = Counter(link.node_id for id in plan.order for _, link in plan.graph.nodes[id].links())
    results = []
    with torch.inference_mode():
        for number, id in enumerate(plan.order, start=1):
            listener.check_interrupt()
            node = plan.graph.nodes[id]
            listener.node_started(number, len(plan.order), f"{node.title} (node {id})")
            began = time.monotonic()
            ui = _run_node(node, registry[node.type], plan.graph, outputs, keep=uses[id] > 0)
            listener.node_finished(time.monotonic() - began)
            results += [NodeResult(node, ui)] if ui else []
            _let_go(node, uses, outputs)
    return results


def _let_go(node: Node, uses: Counter[str], outputs: Outputs) -> None:
    for _, link in node.links():
        uses[link.node_id] -= 1
        if uses[link.node_id] == 0:
            outputs.pop(link.node_id, None)


def _run_node(node: Node, node_class: type, graph: Graph, outputs: Outputs, keep: bool) -> dict[str, Any]:
    """Calls the node, stores its outputs if anyone uses them, and returns its ui table."""
    function = getattr(node_class(), node_class.FUNCTION)  # type: ignore[attr-defined]
    with _named_in_errors(node):
        returned = [function(**arguments) for arguments in _calls(_arguments(node, node_class, graph, outputs), node_class)]
    if keep:
        outputs[node.id] = _merged([_values(node, each) for each in returned], node_class)
    return _merged_ui(returned)


@contextmanager
def _named_in_errors(node: Node) -> Iterator[None]:
    """What a node cannot use is told with the node's id and title."""
    try:
        yield
    except InputError as error:
        raise error.within(node.name()) from error


# ---------------------------------------------------------------- inputs


def _arguments(node: Node, node_class: type, graph: Graph, outputs: Outputs) -> dict[str, list[Any]]:
    """Each input as a list: a plain value alone, or all values that its link carries."""
    given = {name: outputs[value.node_id][value.slot] if isinstance(value, Link) else [value] for name, value in node.inputs.items()}
    return given | {name: [_hidden(kind, node, graph)] for name, kind in hidden_inputs(node_class).items()}


def _hidden(kind: str, node: Node, graph: Graph) -> Any:
    if kind == "PROMPT":
        return graph.prompt()
    if kind == "EXTRA_PNGINFO":
        return None if graph.workflow is None else {"workflow": graph.workflow}
    return node.id if kind == "UNIQUE_ID" else None


def _calls(arguments: Mapping[str, Sequence[Any]], node_class: type) -> Iterator[dict[str, Any]]:
    """The keyword arguments of each call: one call for a class that takes lists, else one per value, shorter lists repeating their last."""
    if getattr(node_class, "INPUT_IS_LIST", False):
        yield {name: list(values) for name, values in arguments.items()}
        return
    count = max((len(values) for values in arguments.values()), default=1)
    for index in range(count if all(arguments.values()) else 0):
        yield {name: values[min(index, len(values) - 1)] for name, values in arguments.items()}


# ---------------------------------------------------------------- outputs


def _values(node: Node, returned: Any) -> tuple[Any, ...]:
    """A call's outputs: nodes return a tuple, or a table that holds it under "result" beside what they show under "ui"."""
    result = returned.get("result", ()) if isinstance(returned, dict) else returned
    if isinstance(returned, dict) and "expand" in returned:
        raise InputError(node.name(), expected="a node that runs alone", found="one that expands into others", remedy="Run it in ComfyUI.")
    return tuple(result) if result is not None else ()


def _merged(calls: Sequence[tuple[Any, ...]], node_class: type) -> list[list[Any]]:
    """One list per output over all calls; an output declared as a list is joined, any other contributes one value per call."""
    count = len(node_class.RETURN_TYPES)  # type: ignore[attr-defined]
    is_list = getattr(node_class, "OUTPUT_IS_LIST", (False,) * count)
    return [[value for call in calls for value in (call[slot] if is_list[slot] else [call[slot]])] for slot in range(count)]


def _merged_ui(returned: Sequence[Any]) -> dict[str, Any]:
    merged: dict[str, list[Any]] = {}
    for each in returned:
        for name, values in (each.get("ui", {}) if isinstance(each, dict) else {}).items():
            merged.setdefault(name, []).extend(values)
    return merged

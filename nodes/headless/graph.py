"""A workflow as the runner sees it: nodes with named inputs, each a value or a link; and the error that lists all its faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ...training.errors import InputError

Registry = Mapping[str, type]
"""Node classes by id, as in ComfyUI's NODE_CLASS_MAPPINGS."""


@dataclass(frozen=True)
class Link:
    """The output `slot` of the node `node_id`."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Unconnected:
    """An input whose link leads nowhere, and why ("its source, node 7 \"Hint\", is muted")."""

    reason: str


@dataclass(frozen=True)
class Node:
    """One node to run. `inputs` holds plain values, `Link`s and `Unconnected`s by input name."""

    id: str
    type: str
    title: str
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def name(self) -> str:
        """How messages call this node: its id and its title, and its type where the title does not tell it."""
        kind = "" if self.title == self.type else f" ({self.type})"
        return f'node {self.id} "{self.title}"{kind}'

    def links(self) -> Iterable[tuple[str, Link]]:
        return ((name, value) for name, value in self.inputs.items() if isinstance(value, Link))


@dataclass(frozen=True)
class Graph:
    """A workflow: its name, its nodes by id in the file's order, and the file's own JSON where it is in UI format."""

    name: str
    nodes: Mapping[str, Node]
    workflow: Mapping[str, Any] | None = None

    def prompt(self) -> dict[str, Any]:
        """The graph in API format: what nodes get as their hidden PROMPT input and what pictures carry as metadata."""
        return {node.id: {"class_type": node.type, "inputs": _api_inputs(node), "_meta": {"title": node.title}} for node in self.nodes.values()}


def _api_inputs(node: Node) -> dict[str, Any]:
    plain = {name: value for name, value in node.inputs.items() if not isinstance(value, (Link, Unconnected))}
    return plain | {name: [link.node_id, link.slot] for name, link in node.links()}


class GraphError(InputError):
    """All that is wrong with a workflow, in one error.

    Args:
        name: the workflow's.
        problems: one sentence each, naming node, input, what was expected, what was found and what to do.
        remedy: what to do about several of them.
    """

    def __init__(self, name: str, problems: Iterable[str], remedy: str = "") -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"workflow {name}", expected="a graph that can run", found=f"{count}:{listed}\n", remedy=f"{remedy}Nothing was run.")


def meant(node_type: str, known: Iterable[str]) -> str:
    """ ". Did you mean KSampler?" for a node type that is not known; empty where none of the known ones is like it."""
    by_small_letters = {each.lower(): each for each in known}
    nearest = get_close_matches(node_type.lower(), by_small_letters, n=1)
    return f". Did you mean {by_small_letters[nearest[0]]}?" if nearest else ""

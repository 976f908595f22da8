"""Every shipped workflow of the built-in model passes the whole check with the real nodes, as it stands; one that names the user's own files
is checked in tests/workflows/test_canvas.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from graft.nodes.headless.check import checked
from graft.nodes.headless.run import all_nodes, read_graph

SHIPPED = [path for path in sorted((Path(__file__).parents[3] / "workflows").glob("*.json")) if "GraftNanoFlux" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_can_run(path):
    registry, titles = all_nodes()
    plan = checked(read_graph(path, registry, titles), registry)
    outputs = [id for id, node in plan.graph.nodes.items() if getattr(registry[node.type], "OUTPUT_NODE", False)]
    assert outputs and set(outputs) <= set(plan.order)


def test_there_is_one_to_try():
    assert SHIPPED

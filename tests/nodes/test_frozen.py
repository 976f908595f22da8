"""Ids and the order of widgets are a promise to saved workflows: docs/NODES.md states them, and the code must say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from graft.nodes.registry import NODE_CLASS_MAPPINGS

PAGE = (Path(__file__).parents[2] / "docs" / "NODES.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_the_page_lists_exactly_the_nodes():
    assert list(SECTIONS) == list(NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
def test_inputs_and_outputs_stand_in_their_frozen_order(node_id: str):
    node = NODE_CLASS_MAPPINGS[node_id]
    declared = node.INPUT_TYPES()
    inputs = [*declared.get("required", {}), *declared.get("optional", {})]
    stated = re.findall(r"^\| `(\w+)` \|", SECTIONS[node_id], re.MULTILINE)
    assert stated == [*inputs, *node.RETURN_NAMES]


@pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
def test_everything_has_words_for_its_user(node_id: str):
    node = NODE_CLASS_MAPPINGS[node_id]
    declared = node.INPUT_TYPES()
    for name, specification in {**declared.get("required", {}), **declared.get("optional", {})}.items():
        assert specification[1]["tooltip"], name
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    assert node.DESCRIPTION and node.SEARCH_ALIASES and node.DISPLAY_NAME and node.CATEGORY.startswith("Graft/")


@pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
def test_a_seed_never_changes_by_itself(node_id: str):
    declared = NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES()
    for name, specification in declared.get("required", {}).items():
        if name == "seed":
            assert specification[1]["control_after_generate"] is False

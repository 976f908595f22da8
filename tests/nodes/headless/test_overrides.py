"""--set changes inputs by id or unique title, in the declared type, and lists all that it cannot do."""

from __future__ import annotations

import pytest
from graft.nodes.headless.graph import GraphError
from graft.nodes.headless.overrides import with_settings


@pytest.fixture
def graph(api):
    nodes = {"1": ("Number", {}), "1:2": ("Number", {}), "3": ("Text", {"text": "x"}), "4": ("Show", {"number": ["1", 0]})}
    return api(nodes, {"Text": "My v1.5 text"})


@pytest.mark.parametrize(
    ("setting", "id", "name", "value"),
    [
        ("1.value=7", "1", "value", 7),
        ("1:2.value=7", "1:2", "value", 7),
        ("1.factor=1e-3", "1", "factor", 1e-3),
        ("1.kind=odd", "1", "kind", "odd"),
        ("1.flag=True", "1", "flag", True),
        ("1.flag=false", "1", "flag", False),
        ("1.name=a = b.c=d", "1", "name", "a = b.c=d"),
        ("1.name=", "1", "name", ""),
        ("My v1.5 text.text=hello", "3", "text", "hello"),
        ("Text.text=hello", "3", "text", "hello"),
    ],
)
def test_a_setting_is_applied_in_its_type(graph, registry, setting, id, name, value):
    changed = with_settings(graph, [setting], registry).nodes[id].inputs[name]
    assert changed == value and type(changed) is type(value)
    assert graph.nodes[id].inputs[name] != value or value is False


def test_a_setting_takes_the_place_of_a_link(api, registry):
    graph = api({"2": ("Text", {"text": "x"}), "1": ("Number", {"name": ["2", 0]})})
    assert with_settings(graph, ["1.name=own"], registry).nodes["1"].inputs["name"] == "own"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("value=7", "expected NODE.INPUT=VALUE"),
        ("1.value", "expected NODE.INPUT=VALUE"),
        (".value=7", "expected NODE.INPUT=VALUE"),
        ("8.value=7", 'there are 1 "Number", 1:2 "Number", 3 "My v1.5 text"'),
        ("Number.value=7", "use an id: 1, 1:2"),
        ("1.colour=red", "it has value, seed, factor, name, kind, flag"),
        ("4.number=3", "it has none"),
        ("1.value=seven", "expected an integer"),
        ("1.flag=maybe", "expected true or false"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_explained(graph, registry, setting, words):
    with pytest.raises(GraphError) as caught:
        with_settings(graph, [setting], registry)
    [problem] = caught.value.problems
    assert problem.startswith(f"--set {setting}: ") and words in problem


def test_all_bad_settings_are_listed_at_once(graph, registry):
    with pytest.raises(GraphError) as caught:
        with_settings(graph, ["8.value=1", "1.value=2", "1.value=x"], registry)
    assert len(caught.value.problems) == 2

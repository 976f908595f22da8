"""Subgraphs are flattened: inner ids like "1:2", links through both borders, promoted widgets, nesting, modes."""

from __future__ import annotations

import pytest
from graft.nodes.headless.graph import Link
from graft.nodes.headless.ui_format import graph_from_ui
from graft.training.errors import InputError

INNER, OUTER = "aaaa-inner", "bbbb-outer"
VALUES = [3, 77, "randomize", 1.5, "name", "odd", True]


def link(id, origin, origin_slot, target, target_slot, type="NUMBER"):
    return {"id": id, "origin_id": origin, "origin_slot": origin_slot, "target_id": target, "target_slot": target_slot, "type": type}


def inner(**more):
    """Inputs: number, value (a promoted widget). Adds its number to that of node 4, whose widget `value` the second input feeds."""
    return {
        "id": INNER,
        "name": "Adder",
        "inputs": [{"id": "u", "name": "number", "type": "NUMBER"}, {"id": "v", "name": "value", "type": "INT"}],
        "outputs": [{"id": "w", "name": "sum", "type": "NUMBER"}],
        "nodes": [
            {
                "id": 2,
                "type": "Add",
                "inputs": [{"name": "a", "type": "NUMBER", "link": 1}, {"name": "b", "type": "NUMBER", "link": 2}],
                "outputs": [{"name": "NUMBER", "type": "NUMBER"}],
            },
            {
                "id": 4,
                "type": "Number",
                "inputs": [{"name": "value", "type": "INT", "link": 3, "widget": {"name": "value"}}],
                "outputs": [{"name": "NUMBER", "type": "NUMBER"}],
                "widgets_values": VALUES,
            },
        ],
        "links": [link(1, -10, 0, 2, 0), link(2, 4, 0, 2, 1), link(3, -10, 1, 4, 0, "INT"), link(4, 2, 0, -20, 0)],
        **more,
    }


def instance(id=5, number_link=1, value_link=None, **more):
    return {
        "id": id,
        "type": INNER,
        "inputs": [
            {"name": "number", "type": "NUMBER", "link": number_link},
            {"name": "value", "type": "INT", "link": value_link, "widget": {"name": "value"}},
        ],
        "outputs": [{"name": "sum", "type": "NUMBER"}],
        **more,
    }


SOURCE = {"id": 1, "type": "Number", "outputs": [{"name": "NUMBER", "type": "NUMBER"}], "widgets_values": VALUES}
SHOW = {"id": 9, "type": "Show", "inputs": [{"name": "number", "type": "NUMBER", "link": 2}], "outputs": []}


def imported(registry, *nodes, links=((1, 1, 0, 5, 0, "NUMBER"), (2, 5, 0, 9, 0, "NUMBER")), definitions=None):
    content = {"nodes": [SOURCE, SHOW, *nodes], "links": [list(each) for each in links], "version": 0.4}
    return graph_from_ui("test", content | {"definitions": {"subgraphs": definitions or [inner()]}}, registry, {}).nodes


def test_links_cross_both_borders(registry):
    nodes = imported(registry, instance())
    assert set(nodes) == {"1", "9", "5:2", "5:4"}
    assert nodes["9"].inputs["number"] == Link("5:2", 0)
    assert nodes["5:2"].inputs == {"a": Link("1", 0), "b": Link("5:4", 0)}


def test_an_untouched_promoted_widget_keeps_the_inner_value(registry):
    assert imported(registry, instance())["5:4"].inputs["value"] == 3


def test_a_promoted_widget_s_value_lies_on_the_subgraph_s_node(registry):
    nodes = imported(registry, instance(widgets_values=[8]))
    assert nodes["5:4"].inputs["value"] == 8 and nodes["5:4"].inputs["seed"] == 77


def test_a_promoted_widget_may_be_linked_from_outside(registry):
    text = {"id": 7, "type": "Text", "outputs": [{"type": "STRING"}, {"type": "INT"}], "widgets_values": ["abc"]}
    links = ((1, 1, 0, 5, 0, "NUMBER"), (2, 5, 0, 9, 0, "NUMBER"), (3, 7, 1, 5, 1, "INT"))
    nodes = imported(registry, instance(value_link=3, widgets_values=[8]), text, links=links)
    assert nodes["5:4"].inputs["value"] == Link("7", 1)


def test_proxy_widgets_name_inner_nodes_and_inputs(registry):
    proxies = {"proxyWidgets": [["-1", "value"], ["4", "name"]]}
    nodes = imported(registry, instance(properties=proxies, widgets_values=[6, "given"]))
    assert nodes["5:4"].inputs["value"] == 6 and nodes["5:4"].inputs["name"] == "given"
    nodes = imported(registry, instance(properties=proxies))
    assert nodes["5:4"].inputs["value"] == 3 and nodes["5:4"].inputs["name"] == "name"


def test_two_instances_have_values_of_their_own(registry):
    links = ((1, 1, 0, 5, 0, "NUMBER"), (3, 5, 0, 6, 0, "NUMBER"), (2, 6, 0, 9, 0, "NUMBER"))
    nodes = imported(registry, instance(widgets_values=[8]), instance(6, 3, widgets_values=[9]), links=links)
    assert (nodes["5:4"].inputs["value"], nodes["6:4"].inputs["value"]) == (8, 9)
    assert nodes["6:2"].inputs["a"] == Link("5:2", 0)


def outer():
    """Holds an instance 3 of the inner subgraph and promotes its value widget once more."""
    return {
        "id": OUTER,
        "name": "Wrapped",
        "inputs": [{"name": "number", "type": "NUMBER"}],
        "outputs": [{"name": "sum", "type": "NUMBER"}],
        "nodes": [instance(3, 1, properties={"proxyWidgets": [["-1", "value"], ["4", "name"]]}, widgets_values=[5, "inside"])],
        "links": [link(1, -10, 0, 3, 0), link(2, 3, 0, -20, 0)],
    }


def nested(**more):
    return instance(5, 1, **more) | {"type": OUTER, "inputs": [{"name": "number", "type": "NUMBER", "link": 1}]}


def test_nested_subgraphs(registry):
    nodes = imported(registry, nested(), definitions=[outer(), inner()])
    assert set(nodes) == {"1", "9", "5:3:2", "5:3:4"}
    assert nodes["9"].inputs["number"] == Link("5:3:2", 0) and nodes["5:3:2"].inputs["a"] == Link("1", 0)
    assert nodes["5:3:4"].inputs["value"] == 5 and nodes["5:3:4"].inputs["name"] == "inside"


@pytest.mark.parametrize("names", [("value", "name"), ("-1: value", "4: name")])
def test_widgets_promoted_twice(registry, names):
    proxies = {"proxyWidgets": [["3", name] for name in names]}
    nodes = imported(registry, nested(properties=proxies, widgets_values=[2, "far out"]), definitions=[outer(), inner()])
    assert nodes["5:3:4"].inputs["value"] == 2 and nodes["5:3:4"].inputs["name"] == "far out"


def test_a_definition_may_lie_inside_another(registry):
    nodes = imported(registry, nested(), definitions=[outer() | {"definitions": {"subgraphs": [inner()]}}])
    assert "5:3:2" in nodes


def test_a_bypassed_subgraph_passes_through(registry):
    nodes = imported(registry, instance(mode=4))
    assert set(nodes) == {"1", "9"} and nodes["9"].inputs["number"] == Link("1", 0)


def test_a_muted_subgraph_is_gone(registry):
    nodes = imported(registry, instance(mode=2, title="Adder"))
    assert set(nodes) == {"1", "9"} and 'node 5 "Adder", is muted' in nodes["9"].inputs["number"].reason


def test_an_unconnected_subgraph_input_is_explained(registry):
    nodes = imported(registry, instance(number_link=None), links=((2, 5, 0, 9, 0, "NUMBER"),))
    assert "not connected" in nodes["5:2"].inputs["a"].reason


def test_a_subgraph_that_passes_its_input_straight_through(registry):
    through = inner(nodes=[], links=[link(1, -10, 0, -20, 0)])
    assert imported(registry, instance(), definitions=[through])["9"].inputs["number"] == Link("1", 0)


def test_a_subgraph_that_holds_itself_is_refused(registry):
    endless = inner(nodes=[instance(3, 1)], links=[link(1, -10, 0, 3, 0), link(2, 3, 0, -20, 0)])
    with pytest.raises(InputError, match="nested"):
        imported(registry, instance(), definitions=[endless])

"""UI-format files become the graphs that ComfyUI's page would queue: links, virtual nodes, modes, widget positions."""

from __future__ import annotations

import pytest
from graft.nodes.headless.graph import Link, Unconnected
from graft.nodes.headless.ui_format import graph_from_ui
from graft.training.errors import InputError

NUMBER_VALUES = [3, 77, "randomize", 1.5, "name", "odd", True]


def node(id, type, widgets=None, inputs=(), outputs=("NUMBER",), **more):
    """inputs: (name, type, link) or (name, type, link, widget name)."""
    entries = [{"name": each[0], "type": each[1], "link": each[2], **({"widget": {"name": each[3]}} if len(each) > 3 else {})} for each in inputs]
    made = {"id": id, "type": type, "mode": 0, "inputs": entries, "outputs": [{"name": kind, "type": kind} for kind in outputs]}
    return made | ({} if widgets is None else {"widgets_values": widgets}) | more


def workflow(nodes, links=(), **more):
    return {"nodes": nodes, "links": [list(link) for link in links], "version": 0.4, **more}


def imported(content, registry, titles=None):
    return graph_from_ui("test", content, registry, titles or {}).nodes


def test_widget_values_are_named_by_position_past_control_after_generate(registry):
    inputs = imported(workflow([node(1, "Number", NUMBER_VALUES)]), registry)["1"].inputs
    assert inputs == {"value": 3, "seed": 77, "factor": 1.5, "name": "name", "kind": "odd", "flag": True}


@pytest.mark.parametrize("control", [False, None])
def test_a_seed_without_control_value_shifts_nothing(registry, control):
    """A training seed declares control_after_generate False, and its file holds no such value; nor do files of old pages."""

    class Still(registry["Number"]):
        @classmethod
        def INPUT_TYPES(cls):
            required = super().INPUT_TYPES()["required"]
            return {"required": {**required, "seed": ("INT", {"control_after_generate": control})}}

    values = [value for value in NUMBER_VALUES if value != "randomize"]
    inputs = imported(workflow([node(1, "Still", values)]), registry | {"Still": Still})["1"].inputs
    assert inputs["seed"] == 77 and inputs["factor"] == 1.5 and inputs["flag"] is True


def test_any_int_may_declare_control_after_generate(registry):
    class Counting:
        RETURN_TYPES, FUNCTION = ("INT",), "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"count": ("INT", {"control_after_generate": True}), "word": ("STRING", {})}}

    inputs = imported(workflow([node(1, "Counting", [5, "increment", "fixed"])]), {"Counting": Counting})["1"].inputs
    assert inputs == {"count": 5, "word": "fixed"}


def test_a_file_saved_before_a_widget_existed_takes_its_default(registry):
    inputs = imported(workflow([node(1, "Number", [3])]), registry)["1"].inputs
    assert inputs == {"value": 3, "seed": 0, "factor": 1.0, "name": "n", "kind": "plain", "flag": False}


def test_values_that_only_the_page_needs_are_dropped(registry):
    assert imported(workflow([node(1, "Text", ["hello", "image"])]), registry)["1"].inputs == {"text": "hello"}


def test_widget_values_may_be_a_table(registry):
    inputs = imported(workflow([node(1, "Number", {"kind": "odd", "value": 2, "videopreview": {}})]), registry)["1"].inputs
    assert inputs["kind"] == "odd" and inputs["value"] == 2 and "videopreview" not in inputs


def test_force_input_has_no_widget_and_no_value(registry):
    class Forced:
        RETURN_TYPES, FUNCTION = ("INT",), "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"first": ("INT", {"forceInput": True}), "second": ("INT", {"default": 1})}}

    content = workflow(
        [node(1, "Forced", [42], [("first", "INT", 5)]), node(2, "Text", ["abc"], outputs=("STRING", "INT"))], [(5, 2, 1, 1, 0, "INT")]
    )
    assert imported(content, registry | {"Forced": Forced})["1"].inputs == {"first": Link("2", 1), "second": 42}


def test_a_widget_converted_to_an_input_keeps_its_place_and_yields_to_its_link(registry):
    content = workflow(
        [
            node(1, "Number", NUMBER_VALUES, [("factor", "FLOAT", None, "factor"), ("name", "STRING", 5, "name")]),
            node(2, "Text", ["abc"], outputs=("STRING", "INT")),
        ],
        [(5, 2, 0, 1, 1, "STRING")],
    )
    inputs = imported(content, registry)["1"].inputs
    assert inputs["name"] == Link("2", 0) and inputs["factor"] == 1.5 and inputs["kind"] == "odd"


ADDING = [("a", "NUMBER", 1), ("b", "NUMBER", 2)]


def adding(*others, links, **more):
    return workflow([node(9, "Add", None, ADDING), *others], links, **more)


@pytest.mark.parametrize("spelling", ["0.4", "1"])
def test_links_in_both_spellings(registry, spelling):
    content = adding(node(3, "Number", NUMBER_VALUES), node(4, "Number", []), links=[(1, 3, 0, 9, 0, "NUMBER"), (2, 4, 0, 9, 1, "NUMBER")])
    if spelling == "1":
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        content |= {"version": 1, "links": [dict(zip(keys, link, strict=True)) for link in content["links"]]}
    assert imported(content, registry)["9"].inputs == {"a": Link("3", 0), "b": Link("4", 0)}


def test_reroutes_notes_and_primitives_are_seen_through(registry):
    content = workflow(
        [
            node(9, "Add", None, [*ADDING, ("bonus", "INT", 3)]),
            node(3, "Number", NUMBER_VALUES),
            node(4, "Reroute", None, [("", "*", 4)], outputs=("NUMBER",)),
            node(5, "Reroute", None, [("", "*", 5)], outputs=("NUMBER",)),
            node(6, "PrimitiveNode", [8, "fixed"], outputs=("INT",)),
            node(7, "Note", ["read me"], outputs=()),
            node(8, "MarkdownNote", ["# read me"], outputs=()),
        ],
        [(1, 5, 0, 9, 0, "*"), (2, 3, 0, 9, 1, "NUMBER"), (3, 6, 0, 9, 2, "INT"), (5, 4, 0, 5, 0, "*"), (4, 3, 0, 4, 0, "*")],
    )
    nodes = imported(content, registry)
    assert set(nodes) == {"3", "9"}
    assert nodes["9"].inputs == {"a": Link("3", 0), "b": Link("3", 0), "bonus": 8}


def test_a_primitive_feeds_a_widget(registry):
    content = workflow(
        [node(1, "Number", NUMBER_VALUES, [("value", "INT", 1, "value")]), node(2, "PrimitiveNode", [6, "fixed"], outputs=("INT",))],
        [(1, 2, 0, 1, 0, "INT")],
    )
    assert imported(content, registry)["1"].inputs["value"] == 6


def test_reroutes_in_a_ring_are_refused(registry):
    content = workflow(
        [node(9, "Add", None, ADDING[:1]), node(4, "Reroute", None, [("", "*", 2)]), node(5, "Reroute", None, [("", "*", 3)])],
        [(1, 4, 0, 9, 0, "*"), (2, 5, 0, 4, 0, "*"), (3, 4, 0, 5, 0, "*")],
    )
    with pytest.raises(InputError, match="ring"):
        imported(content, registry)


def test_a_muted_node_is_gone_and_its_user_told_why(registry):
    content = adding(
        node(3, "Number", NUMBER_VALUES, mode=2, title="Mine"),
        node(4, "Number", []),
        links=[(1, 3, 0, 9, 0, "NUMBER"), (2, 4, 0, 9, 1, "NUMBER")],
    )
    nodes = imported(content, registry)
    assert set(nodes) == {"9", "4"}
    assert nodes["9"].inputs["a"] == Unconnected('its source, node 3 "Mine", is muted')


def test_a_link_from_a_muted_node_leaves_a_widget_its_own_value(registry):
    content = workflow(
        [node(1, "Number", NUMBER_VALUES, [("name", "STRING", 5, "name")]), node(2, "Text", ["abc"], outputs=("STRING",), mode=2)],
        [(5, 2, 0, 1, 0, "STRING")],
    )
    assert imported(content, registry)["1"].inputs["name"] == "name"


def test_a_bypassed_node_passes_its_first_input_of_the_same_type_through(registry):
    bypassed = node(5, "Mixed", None, [("text", "STRING", 6), ("x", "NUMBER", 7), ("y", "NUMBER", 8)], outputs=("NUMBER",), mode=4)
    content = adding(
        bypassed,
        node(3, "Number", NUMBER_VALUES),
        node(4, "Number", []),
        node(2, "Text", ["abc"], outputs=("STRING",)),
        links=[
            (1, 5, 0, 9, 0, "NUMBER"),
            (2, 4, 0, 9, 1, "NUMBER"),
            (6, 2, 0, 5, 0, "STRING"),
            (7, 3, 0, 5, 1, "NUMBER"),
            (8, 4, 0, 5, 2, "NUMBER"),
        ],
    )
    assert imported(content, registry)["9"].inputs == {"a": Link("3", 0), "b": Link("4", 0)}


def test_a_bypassed_node_prefers_the_input_in_the_same_place(registry):
    bypassed = node(5, "Pair", None, [("x", "NUMBER", 7), ("y", "NUMBER", 8)], outputs=("NUMBER", "NUMBER"), mode=4)
    content = adding(
        bypassed,
        node(3, "Number", NUMBER_VALUES),
        node(4, "Number", []),
        links=[(1, 5, 1, 9, 0, "NUMBER"), (2, 5, 0, 9, 1, "NUMBER"), (7, 3, 0, 5, 0, "NUMBER"), (8, 4, 0, 5, 1, "NUMBER")],
    )
    assert imported(content, registry)["9"].inputs == {"a": Link("4", 0), "b": Link("3", 0)}


def test_a_bypassed_source_has_nothing_to_pass_through(registry):
    content = adding(node(3, "Number", [], mode=4), node(4, "Number", []), links=[(1, 3, 0, 9, 0, "NUMBER"), (2, 4, 0, 9, 1, "NUMBER")])
    assert "bypassed" in imported(content, registry)["9"].inputs["a"].reason


def test_titles_are_the_user_s_or_the_display_names(registry):
    nodes = imported(workflow([node(1, "Number", [], title="Mine"), node(2, "Number", []), node(3, "Text", [""])]), registry, {"Number": "A Number"})
    assert [nodes[id].title for id in "123"] == ["Mine", "A Number", "Text"]


def test_unknown_nodes_are_kept_for_the_check_to_name(registry):
    content = adding(node(3, "Mystery", [1, 2]), node(4, "Number", []), links=[(1, 3, 0, 9, 0, "NUMBER"), (2, 4, 0, 9, 1, "NUMBER")])
    assert imported(content, registry)["3"].type == "Mystery"


@pytest.mark.parametrize(
    "content",
    [
        {"nodes": [5], "links": []},
        {"nodes": [{"id": 1}], "links": []},
        {"nodes": [{"id": 1, "type": "Number"}], "links": [[1, 2]]},
        {"nodes": [{"id": 1, "type": "Number"}], "links": [{"id": 1}]},
        {"nodes": [{"id": 1, "type": "Number", "inputs": "x"}], "links": []},
        {"nodes": [{"id": 1, "type": "Number"}], "links": "x"},
        {"nodes": [{"id": 1, "type": "Number"}], "links": [], "definitions": [1]},
        {"nodes": [{"id": 1, "type": "Number"}, {"id": 1, "type": "Number"}], "links": []},
    ],
)
def test_files_that_are_not_well_formed_are_refused_in_plain_words(registry, content):
    with pytest.raises(InputError, match="workflow test"):
        imported(content, registry)

"""Every fault of a graph is named with its node's id and title, all at once, before anything runs."""

from __future__ import annotations

import pytest
from graft.nodes.headless.check import checked
from graft.nodes.headless.graph import GraphError
from graft.training.errors import InputError


def problems(graph, registry):
    with pytest.raises(GraphError) as caught:
        checked(graph, registry)
    return caught.value.problems


def only(graph, registry):
    found = problems(graph, registry)
    assert len(found) == 1, found
    return found[0]


def showing(**inputs):
    return {"1": ("Number", inputs), "9": ("Show", {"number": ["1", 0]})}


def test_a_sound_graph_is_planned_sources_first_without_what_no_output_needs(api, registry):
    plan = checked(
        api({"9": ("Show", {"number": ["3", 0]}), "3": ("Add", {"a": ["1", 0], "b": ["1", 0]}), "1": ("Number", {}), "5": ("Number", {})}),
        registry,
    )
    assert plan.order == ("1", "3", "9")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"value": 11}, ["input value", "0 to 10", "11"]),
        ({"value": -1}, ["input value", "0 to 10", "-1"]),
        ({"value": 2.5}, ["input value", "an integer", "2.5"]),
        ({"value": True}, ["input value", "an integer", "True"]),
        ({"value": "three"}, ["input value", "an integer", "'three'"]),
        ({"value": None}, ["input value", "an integer", "None"]),
        ({"factor": float("nan")}, ["input factor", "a finite number", "nan"]),
        ({"factor": float("inf")}, ["input factor", "a finite number", "inf"]),
        ({"factor": "x"}, ["input factor", "a finite number"]),
        ({"factor": 2.01}, ["input factor", "0.0 to 2.0", "2.01"]),
        ({"name": ["a"]}, ["input name", "text"]),
        ({"kind": "even"}, ["input kind", "plain, odd", "'even'"]),
        ({"flag": "false"}, ["input flag", "true or false", "'false'"]),
        ({"colour": 1}, ["input colour", "no such input", "value, seed, factor, name, kind, flag"]),
    ],
)
def test_wrong_values_are_named(api, registry, inputs, words):
    sentence = only(api(showing(**inputs), {"Number": "A Number"}), registry)
    assert 'node 1 "A Number" (Number)' in sentence
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(("given", "meant"), [("7", 7), (7.0, 7), (0, 0)])
def test_values_that_lose_nothing_are_converted(api, registry, given, meant):
    value = checked(api(showing(value=given)), registry).graph.nodes["1"].inputs["value"]
    assert value == meant and type(value) is int


def test_long_and_empty_lists_are_told_shortly(api, registry):
    class Choosing(registry["Text"]):
        choices: list[str] = []  # noqa: RUF012

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"text": (cls.choices,)}}

    registry["Choosing"] = Choosing
    graph = api({**showing(), "5": ("Choosing", {"text": "x"})})
    assert "there are none here" in only(graph, registry)
    Choosing.choices = [f"file {number}" for number in range(30)]
    assert "file 19, ... (30 in all)" in only(graph, registry)


def test_unknown_nodes_are_named_with_the_nearest_name_and_the_known_ones_once(api, registry):
    graph = api({**showing(), "4": ("FaceDetailer", {}), "5": ("numbr", {}), "6": ("FaceDetailer", {})}, {"FaceDetailer": "Faces"})
    with pytest.raises(GraphError) as caught:
        checked(graph, registry)
    faces, number, _ = caught.value.problems
    assert faces.startswith('node 4 "Faces"') and faces.endswith("of type FaceDetailer")  # nothing is like it
    assert number.endswith("of type numbr. Did you mean Number?")
    said = str(caught.value)
    assert said.count("Add, Number, Picky") == said.count("Run this workflow in ComfyUI") == 1 and said.endswith("Nothing was run.")


def test_the_known_nodes_are_not_listed_where_all_are_known(api, registry):
    with pytest.raises(GraphError) as caught:
        checked(api(showing(value=11)), registry)
    assert "Picky" not in str(caught.value) and str(caught.value).endswith("\nNothing was run.")


def test_missing_inputs_are_named(api, registry):
    found = problems(api({"2": ("Add", {"a": ["1", 0]}), "1": ("Number", {}), "9": ("Show", {"number": ["2", 0]})}), registry)
    assert len(found) == 1 and 'node 2 "Add", input b: missing' in found[0] and "NUMBER" in found[0]


def test_a_missing_widget_value_is_named(registry):
    from graft.nodes.headless.api_format import graph_from_api

    graph = graph_from_api("t", {"1": {"class_type": "Text", "inputs": {}}, "2": {"class_type": "Show", "inputs": {"number": ["1", 0]}}}, {})
    assert any("node 1" in sentence and "input text: missing" in sentence for sentence in problems(graph, registry))


def test_links_must_fit(api, registry):
    def number(link):
        return only(api({"1": ("Number", {}), "5": ("Text", {"text": "x"}), "9": ("Show", {"number": link})}), registry)

    assert "expected a link of type NUMBER; found STRING from node 5" in number(["5", 0])
    assert "output 3" in number(["1", 3]) and "has 1 outputs" in number(["1", 3])
    assert "node 77, which does not exist" in number(["77", 0])
    assert "found the value 5" in number(5)


def test_a_link_may_end_at_a_widget_of_its_type_but_not_at_a_list(api, registry):
    checked(api({"5": ("Text", {"text": "x"}), **showing(name=["5", 0], value=["5", 1])}), registry)
    assert "input kind" in only(api({"5": ("Text", {"text": "x"}), **showing(kind=["5", 0])}), registry)


def test_own_validation_speaks_and_takes_over_its_inputs(api, registry):
    def limited(limit):
        return api({"1": ("Number", {}), "2": ("Picky", {"a": ["1", 0], "limit": limit}), "9": ("Show", {"number": ["2", 0]})})

    assert "limit must be even, not 3" in only(limited(3), registry)
    checked(limited(8), registry)  # beyond the declared maximum, which its own check does not mind


def test_input_errors_in_own_validation_are_listed(api, registry):
    class Refusing(registry["Picky"]):
        @classmethod
        def VALIDATE_INPUTS(cls, **values):
            raise InputError("limit", expected="peace", found=values["limit"], remedy="Try again.")

    registry["Picky"] = Refusing
    graph = api({"1": ("Number", {}), "2": ("Picky", {"a": ["1", 0], "limit": 4}), "9": ("Show", {"number": ["2", 0]})})
    assert "expected peace; found 4" in only(graph, registry)


def test_cycles_are_named_in_the_direction_of_the_data(api, registry):
    graph = api(
        {
            "1": ("Number", {}),
            "2": ("Add", {"a": ["1", 0], "b": ["3", 0]}),
            "3": ("Spread", {"number": ["2", 0]}),
            "9": ("Show", {"number": ["3", 0]}),
        }
    )
    sentence = only(graph, registry)
    assert sentence.startswith("cycle: ") and 'node 2 "Add" -> node 3 "Spread"' in sentence


def test_a_node_that_feeds_itself_is_a_cycle(api, registry):
    sentence = only(api({"2": ("Add", {"a": ["2", 0], "b": ["2", 0]}), **showing()}), registry)
    assert 'node 2 "Add" -> node 2 "Add"' in sentence


def test_a_diamond_is_no_cycle(api, registry):
    many = {str(row): ("Add", {"a": [str(row - 1), 0], "b": [str(row - 1), 0]}) for row in range(2, 500)}
    assert len(checked(api({"1": ("Number", {}), **many, "x": ("Show", {"number": ["499", 0]})}), registry).order) == 500


def test_a_graph_without_output_does_nothing_and_is_refused(api, registry):
    assert "no node is an output" in only(api({"1": ("Number", {})}), registry)


def test_everything_is_listed_at_once(api, registry):
    graph = api(
        {
            "1": ("Number", {"value": 99, "kind": "even"}),
            "2": ("Add", {"a": ["1", 0]}),
            "4": ("Mystery", {}),
            "9": ("Show", {"number": ["4", 0]}),
        }
    )
    found = problems(graph, registry)
    assert len(found) == 4
    with pytest.raises(InputError, match="4 problems") as caught:
        checked(graph, registry)
    assert all(problem in str(caught.value) for problem in found)


def test_a_fault_in_a_node_that_nothing_needs_says_so(api, registry):
    assert "No output needs this node" in only(api({**showing(), "5": ("Number", {"value": 99})}), registry)

"""Nodes run once, in order, with lists, hidden inputs and release of what is no longer needed, as in ComfyUI."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from graft.nodes.headless.check import checked
from graft.nodes.headless.execute import execute
from graft.training.errors import InputError


def shown(graph, registry, listener):
    results = execute(checked(graph, registry), registry, listener)
    return {result.node.id: result.ui["shown"] for result in results}


def test_a_diamond_runs_its_source_once(api, registry, silent, number_calls):
    graph = api({"1": ("Number", {"value": 4}), "2": ("Add", {"a": ["1", 0], "b": ["1", 0]}), "9": ("Show", {"number": ["2", 0]})})
    assert shown(graph, registry, silent) == {"9": [8.0]}
    assert [call["value"] for call in number_calls] == [4]


def test_nodes_that_no_output_needs_do_not_run(api, registry, silent, number_calls):
    shown(api({"1": ("Number", {}), "5": ("Number", {"value": 9}), "9": ("Show", {"number": ["1", 0]})}), registry, silent)
    assert [call["value"] for call in number_calls] == [1]


def test_lists_fan_out_and_in(api, registry, silent):
    """4 spreads to 4, 5, 6; adding 10 to each and summing gives 45; showing the three one by one gives three values."""
    graph = api(
        {
            "1": ("Number", {"value": 4}),
            "2": ("Number", {"value": 10}),
            "3": ("Spread", {"number": ["1", 0]}),
            "4": ("Add", {"a": ["3", 0], "b": ["2", 0]}),
            "5": ("Total", {"numbers": ["4", 0]}),
            "8": ("Show", {"number": ["4", 0]}),
            "9": ("Show", {"number": ["5", 0]}),
        }
    )
    assert shown(graph, registry, silent) == {"8": [14.0, 15.0, 16.0], "9": [45.0]}


def test_hidden_inputs_reach_the_node(api, registry, silent):
    graph = api({"1": ("Number", {"value": 2}), "9": ("Show", {"number": ["1", 0]})})
    [result] = execute(checked(graph, registry), registry, silent)
    [(prompt, extra, id)] = result.ui["hidden"]
    assert id == "9" and extra is None
    assert prompt["9"] == {"class_type": "Show", "inputs": {"number": ["1", 0]}, "_meta": {"title": "Show"}}
    assert prompt["1"]["inputs"]["value"] == 2


def test_everything_runs_under_inference_mode(api, registry, silent):
    class Watching(registry["Show"]):
        def show(self, **_):
            return {"ui": {"shown": [torch.is_inference_mode_enabled()]}}

    registry["Show"] = Watching
    assert shown(api({"1": ("Number", {}), "9": ("Show", {"number": ["1", 0]})}), registry, silent) == {"9": [True]}


def test_outputs_are_let_go_when_no_later_node_needs_them(api, registry, silent):
    class Heavy:
        pass

    made, alive = [], []

    class Making(registry["Spread"]):
        OUTPUT_IS_LIST = (False,)

        def spread(self, number):
            heavy = Heavy()
            made.append(weakref.ref(heavy))
            return (heavy,)

    class Using(registry["Total"]):
        def total(self, numbers):
            return (1,)

    class Watching(registry["Show"]):
        def show(self, **_):
            gc.collect()
            alive.append(made[0]() is not None)
            return {}

    registry |= {"Spread": Making, "Total": Using, "Show": Watching}
    graph = api(
        {
            "1": ("Number", {}),
            "3": ("Spread", {"number": ["1", 0]}),
            "8": ("Show", {"number": ["3", 0]}),
            "5": ("Total", {"numbers": ["3", 0]}),
            "9": ("Show", {"number": ["5", 0]}),
        }
    )
    execute(checked(graph, registry), registry, silent)
    assert alive == [True, False]


def test_an_interrupt_ends_the_run_between_nodes(api, registry, number_calls):
    def check():
        if number_calls:
            raise KeyboardInterrupt

    listener = SimpleNamespace(node_started=lambda *_: None, node_finished=lambda _: None, check_interrupt=check)
    graph = api({"1": ("Number", {}), "2": ("Number", {}), "3": ("Add", {"a": ["1", 0], "b": ["2", 0]}), "9": ("Show", {"number": ["3", 0]})})
    with pytest.raises(KeyboardInterrupt):
        execute(checked(graph, registry), registry, listener)
    assert len(number_calls) == 1


def test_what_a_node_cannot_use_is_told_with_its_name(api, registry, silent):
    class Refusing(registry["Total"]):
        def total(self, numbers):
            raise InputError("numbers", expected="few", found=numbers, remedy="Take some away.")

    registry["Total"] = Refusing
    graph = api({"1": ("Number", {}), "5": ("Total", {"numbers": ["1", 0]}), "9": ("Show", {"number": ["5", 0]})})
    with pytest.raises(InputError, match=r'^node 5 "Total": numbers: expected few; found \[1.0\]. Take some away.$'):
        execute(checked(graph, registry), registry, silent)

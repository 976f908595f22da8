"""Small node classes of every shape that V1 nodes come in, and a builder for graphs in API format."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from graft.nodes.headless.api_format import graph_from_api


class Number:
    """A source with one widget of each kind and a seed."""

    RETURN_TYPES, FUNCTION = ("NUMBER",), "make"
    calls: list[dict] = []  # noqa: RUF012 (shared on purpose: tests count calls)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "value": ("INT", {"default": 1, "min": 0, "max": 10}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "factor": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0}),
                "name": ("STRING", {"default": "n"}),
                "kind": (["plain", "odd"],),
                "flag": ("BOOLEAN", {"default": False}),
            }
        }

    def make(self, value, seed, factor, name, kind, flag):
        Number.calls.append({"value": value, "seed": seed, "factor": factor, "name": name, "kind": kind, "flag": flag})
        return (value * factor,)


class Add:
    RETURN_TYPES, FUNCTION = ("NUMBER",), "add"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("NUMBER",), "b": ("NUMBER",)}, "optional": {"bonus": ("INT", {"default": 0, "forceInput": True})}}

    def add(self, a, b, bonus=0):
        return (a + b + bonus,)


class Text:
    RETURN_TYPES, FUNCTION = ("STRING", "INT"), "text"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True})}}

    def text(self, text):
        return text, len(text)


class Show:
    """An output that shows its input and what the host hides in it."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "show", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("NUMBER",)}, "hidden": {"prompt": "PROMPT", "extra": "EXTRA_PNGINFO", "id": "UNIQUE_ID"}}

    def show(self, number, prompt, extra, id):
        return {"ui": {"shown": [number], "hidden": [(prompt, extra, id)]}}


class Spread:
    """One number in, a list out."""

    RETURN_TYPES, FUNCTION, OUTPUT_IS_LIST = ("NUMBER",), "spread", (True,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("NUMBER",)}}

    def spread(self, number):
        return ([number, number + 1, number + 2],)


class Total:
    """A list in, one number out."""

    RETURN_TYPES, FUNCTION, INPUT_IS_LIST = ("NUMBER",), "total", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"numbers": ("NUMBER",)}}

    def total(self, numbers):
        return (sum(numbers),)


class Picky(Add):
    """Checks `limit` itself and refuses odd ones."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("NUMBER",), "limit": ("INT", {"default": 2, "max": 5})}}

    @classmethod
    def VALIDATE_INPUTS(cls, limit):
        return True if limit % 2 == 0 else f"limit must be even, not {limit}"

    def add(self, a, limit):
        return (min(a, limit),)


@pytest.fixture
def registry():
    Number.calls.clear()
    return {each.__name__: each for each in (Number, Add, Text, Show, Spread, Total, Picky)}


@pytest.fixture
def number_calls(registry):
    return Number.calls


@pytest.fixture
def api():
    """api({"1": ("Number", {"value": 3})}) -> graph; unnamed widgets of Number get their defaults."""
    defaults = {"value": 1, "seed": 0, "factor": 1.0, "name": "n", "kind": "plain", "flag": False}

    def build(nodes, titles=None):
        prompt = {id: {"class_type": kind, "inputs": {**(defaults if kind == "Number" else {}), **inputs}} for id, (kind, inputs) in nodes.items()}
        return graph_from_api("test", prompt, titles or {})

    return build


@pytest.fixture
def silent():
    return SimpleNamespace(node_started=lambda *_: None, node_finished=lambda _: None, check_interrupt=lambda: None)

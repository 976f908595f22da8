"""Names of the types that flow between our nodes, beside ComfyUI's own, and what all node classes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..training.errors import InputError

Inputs = dict[str, dict[str, tuple[Any, ...]]]
"""What INPUT_TYPES gives: required, optional and hidden inputs."""

DATASET = "GRAFT_DATASET"
"""An immutable description of pictures, captions and hints (training.data.dataset.Dataset)."""
HINT = "GRAFT_HINT"
"""How hints are made (training.data.canny.CannyRecipe, training.data.hints)."""
ENCODED = "GRAFT_ENCODED"
"""The same as latents, text embeddings and hints on disk (training.data.encoded.Encoded)."""
TRAINABLE = "GRAFT_TRAINABLE"
"""What to train (training.trainable.base.Recipe)."""
SETTINGS = "GRAFT_SETTINGS"
"""training.settings.Settings."""
STATE = "GRAFT_STATE"
"""A finished number of steps (training.state.State)."""
MEASURES = "GRAFT_MEASURES"
"""Figures by name, for the report."""

LARGEST_SEED = 2**53 - 1
"""JavaScript keeps whole numbers exactly up to here."""


def said_early(check: Callable[[], Any]) -> bool | str:
    """For VALIDATE_INPUTS, which is asked before anything runs: True, or what `check` finds wrong."""
    try:
        check()
    except InputError as error:
        return str(error)
    return True


def said_of(node: Any, given: Mapping[str, Any], check: Callable[[], Any]) -> bool | str:
    """The answer of a node's VALIDATE_INPUTS about the inputs that it names.

    ComfyUI leaves the range and the choices of exactly these to the node, so they are looked at first. A linked input comes as None, its value
    is not known yet: then `check`, which wants them all, is left to the node itself.
    """
    groups = node.INPUT_TYPES()
    declared = {**groups.get("required", {}), **groups.get("optional", {})}
    problems = [problem for name, value in given.items() if value is not None and (problem := _out_of_range(name, value, *declared[name]))]
    if problems:
        return "; ".join(problems)
    return True if any(value is None for value in given.values()) else said_early(check)


def _out_of_range(name: str, value: Any, kind: Any, options: Mapping[str, Any]) -> str:
    """What is wrong with a widget's value, or nothing."""
    if isinstance(kind, list):
        listed = ", ".join(map(str, kind)) or "the files listed here, of which there are none"
        return "" if value in kind else f"{name}: expected one of {listed}; found {value}"
    low, high = options.get("min"), options.get("max")
    return "" if low is None or high is None or low <= value <= high else f"{name}: expected {low} to {high}; found {value}"


def seed_input(tooltip: str) -> tuple[str, dict[str, Any]]:
    """A seed widget that never changes by itself: a changed seed would train again."""
    return ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": False, "tooltip": tooltip})


def number(default: float, low: float, high: float, step: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    """A FLOAT widget shown with all its digits."""
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": step, "round": False, "tooltip": tooltip})


def whole(default: int, low: int, high: int, tooltip: str, step: int = 1) -> tuple[str, dict[str, Any]]:
    """An INT widget."""
    return ("INT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip})


def choice(values: tuple[str, ...], tooltip: str, default: str | None = None) -> tuple[list[str], dict[str, Any]]:
    """A combo box."""
    return (list(values), {"default": default or values[0], "tooltip": tooltip})


def link(type_name: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    """A socket."""
    return (type_name, {"tooltip": tooltip})

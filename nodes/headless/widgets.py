"""Names for the values of a node's widgets, which a UI-format file stores by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .declared import Declared

CONTROL_VALUES = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
"""What the browser page's control_after_generate widget may hold; it follows a seed in the list, and no node has an input for it."""


def named_widgets(declared: Sequence[Declared], values: Any) -> dict[str, Any]:
    """Widget name -> value, for all declared widgets.

    Widgets that the list does not reach (it was saved before they existed) take their defaults; values left over belong to things that only
    the page has (an upload button) and are dropped.

    Args:
        values: the node's widgets_values: a list in the order of the widgets, a table by name, or None.
    """
    widgets = [entry for entry in declared if entry.is_widget]
    found = dict(values) if isinstance(values, dict) else _by_position(widgets, values if isinstance(values, list) else [])
    return {entry.name: found.get(entry.name, _default(entry)) for entry in widgets if entry.name in found or _has_default(entry)}


def _by_position(widgets: Sequence[Declared], values: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    position = 0
    for widget in widgets:
        if position >= len(values):
            break
        found[widget.name] = values[position]
        position += 1
        position += _is_control(widget, values, position)
    return found


def _is_control(widget: Declared, values: Sequence[Any], position: int) -> bool:
    """Whether the next value is the page's own. A seed that declares no control may have been saved with one: its value tells."""
    could_have = widget.has_control or widget.name in ("seed", "noise_seed")
    return could_have and position < len(values) and isinstance(values[position], str) and values[position] in CONTROL_VALUES


def _has_default(widget: Declared) -> bool:
    return widget.choices is None or bool(widget.choices) or "default" in widget.options


def _default(widget: Declared) -> Any:
    """What the page's widget shows before anyone touches it."""
    if "default" in widget.options:
        return widget.options["default"]
    return widget.choices[0] if widget.choices else {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(widget.type, "")

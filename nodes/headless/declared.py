"""What a V1 node class declares about its inputs, in one shape for the widget names, the checks and --set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
SEED_NAMES = frozenset({"seed", "noise_seed"})


@dataclass(frozen=True)
class Declared:
    """One input as INPUT_TYPES declares it.

    `type` is ComfyUI's type name ("INT", "MODEL", "A,B", "*"), "COMBO" for a list; `choices` are the combo's values, None otherwise.
    """

    name: str
    type: str
    required: bool
    options: Mapping[str, Any]
    choices: tuple[Any, ...] | None

    @property
    def is_widget(self) -> bool:
        """Whether the input has a widget, so that a UI-format file holds a value for it."""
        return self.type in WIDGET_TYPES and not self.options.get("forceInput", False)

    @property
    def has_control(self) -> bool:
        """Whether the browser page adds a control_after_generate widget after this one."""
        control = self.options.get("control_after_generate")
        return bool(self.name in SEED_NAMES and self.type == "INT" if control is None else control)

    def accepts(self, received: Any) -> bool:
        """Whether a link carrying type `received` may end here (ComfyUI's rule: one of the comma-separated names in common)."""
        received_type = received if isinstance(received, str) else "COMBO"
        if "*" in (received_type, self.type):
            return True
        return not set(_names(received_type)).isdisjoint(_names(self.type))


def _names(type_name: str) -> list[str]:
    return [name.strip() for name in type_name.split(",")]


def declared_inputs(node_class: type) -> dict[str, Declared]:
    """A node class's visible inputs in the order of its widgets: required, then optional."""
    groups = node_class.INPUT_TYPES()  # type: ignore[attr-defined]
    found: dict[str, Declared] = {}
    for group in ("required", "optional"):
        for name, declaration in groups.get(group, {}).items():
            found[name] = _declared(name, declaration, required=group == "required")
    return found


def hidden_inputs(node_class: type) -> dict[str, str]:
    """A node class's hidden inputs: parameter name to ComfyUI's name ("PROMPT", "EXTRA_PNGINFO", "UNIQUE_ID")."""
    return dict(node_class.INPUT_TYPES().get("hidden", {}))  # type: ignore[attr-defined]


def _declared(name: str, declaration: Any, required: bool) -> Declared:
    kind, options = declaration[0], declaration[1] if len(declaration) > 1 else {}
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options") if kind == "COMBO" else None
    type_name = "COMBO" if choices is not None else kind
    return Declared(name, type_name, required, options, None if choices is None else tuple(choices))


def converted(declared: Declared, value: Any) -> Any:
    """`value` as the declared type, where nothing is lost by it. Raises ValueError naming what was expected."""
    converters = {"INT": _integer, "FLOAT": _number, "STRING": _text, "BOOLEAN": _truth}
    converter = converters.get(declared.type)
    return value if converter is None else converter(value)


def parsed(declared: Declared, text: str) -> Any:
    """A value typed on the command line as the declared type. Raises ValueError naming what was expected."""
    if declared.type == "BOOLEAN":
        return _truth({"true": True, "false": False}.get(text.strip().lower(), text))
    if declared.choices is not None:
        return next((choice for choice in declared.choices if str(choice) == text), text)
    return converted(declared, text)


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise ValueError("an integer")


def _number(value: Any) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError("a finite number")


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError("text")


def _truth(value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError("true or false")

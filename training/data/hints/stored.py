"""Recipes as plain values in a file, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..canny import CannyRecipe
from .augment import Augmented
from .auto_canny import AutoCanny
from .base import DrawnHint
from .mask import InpaintMask
from .soft import Blurred, Grey, LowResolution, SoftEdges

KINDS: dict[str, type[DrawnHint]] = {recipe.kind: recipe for recipe in (AutoCanny, Blurred, LowResolution, Grey, SoftEdges, InpaintMask)}


def recipe_fields(recipe: CannyRecipe | DrawnHint) -> dict[str, Any]:
    """A recipe as plain values; `recipe_of` reads them back."""
    return asdict(recipe) if isinstance(recipe, CannyRecipe) else recipe.fields()


def recipe_of(fields: dict[str, Any]) -> CannyRecipe | DrawnHint:
    """The recipe of these fields. Lists are the ranges that JSON has made of tuples.

    Raises:
        KeyError: a kind that this version does not know.
    """
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items() if name != "kind"}
    if "kind" not in fields:
        return CannyRecipe(**values)
    if fields["kind"] == Augmented.kind:
        values["recipe"] = recipe_of(fields["recipe"])
        return Augmented(**values)
    return KINDS[fields["kind"]](**values)

"""Hints that need no model: one small interface, and what implements it. Each is a pure function of picture, seed, sample and epoch."""

from .augment import Augmented
from .auto_canny import AutoCanny
from .base import HINT_PARTS_VERSION, DrawnHint, hint_key
from .mask import InpaintMask
from .soft import Blurred, Grey, LowResolution, SoftEdges
from .stored import recipe_fields, recipe_of

__all__ = [
    "HINT_PARTS_VERSION", "Augmented", "AutoCanny", "Blurred", "DrawnHint", "Grey", "InpaintMask", "LowResolution", "SoftEdges", "hint_key",
    "recipe_fields", "recipe_of",
]  # fmt: skip

"""Where the residuals of a ControlNet enter its base, which numbers of control blocks are of use, and where other programs differ.

A ControlNet has fewer blocks than its base, so each of its residuals serves several base blocks. Two rules exist:
'modulo' (XLabs): base block i takes residual i % n. 'interval' (InstantX, diffusers): residual i // ceil(depth / n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from ..errors import InputError
from ..files.controlnet_names import LAYOUT_TITLES, Layout

Rule = Literal["modulo", "interval"]

RULES: dict[str, Rule] = {"xlabs": "modulo", "instantx": "interval"}
# ComfyUI divides by the depths of FLUX.1 (and stops after as many blocks) whatever the base's own are: comfy/ldm/flux/controlnet.py.
COMFYUI_DEPTHS = {"double": 19, "single": 38}
# The depth that x-flux and x-flux-comfyui write into their code: `% 2`, and no single blocks.
XFLUX_DOUBLE_DEPTH = 2


def residual_index(rule: Rule, block: int, depth: int, count: int) -> int:
    """Which of `count` residuals base block number `block` of `depth` takes."""
    return block % count if rule == "modulo" else block // math.ceil(depth / count)


@dataclass(frozen=True)
class ControlResiduals:
    """What a ControlNet adds to the image tokens after each block of its base: residuals [B, S, D] for double and for single blocks."""

    double: tuple[Tensor, ...]
    single: tuple[Tensor, ...]
    rule: Rule

    def after(self, residuals: tuple[Tensor, ...], block: int, depth: int) -> Tensor | None:
        """The residual [B, S, D] after base block number `block` of `depth`, or None when there is none of that kind."""
        if not residuals:
            return None
        return residuals[residual_index(self.rule, block, depth, len(residuals))]

    def scaled(self, strength: float) -> ControlResiduals:
        """The same residuals, each multiplied by `strength`."""
        return ControlResiduals(tuple(r * strength for r in self.double), tuple(r * strength for r in self.single), self.rule)


def require_layout(layout: str) -> Layout:
    """The layout itself.

    Raises:
        InputError: there is none of that name.
    """
    if layout not in RULES:
        raise InputError("ControlNet layout", expected=" or ".join(RULES), found=repr(layout), remedy="Choose one of these two layouts.")
    return cast(Layout, layout)


def valid_counts(rule: Rule, depth: int) -> tuple[int, ...]:
    """The numbers of control blocks of which each is used by a base of `depth` blocks, in rising order."""
    return tuple(n for n in range(1, depth + 1) if len(set(schedule(rule, n, depth))) == n)


def schedule(rule: Rule, count: int, depth: int) -> tuple[int, ...]:
    """The residual that each of the base's `depth` blocks takes."""
    return tuple(residual_index(rule, block, depth, count) for block in range(depth))


def require_depths(layout: Layout, double_depth: int, single_depth: int, base_double: int, base_single: int) -> None:
    """Refuses depths in which a control block would never be used.

    Raises:
        InputError: naming the nearest depths of which every block is used.
    """
    _require_count(layout, "double", double_depth, valid_counts(RULES[layout], base_double), base_double)
    _require_count(layout, "single", single_depth, (0, *valid_counts(RULES[layout], base_single)), base_single)


def _require_count(layout: Layout, kind: str, count: int, valid: tuple[int, ...], depth: int) -> None:
    if count in valid:
        return
    nearest = sorted({max((n for n in valid if n < count), default=valid[0]), min((n for n in valid if n > count), default=valid[-1])})
    raise InputError(
        f"ControlNet depth ({kind} blocks)",
        expected=f"a depth of which each block is used by the base's {depth} {kind} blocks in the {LAYOUT_TITLES[layout]} layout: "
        f"{', '.join(map(str, valid))}",
        found=count,
        remedy=f"The nearest that {'is' if len(nearest) == 1 else 'are'} possible: {' or '.join(map(str, nearest))}.",
    )


def compatibility_notes(layout: Layout, double_depth: int, single_depth: int, base_double: int, base_single: int) -> tuple[str, ...]:
    """Where ComfyUI, diffusers and x-flux would apply this ControlNet to this base in another way than it is trained: sentences."""
    counts = {"double": (double_depth, base_double), "single": (single_depth, base_single)}
    notes = [_comfyui_note(layout, kind, count, depth) for kind, (count, depth) in counts.items()]
    if layout == "xlabs":
        notes += [_diffusers_note(single_depth, base_single), _xflux_note(double_depth, single_depth)]
    return tuple(note for note in notes if note)


def comfyui_schedule(rule: Rule, kind: str, count: int, depth: int) -> tuple[int | None, ...]:
    """The residual that each of the base's blocks takes in ComfyUI; None: it gets none there."""
    divisor = COMFYUI_DEPTHS[kind]
    return tuple(residual_index(rule, block, divisor, count) if block < divisor else None for block in range(depth))


def _comfyui_note(layout: Layout, kind: str, count: int, depth: int) -> str | None:
    there = comfyui_schedule(RULES[layout], kind, count, depth) if count else ()
    if not count or there == schedule(RULES[layout], count, depth):
        return None
    unused = [str(n) for n in range(count) if n not in there]
    same = " A depth of 1 is the same in all." if depth <= COMFYUI_DEPTHS[kind] else ""
    left_out = f", control block {', '.join(unused)} is never used there" if unused else ", the residuals enter at other blocks"
    return (
        f"ComfyUI assigns residuals as for a base of {COMFYUI_DEPTHS[kind]} {kind} blocks, and this base has {depth}: with {count} control "
        f"block{'s' if count > 1 else ''}{left_out}, so pictures made in ComfyUI differ from those made here and in diffusers.{same}"
    )


def _diffusers_note(single_depth: int, base_single: int) -> str | None:
    if not single_depth or schedule("interval", single_depth, base_single) == schedule("modulo", single_depth, base_single):
        return None
    return (
        f"diffusers assigns the residuals of {single_depth} single control blocks by the interval rule also for XLabs networks, "
        f"ComfyUI by the modulo rule, as here: pictures made in diffusers differ."
    )


def _xflux_note(double_depth: int, single_depth: int) -> str | None:
    if double_depth == XFLUX_DOUBLE_DEPTH and not single_depth:
        return None
    return (
        f"x-flux and x-flux-comfyui use exactly {XFLUX_DOUBLE_DEPTH} double and no single control blocks; this network has {double_depth} "
        f"and {single_depth}, which ComfyUI's own loader, sd-scripts and diffusers read."
    )

"""What is written into the header of an exported file: who it is, what it was trained from, how, and under which licence.

Field names: ModelSpec 1.0.0 (github.com/Stability-AI/ModelSpec) for what any program may show, `graft.*` for what only we know.
Safetensors holds text only. Nothing here depends on the machine or the clock, so that equal states give equal files; a date is for the
caller to give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..errors import InputError

MODELSPEC_VERSION = "1.0.0"
_DATE = "%Y-%m-%d"


def build_metadata(
    *,
    title: str,
    architecture: str,
    implementation: str,
    licence: str,
    base_fingerprint: str,
    settings: Mapping[str, Any],
    steps: int,
    base_name: str = "",
    hint: Mapping[str, Any] | None = None,
    resolution_px: tuple[int, int] | None = None,
    author: str = "",
    description: str = "",
    date: str = "",
    tags: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The metadata of an exported file; empty values are left out.

    Args:
        title: what people should call it.
        architecture: ModelSpec's id, e.g. "flux-1-dev/controlnet", "flux-1-dev/lora", "flux-1-schnell/controlnet".
        implementation: whose names and layout it has, e.g. "https://github.com/XLabs-AI/x-flux" or "diffusers".
        licence: an SPDX name, or the words that apply ("FLUX.1 [dev] Non-Commercial License").
        base_fingerprint: `fingerprint` of the weights that it was trained on.
        base_name: what people call that base, such as its file's name.
        settings: everything that was set, as JSON values.
        steps: absolute number of training steps.
        hint: how the hints were made (a ControlNet's), as JSON values.
        resolution_px: width and height trained at.
        date: ISO 8601, or nothing.
        extra: further fields, which may not replace one of these.

    Raises:
        InputError: a title, architecture or licence is missing, steps are negative, settings hold what JSON does not, or a field twice.
    """
    _require_given({"title": title, "architecture": architecture, "licence": licence, "base fingerprint": base_fingerprint})
    if steps < 0:
        raise InputError("steps", expected="a whole number from 0", found=steps, remedy="Give the absolute number of training steps.")
    fields = {
        "format": "pt",
        "modelspec.sai_model_spec": MODELSPEC_VERSION,
        "modelspec.title": title,
        "modelspec.architecture": architecture,
        "modelspec.implementation": implementation,
        "modelspec.license": licence,
        "modelspec.author": author,
        "modelspec.description": description,
        "modelspec.date": date,
        "modelspec.resolution": f"{resolution_px[0]}x{resolution_px[1]}" if resolution_px else "",
        "modelspec.tags": ", ".join(tags),
        "graft.version": __version__,
        "graft.base_fingerprint": base_fingerprint,
        "graft.base_name": base_name,
        "graft.settings": canonical_json(settings, "settings"),
        "graft.steps": str(steps),
        "graft.hint": canonical_json(hint, "hint") if hint is not None else "",
    }
    return _joined({name: value for name, value in fields.items() if value}, extra or {})


def canonical_json(value: Any, subject: str) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces.

    Raises:
        InputError: the value holds something that JSON does not (not a number, infinity, an object).
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        remedy = "Use text, finite numbers, booleans, lists and tables only."
        raise InputError(subject, expected="values that JSON can hold", found=error, remedy=remedy) from error


def _require_given(fields: Mapping[str, str]) -> None:
    for name, value in fields.items():
        if not value.strip():
            raise InputError(name, expected="some text", found="nothing", remedy="Every exported file must say it: fill it in.")


def _joined(fields: dict[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    doubled = sorted(fields.keys() & extra.keys())
    if doubled:
        remedy = "Give each field once."
        raise InputError("extra metadata", expected="other fields than the usual ones", found=", ".join(doubled), remedy=remedy)
    return fields | dict(extra)

"""How a file's weights are packed: which 8-bit form, which scale belongs to which weight, and what we cannot read at all.

Three kinds of 8-bit floats occur. Plain: only the dtype says so. Scaled: a `scaled_fp8` marker, `<layer>.scale_weight` and perhaps
`<layer>.scale_input`. ComfyUI's newer form: `<layer>.weight_scale`, perhaps `<layer>.input_scale`, announced by `<layer>.comfy_quant` (JSON
as bytes) or `_quantization_metadata` in the header. In the last two the true weight is the stored one times its scale; the input's scale
only tells a runtime how to round activations, so it is of no use to a weight and is used up knowingly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .header import Header, TensorInfo, printable
from .kinds import is_part

FP8_NAMES: dict[str, str] = {"F8_E4M3": "e4m3fn", "F8_E5M2": "e5m2"}
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16", *FP8_NAMES)
READABLE_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_SCALE_ENDINGS: dict[str, str] = {".scale_weight": ".weight", ".weight_scale": ".weight"}
_INPUT_SCALE_ENDINGS = (".scale_input", ".input_scale")
_ODD_FLOATS = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_UNREADABLE_ENDINGS: tuple[tuple[str, str], ...] = (
    (".absmax", "4 bits by bitsandbytes (nf4 or fp4)"),
    (".quant_map", "4 bits by bitsandbytes (nf4 or fp4)"),
    (".bitsandbytes__nf4", "4 bits by bitsandbytes (nf4)"),
    (".bitsandbytes__fp4", "4 bits by bitsandbytes (fp4)"),
    (".SCB", "8-bit integers by bitsandbytes"),
    (".qweight", "packed integers (GPTQ, AWQ or Nunchaku)"),
    (".wscales", "packed integers (Nunchaku)"),
    (".weight_scale_2", "4-bit floats (NVFP4)"),
    (".weight_scale_inv", "block-scaled 8-bit floats"),
)


@dataclass(frozen=True)
class Quantisation:
    """What the names, dtypes and shapes of a file say about its packing."""

    kind: str
    """'none', 'plain e4m3fn', 'plain e5m2', 'plain e4m3fn and e5m2', 'scaled', 'comfy' or 'unreadable'."""
    scales: dict[str, str]
    """{weight: its scale}."""
    used_up: tuple[str, ...]
    """Markers and input scales: no weights, and needed by none."""
    orphans: tuple[str, ...]
    """Scales whose weight is not in the file."""
    unreadable: str = ""
    """Why the weights cannot be read, if they cannot."""

    @property
    def helpers(self) -> frozenset[str]:
        """Every tensor that is no parameter of the model but belongs to the packing."""
        return frozenset((*self.scales.values(), *self.used_up, *self.orphans))


def find_quantisation(header: Header, names: Iterable[str]) -> Quantisation:
    """Reads the packing of the named tensors from the header alone."""
    tensors = {name: header.tensors[name] for name in names}
    scales, orphans = _scales(tensors)
    used_up = tuple(name for name in tensors if _is_marker(name) or name.endswith(_INPUT_SCALE_ENDINGS))
    unreadable = _unreadable(tensors, scales)
    kind = "unreadable" if unreadable else _kind(header, tensors, (*scales.values(), *used_up))
    return Quantisation(kind, scales, used_up, orphans, unreadable)


def require_readable(header: Header, packing: Quantisation) -> None:
    """Checks that all weights can be turned into ordinary floats, also by what the file itself declares about its layers.

    Raises:
        InputError: naming the form that cannot be read, or scales that belong to no weight.
    """
    if packing.unreadable:
        raise _cannot_read(header, packing.unreadable)
    if packing.orphans:
        names = ", ".join(printable(name) for name in packing.orphans)
        remedy = "The file is incomplete: use another edition."
        raise InputError(str(header.path), expected="a weight for every scale", found=f"scales without one: {names}", remedy=remedy)
    for layer, declared in declared_formats(header).items():
        if declared.get("format") not in READABLE_FORMATS or declared.get("convrot"):
            raise _cannot_read(header, f"{printable(json.dumps(declared))} in layer {printable(layer)}")


def declared_formats(header: Header) -> dict[str, dict[str, Any]]:
    """{layer: what the file says about its packing}, from `_quantization_metadata` and the layers' own `comfy_quant` bytes.

    Other models in the same file are left out.

    Raises:
        InputError: one of these is no JSON of the known form.
    """
    declared: dict[str, dict[str, Any]] = {}
    if "_quantization_metadata" in header.metadata:
        layers = _json_object(header, "_quantization_metadata", header.metadata["_quantization_metadata"]).get("layers")
        declared.update({name: value if isinstance(value, dict) else {} for name, value in (layers or {}).items()})
    with header.path.open("rb") as file:
        for name, info in header.tensors.items():
            if name.endswith(".comfy_quant"):
                file.seek(header.data_start + info.start)
                declared[name.removesuffix(".comfy_quant")] = _json_object(header, name, file.read(min(info.size_bytes, 65536)))
    return {layer: value for layer, value in declared.items() if not is_part(layer)}


def _scales(tensors: dict[str, TensorInfo]) -> tuple[dict[str, str], tuple[str, ...]]:
    scales: dict[str, str] = {}
    orphans: list[str] = []
    for name in tensors:
        ending = next((ending for ending in _SCALE_ENDINGS if name.endswith(ending)), None)
        if ending is None:
            continue
        weight = name.removesuffix(ending) + _SCALE_ENDINGS[ending]
        if weight in tensors and weight not in scales:
            scales[weight] = name
        else:
            orphans.append(name)
    return scales, tuple(orphans)


def _is_marker(name: str) -> bool:
    return name == "scaled_fp8" or name.endswith((".scaled_fp8", ".comfy_quant"))


def _unreadable(tensors: dict[str, TensorInfo], scales: dict[str, str]) -> str:
    for name, info in tensors.items():
        reason = next((reason for ending, reason in _UNREADABLE_ENDINGS if name.endswith(ending)), "")
        if reason:
            return reason
        if info.dtype in _ODD_FLOATS and not name.endswith(tuple(_SCALE_ENDINGS)):
            return f"{info.dtype} floats"
        if name.endswith(".weight") and len(info.shape) >= 2 and info.dtype not in FLOAT_DTYPES:
            return f"weights packed in {info.dtype} (4-bit floats, 8-bit integers or GGUF blocks)"
    for weight, scale in scales.items():
        if not _is_readable_scale(tensors[weight], tensors[scale]):
            return f"block-scaled weights (a scale of {tensors[scale].dtype} {list(tensors[scale].shape)})"
    return ""


def _is_readable_scale(weight: TensorInfo, scale: TensorInfo) -> bool:
    """One number for the whole weight, or one for each of its rows."""
    rows = weight.shape[0] if weight.shape else 1
    return scale.dtype in ("F32", "F16", "BF16", "F64") and scale.shape in ((), (1,), (1, 1), (rows,), (rows, 1))


def _kind(header: Header, tensors: dict[str, TensorInfo], helpers: tuple[str, ...]) -> str:
    found = [label for dtype, label in FP8_NAMES.items() if any(info.dtype == dtype for info in tensors.values())]
    if any(name.endswith((".weight_scale", ".comfy_quant")) for name in helpers) or (found and "_quantization_metadata" in header.metadata):
        return "comfy"
    if helpers:
        return "scaled"
    return f"plain {' and '.join(found)}" if found else "none"


def _json_object(header: Header, name: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_declared(header, name, text) from error
    if not isinstance(value, dict) or not isinstance(value.get("layers", {}), dict):
        raise _not_declared(header, name, text)
    return value


def _not_declared(header: Header, name: str, text: str | bytes) -> InputError:
    found, remedy = printable(repr(text), 80), "The file is damaged or of a form not known: use another edition."
    return InputError(f"{header.path}, {printable(name)}", expected="a JSON object that tells the packing", found=found, remedy=remedy)


def _cannot_read(header: Header, reason: str) -> InputError:
    return InputError(
        str(header.path), expected="weights in BF16, FP16, FP32 or 8-bit floats with one scale for each weight or row", found=reason,
        remedy="This form has lost too much to train from: use the BF16 edition of the model.",
    )  # fmt: skip

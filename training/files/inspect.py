"""What `graft inspect` tells of a file: in words for a person, in JSON for a program."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ..byte_sizes import shown_size
from ..progress import NO_PROGRESS, Progress
from .header import Header, printable, read_header
from .identify import FileReport, identify

_WORDS = {
    "none": "none", "scaled": "8-bit floats with scales (`scaled_fp8`, `.scale_weight`)",
    "comfy": "8-bit floats in ComfyUI's newer form (`.weight_scale`, `_quantization_metadata` or `.comfy_quant`)",
}  # fmt: skip
_ALPHA_FORMATS = {"F32": "<f", "F16": "<e", "F64": "<d"}
_METADATA_SHOWN = 20


def inspect_file(path: str | Path, values: bool = False, progress: Progress = NO_PROGRESS) -> str:
    """The report of `graft inspect`; with `values` every number is read too.

    Raises:
        InputError: the file is missing or damaged.
    """
    header = read_header(path)
    text = describe(identify(header), alphas(header))
    if not values:
        return text
    from .values import describe_values, scan_values  # torch takes seconds to import, and a header needs none of it

    return f"{text}\n{describe_values(scan_values(path, progress))}"


def inspect_as_dict(path: str | Path, values: bool = False, progress: Progress = NO_PROGRESS) -> dict[str, Any]:
    """The same as plain values for JSON.

    Raises:
        InputError: the file is missing or damaged.
    """
    header = read_header(path)
    result = {**identify(header).as_dict(), "alphas": list(alphas(header))}
    if values:
        from .values import scan_values  # as above

        result["values"] = scan_values(path, progress).as_dict()
    return result


def describe(report: FileReport, found_alphas: tuple[float, ...] = ()) -> str:
    """A file's report in words."""
    lines = [
        f"{report.path}",
        f"  What it is:   {_title(report)}",
        *([f"  Edition:      {report.variant}"] if report.variant else []),
        *([f"  Names begin:  {printable(report.prefix)}"] if report.prefix else []),
        *([f"  Sizes:        {_sizes(report)}"] if report.sizes else []),
        *([f"  Alpha:        {', '.join(f'{alpha:g}' for alpha in found_alphas)}"] if found_alphas else []),
        f"  Numbers:      {report.parameters:,} parameters, {shown_size(report.size_bytes)}",
        *_dtype_lines(report),
        f"  Packing:      {_packing(report)}",
        *_part_lines(report),
        *[f"  Note:         {note}" for note in report.notes],
        *_advice(report),
        *_metadata_lines(report),
    ]
    return "\n".join(lines)


def alphas(header: Header) -> tuple[float, ...]:
    """The distinct `.alpha` values of a LoRA file: a few bytes each, read without loading anything else."""
    found = set()
    with header.path.open("rb") as file:
        for name, info in header.tensors.items():
            if name.endswith(".alpha") and info.elements == 1 and info.dtype in (*_ALPHA_FORMATS, "BF16"):
                file.seek(header.data_start + info.start)
                found.add(_number(file.read(info.size_bytes), info.dtype))
    return tuple(sorted(found))


def _number(data: bytes, dtype: str) -> float:
    # BF16 is the upper half of FP32.
    value: float = struct.unpack("<f", b"\0\0" + data)[0] if dtype == "BF16" else struct.unpack(_ALPHA_FORMATS[dtype], data)[0]
    return value


def _title(report: FileReport) -> str:
    if report.kind == "unknown":
        names = ", ".join(printable(name, 80) for name in report.first_names) or "no tensors at all"
        return f"unknown; it begins with {names}"
    return f"{report.architecture} {report.kind}, {report.layout} names"


def _sizes(report: FileReport) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.sizes.items())


def _dtype_lines(report: FileReport) -> list[str]:
    return [f"  {dtype + ':':13} {count.tensors:,} tensors, {count.elements:,} numbers, {shown_size(count.size_bytes)}"
            for dtype, count in report.dtypes.items()]  # fmt: skip


def _packing(report: FileReport) -> str:
    packing = report.quantisation
    if packing.unreadable:
        return f"cannot be read here: {packing.unreadable}"
    words = _WORDS.get(packing.kind, f"8-bit floats without scales ({packing.kind})")
    scales = f"; {len(packing.scales)} scales, {len(packing.used_up)} markers and input scales" if packing.helpers else ""
    orphans = f"; {len(packing.orphans)} scales WITHOUT a weight" if packing.orphans else ""
    return words + scales + orphans


def _part_lines(report: FileReport) -> list[str]:
    return [f"  Beside it:    {prefix}* ({count} tensors)" for prefix, count in report.other_parts.items()]


def _advice(report: FileReport) -> list[str]:
    if report.kind not in ("transformer", "unet", "controlnet") or report.quantisation.unreadable:
        return []
    if "F16" in report.dtypes:
        return ["  Advice:       FP16 is a trap for training; it is converted to BF16 when loaded, or once by `graft convert`."]
    if report.fp8 != "none":
        return ["  Advice:       it is dequantised to BF16 when loaded, or once by `graft convert`; a BF16 edition is finer."]
    return []


def _metadata_lines(report: FileReport) -> list[str]:
    shown = sorted(report.metadata.items())[:_METADATA_SHOWN]
    more = [f"    ... and {len(report.metadata) - _METADATA_SHOWN} more"] if len(report.metadata) > _METADATA_SHOWN else []
    lines = [f"    {printable(name, 60)}: {printable(value, 100)}" for name, value in shown]
    return ["  Metadata:", *lines, *more] if lines else []

"""What `graft inspect` prints about a file."""

from __future__ import annotations

from collections.abc import Iterator

from ...training.files.header import printable
from ...training.files.identify import FileReport

SHOWN_METADATA_CHARACTERS = 160


def describe_file(report: FileReport) -> str:
    """The report in words, for a terminal."""
    return "\n".join(f"{name + ':':<15}{text}" for name, text in _rows(report))


def _rows(report: FileReport) -> Iterator[tuple[str, str]]:
    yield "File", f"{report.path} ({_size(report.size_bytes)})"
    yield "Kind", " ".join(part for part in (report.architecture, report.variant, report.kind) if part)
    yield "Layout", report.layout
    if report.prefix:
        yield "Name prefix", report.prefix
    yield "Parameters", f"{report.parameters:,}"
    if report.sizes:
        yield "Sizes", ", ".join(f"{name} {value}" for name, value in report.sizes.items())
    for dtype, count in report.dtypes.items():
        yield f"Dtype {dtype}", f"{count.tensors:,} tensors, {count.elements:,} numbers, {_size(count.size_bytes)}"
    if report.fp8 != "none":
        yield "8-bit form", report.fp8 + (f": {report.quantisation.unreadable}" if report.quantisation.unreadable else "")
    for prefix, count in report.other_parts.items():
        yield "Also holds", f"{prefix} ({count:,} tensors)"
    if report.kind == "unknown":
        yield "First names", ", ".join(printable(name) for name in report.first_names)
    for name, value in report.metadata.items():
        yield "Metadata", f"{printable(name)} = {printable(value, SHOWN_METADATA_CHARACTERS)}"
    for note in report.notes:
        yield "Note", note


def _size(size_bytes: int) -> str:
    """1,234,567 -> "1.23 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes} bytes"

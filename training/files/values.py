"""Counting what is wrong or lost in stored numbers: non-finite values, exact zeros, subnormals, values at the edge of their range.

A float's bits without its sign, read as an integer, grow with its magnitude; so one comparison with a bound tells each class apart, in
every dtype alike (IEEE 754-2019, 3.4; for 8 bits Micikevicius et al. 2022, arXiv:2209.05433).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..progress import NO_PROGRESS, Progress
from .header import Header, printable, read_header
from .tensors import TORCH_DTYPES, read_chunks


@dataclass(frozen=True)
class Bounds:
    """A dtype's bit patterns without the sign: the smallest normal number and the largest finite one."""

    integer: torch.dtype
    mask: int
    smallest_normal: int
    largest_finite: int


BOUNDS: dict[str, Bounds] = {
    "F16": Bounds(torch.int16, 0x7FFF, 0x0400, 0x7BFF),
    "BF16": Bounds(torch.int16, 0x7FFF, 0x0080, 0x7F7F),
    "F32": Bounds(torch.int32, 0x7FFFFFFF, 0x00800000, 0x7F7FFFFF),
    "F64": Bounds(torch.int64, 0x7FFFFFFFFFFFFFFF, 0x0010000000000000, 0x7FEFFFFFFFFFFFFF),
    "F8_E4M3": Bounds(torch.uint8, 0x7F, 0x08, 0x7E),
    "F8_E5M2": Bounds(torch.uint8, 0x7F, 0x04, 0x7B),
}


@dataclass(frozen=True)
class ValueCounts:
    """How many numbers there are of each class; `saturated` ones have the largest finite magnitude of their dtype (FP16: 65504)."""

    elements: int = 0
    zeros: int = 0
    subnormals: int = 0
    saturated: int = 0
    non_finite: int = 0

    def __add__(self, other: ValueCounts) -> ValueCounts:
        return ValueCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class TensorValues:
    """The counts of one tensor."""

    name: str
    dtype: str
    counts: ValueCounts


@dataclass(frozen=True)
class ValueReport:
    """The counts of all floating-point tensors of a file."""

    path: Path
    tensors: tuple[TensorValues, ...]
    not_counted: tuple[str, ...]
    """Tensors that are no floating-point numbers of a kind that is counted (integers, bytes)."""

    def by_dtype(self) -> dict[str, ValueCounts]:
        result: dict[str, ValueCounts] = {}
        for tensor in self.tensors:
            result[tensor.dtype] = result.get(tensor.dtype, ValueCounts()) + tensor.counts
        return dict(sorted(result.items()))

    @property
    def non_finite(self) -> tuple[TensorValues, ...]:
        """The tensors that hold infinities or NaN."""
        return tuple(tensor for tensor in self.tensors if tensor.counts.non_finite)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: totals for each dtype, and every tensor with non-finite or saturated values."""
        return {
            "by_dtype": {dtype: vars(counts) for dtype, counts in self.by_dtype().items()},
            "non_finite": {tensor.name: tensor.counts.non_finite for tensor in self.non_finite},
            "saturated": {tensor.name: tensor.counts.saturated for tensor in self.tensors if tensor.counts.saturated},
            "not_counted": list(self.not_counted),
        }


def count_values(numbers: Tensor, dtype: str) -> ValueCounts:
    """The classes of the numbers of a tensor whose safetensors dtype is `dtype` (one of `BOUNDS`)."""
    bounds = BOUNDS[dtype]
    if not numbers.numel():
        return ValueCounts()
    bits = numbers.contiguous().view(bounds.integer) & bounds.mask
    highest, small = int(bits.max()), int(torch.count_nonzero(bits < bounds.smallest_normal))
    zeros = numbers.numel() - int(torch.count_nonzero(bits)) if small else 0
    saturated = int(torch.count_nonzero(bits == bounds.largest_finite)) if highest >= bounds.largest_finite else 0
    non_finite = int(torch.count_nonzero(bits > bounds.largest_finite)) if highest > bounds.largest_finite else 0
    return ValueCounts(numbers.numel(), zeros, small - zeros, saturated, non_finite)


def scan_values(path: str | Path, progress: Progress = NO_PROGRESS) -> ValueReport:
    """Reads every number of a file, in constant memory, and counts the classes tensor by tensor.

    Raises:
        InputError: the file is damaged.
    """
    header = read_header(path)
    counted = [name for name, info in header.tensors.items() if info.dtype in BOUNDS and info.dtype in TORCH_DTYPES]
    progress.start(len(counted), "tensor")
    try:
        tensors = tuple(_scan_all(header, counted, progress))
    finally:
        progress.finish()
    return ValueReport(header.path, tensors, tuple(sorted(set(header.tensors) - set(counted))))


def describe_values(report: ValueReport) -> str:
    """The report in words, for a terminal."""
    lines = [f"  {dtype}: {describe_counts(counts, dtype)}" for dtype, counts in report.by_dtype().items()]
    bad = report.non_finite
    if bad:
        lines.append(f"  {len(bad)} tensors with infinities or NaN; such a file cannot be trained from:")
        lines += [f"    {printable(tensor.name)}: {tensor.counts.non_finite:,} of {tensor.counts.elements:,}" for tensor in bad]
    else:
        lines.append("  all values are finite")
    return "\n".join(["Values:", *lines])


def describe_counts(counts: ValueCounts, dtype: str) -> str:
    """One line: how many numbers, and how many of each class."""
    edge = " at 65504, the end of FP16's range" if dtype == "F16" else " at the end of the range"
    zeros, subnormals = _share(counts.zeros, counts), _share(counts.subnormals, counts)
    return (
        f"{counts.elements:,} numbers, {counts.zeros:,} exact zeros ({zeros}), {counts.subnormals:,} subnormal ({subnormals}), "
        f"{counts.saturated:,}{edge}, {counts.non_finite:,} not finite"
    )


def _scan_all(header: Header, names: list[str], progress: Progress) -> list[TensorValues]:
    result = []
    with header.path.open("rb") as file:
        for done, name in enumerate(names, start=1):
            dtype, counts = header.tensors[name].dtype, ValueCounts()
            for chunk in read_chunks(file, header, name):
                progress.check_interrupt()
                counts += count_values(chunk, dtype)
            result.append(TensorValues(name, dtype, counts))
            progress.advance(done)
    return result


def _share(count: int, counts: ValueCounts) -> str:
    return f"{100 * count / max(counts.elements, 1):.3g}%"

"""Stored weights to BF16, a piece at a time: every dtype and 8-bit form that we read, counted and checked on the way. Or kept in their 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader

import torch
from torch import Tensor

from ..errors import InputError
from ..progress import Progress
from .header import Header, printable
from .held import Held
from .quantisation import Quantisation
from .tensors import CHUNK_BYTES, TORCH_DTYPES, read_chunks, read_tensor
from .values import ValueCounts, count_values

_NAMES_SHOWN = 20


class Tally:
    """What has been met so far: counts for each stored dtype, and the tensors that are not finite."""

    def __init__(self) -> None:
        self.counts: dict[str, ValueCounts] = {}
        self.tensors: dict[str, int] = {}
        self.bad: dict[str, int] = {}

    def add(self, name: str, dtype: str, counts: ValueCounts, bad: int) -> None:
        self.counts[dtype] = self.counts.get(dtype, ValueCounts()) + counts
        self.tensors[dtype] = self.tensors.get(dtype, 0) + 1
        if bad:
            self.bad[name] = bad

    def require_finite(self, header: Header) -> None:
        """Raises:
        InputError: naming the tensors that hold infinities or NaN.
        """
        if not self.bad:
            return
        names = [f"{printable(name)} ({count:,})" for name, count in list(self.bad.items())[:_NAMES_SHOWN]]
        more = f" and {len(self.bad) - _NAMES_SHOWN} more" if len(self.bad) > _NAMES_SHOWN else ""
        raise InputError(
            str(header.path), expected="finite values in every tensor",
            found=f"infinities or NaN in {len(self.bad)} tensors: {', '.join(names)}{more}",
            remedy="They cannot be repaired: use another edition of the file, saved in BF16 or FP32.",
        )  # fmt: skip


def bf16_chunks(
    file: BufferedReader, header: Header, name: str, packing: Quantisation, tally: Tally, progress: Progress
) -> Iterator[Tensor]:
    """One stored tensor as flat BF16 pieces, multiplied by its scale if it has one."""
    return (result for _, result in _checked_chunks(file, header, name, packing, tally, progress))


def _checked_chunks(
    file: BufferedReader, header: Header, name: str, packing: Quantisation, tally: Tally, progress: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """(as stored, in BF16), piece by piece."""
    info = header.tensors[name]
    scale = _scale(file, header, name, packing)
    width = info.elements // scale.numel() if scale is not None and scale.numel() > 1 else 1
    counts, bad, position = ValueCounts(), 0, 0
    for chunk in read_chunks(file, header, name, CHUNK_BYTES):
        progress.check_interrupt()
        found = count_values(chunk, info.dtype)
        numbers = chunk if scale is None else chunk.float() * _scale_of(scale, position, chunk.numel(), width)
        result = numbers.to(torch.bfloat16)
        counts, position = counts + found, position + chunk.numel()
        bad += max(found.non_finite, count_values(result, "BF16").non_finite)
        yield chunk, result
    tally.add(name, info.dtype, counts, bad)


def load_bf16(file: BufferedReader, header: Header, name: str, packing: Quantisation, tally: Tally, progress: Progress) -> Tensor:
    """One stored tensor as a whole in BF16, in its own shape."""
    info = header.tensors[name]
    result = torch.empty(info.elements, dtype=torch.bfloat16)
    position = 0
    for chunk in bf16_chunks(file, header, name, packing, tally, progress):
        result[position : position + chunk.numel()] = chunk
        position += chunk.numel()
    return result.reshape(info.shape)


def load_held(file: BufferedReader, header: Header, name: str, packing: Quantisation, tally: Tally, progress: Progress) -> Held:
    """One tensor that is stored in 8-bit floats, as it is stored, with its scale; checked as if it were unpacked."""
    info = header.tensors[name]
    stored, position = torch.empty(info.elements, dtype=torch.uint8), 0
    for chunk, _ in _checked_chunks(file, header, name, packing, tally, progress):
        stored[position : position + chunk.numel()] = chunk.view(torch.uint8)
        position += chunk.numel()
    scale = _scale(file, header, name, packing)
    return Held(stored.view(TORCH_DTYPES[info.dtype]).reshape(info.shape), None if scale is None else scale.reshape(-1, 1))


def _scale(file: BufferedReader, header: Header, name: str, packing: Quantisation) -> Tensor | None:
    if name not in packing.scales:
        return None
    scale = read_tensor(file, header, packing.scales[name]).float().reshape(-1)
    return scale if scale.numel() > 1 else scale.reshape(())


def _scale_of(scale: Tensor, start: int, count: int, width: int) -> Tensor:
    """The factors of numbers start ... start + count of a tensor whose rows hold `width` numbers."""
    if scale.dim() == 0:
        return scale
    first, last = start // width, (start + count - 1) // width
    return scale[first : last + 1].repeat_interleave(width)[start - first * width :][:count]

"""Tensors out of a safetensors file: into memory of their own, never mapped, so that the file may be replaced or removed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .header import Header, TensorInfo, printable, read_header

CHUNK_BYTES = 32 * 2**20
_TORCH_NAMES: dict[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32", "I64": "int64",
    "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
# By getattr, because older versions of torch lack the rarer ones.
TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, value) for name, value in _TORCH_NAMES.items() if hasattr(torch, value)}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def read_tensors(path: str | Path, names: Iterable[str] | None = None, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The named tensors of a file (all if None), with the file's own shapes and dtypes, on the device.

    Raises:
        InputError: the file is damaged, lacks one of the names, or holds a dtype that this torch does not know.
    """
    header = read_header(path)
    chosen = list(header.tensors) if names is None else list(names)
    _require_names(header, chosen)
    with header.path.open("rb") as file:
        return {name: read_tensor(file, header, name).to(device) for name in chosen}


def read_tensor(file: BufferedReader, header: Header, name: str) -> Tensor:
    """One tensor of an open file, on the CPU."""
    info = header.tensors[name]
    dtype = _torch_dtype(header, name)
    return read_bytes(file, header, info.start, info.size_bytes).view(dtype).reshape(info.shape)


def read_chunks(file: BufferedReader, header: Header, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
    """One tensor of an open file as flat pieces, so that memory does not depend on its size."""
    info = header.tensors[name]
    dtype = _torch_dtype(header, name)
    step_bytes = max(chunk_bytes // dtype.itemsize, 1) * dtype.itemsize
    for start in range(info.start, info.end, step_bytes):
        yield read_bytes(file, header, start, min(step_bytes, info.end - start)).view(dtype)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in the order in which safetensors stores them (row-major, little-endian)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def dtype_name(name: str, tensor: Tensor) -> str:
    """The safetensors name of a tensor's dtype.

    Raises:
        InputError: safetensors cannot hold it.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise InputError(name, expected="a dtype that safetensors holds", found=tensor.dtype, remedy="Cast the tensor first.")
    return DTYPE_NAMES[tensor.dtype]


def read_bytes(file: BufferedReader, header: Header, start: int, size_bytes: int) -> Tensor:
    """Raw data of an open file, uint8 [size_bytes], from offset `start` of its data.

    Raises:
        InputError: the file has become shorter than its header says.
    """
    buffer = torch.empty(size_bytes, dtype=torch.uint8)
    file.seek(header.data_start + start)
    if size_bytes and file.readinto(buffer.numpy().data) != size_bytes:
        raise InputError(
            str(header.path), expected=f"{header.size_bytes:,} bytes", found="fewer: the file shrank while it was read",
            remedy="Wait until it is written completely, then try again.",
        )  # fmt: skip
    return buffer


def _torch_dtype(header: Header, name: str) -> torch.dtype:
    info: TensorInfo = header.tensors[name]
    if info.dtype not in TORCH_DTYPES:
        raise InputError(
            f"{header.path}, tensor {printable(name)}", expected=f"one of {', '.join(TORCH_DTYPES)}", found=info.dtype,
            remedy=f"torch {torch.__version__} cannot read this dtype: use another edition of the file.",
        )  # fmt: skip
    return TORCH_DTYPES[info.dtype]


def _require_names(header: Header, names: list[str]) -> None:
    missing = [printable(name) for name in names if name not in header.tensors]
    if missing:
        raise InputError(
            str(header.path), expected=f"tensors named {', '.join(missing)}", found=f"{len(header.tensors)} others",
            remedy="Look at what is in it with `graft inspect`.",
        )  # fmt: skip

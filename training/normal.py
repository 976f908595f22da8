"""Tensors that were made under inference mode, as ordinary ones. ComfyUI runs every node under it, and autograd refuses such tensors."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.inference_mode(False)
def normal(tensor: Tensor) -> Tensor:
    """The same numbers as a tensor that autograd accepts; storage is shared, nothing is copied."""
    if not tensor.is_inference():
        return tensor
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())

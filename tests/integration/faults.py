"""A custom node pack for the test server that has no nodes: it lets memory run out when a file beside it says so."""

from __future__ import annotations

from pathlib import Path

import torch

NODE_CLASS_MAPPINGS: dict[str, type] = {}
FLAG = Path(__file__).with_name("no_memory_after")
_backward = torch.Tensor.backward


def backward(self, *arguments, **options):
    """After as many calls as the file says, what the allocator of a GPU would raise."""
    if FLAG.exists():
        left = int(FLAG.read_text())
        if left <= 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (simulated)")
        FLAG.write_text(str(left - 1))
    return _backward(self, *arguments, **options)


torch.Tensor.backward = backward

"""Memory for batches, used again and again.

malloc keeps what threads take and give back in a pool for each of them, and pieces of many sizes fit badly into these: with large pictures the pools
grew to several times what was held at once. Memory fresh from the operating system costs more time than what is read into it.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGE_BYTES = 2**20
KEPT_BYTES = 2**28
"""The most that is kept for later; what was given back longest ago goes first."""


class Pieces:
    """Pieces of memory that come back when the last tensor over them is gone, whoever holds it and whatever views were made of it."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._free: OrderedDict[int, np.ndarray] = OrderedDict()
        # A piece may come back at any moment, in the middle of a call in the same thread too.
        self._lock = threading.RLock()

    def take(self, size_bytes: int) -> Tensor:
        """uint8 [size_bytes] with anything in it."""
        with self._lock:
            fitting = next((key for key, piece in self._free.items() if piece.nbytes == size_bytes), None)
            piece = np.empty(size_bytes, np.uint8) if fitting is None else self._free.pop(fitting)
        lent = piece[:]  # torch holds this view for as long as it needs the memory
        weakref.finalize(lent, self._give_back, piece).atexit = False
        return torch.from_numpy(lent)

    def release(self) -> None:
        """Forgets what is kept."""
        with self._lock:
            self._free.clear()

    @property
    def free_bytes(self) -> int:
        """What is kept."""
        with self._lock:
            return sum(piece.nbytes for piece in self._free.values())

    def _give_back(self, piece: np.ndarray) -> None:
        with self._lock:
            self._free[id(piece)] = piece
            while self.free_bytes > self._kept_bytes:
                self._free.popitem(last=False)


PIECES = Pieces()
"""Those of all batches."""


def fresh(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor with anything in it, over memory that has been used before where it is large."""
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes < LARGE_BYTES:
        return torch.empty(tuple(shape), dtype=dtype)
    return PIECES.take(size_bytes).view(dtype).view(tuple(shape))

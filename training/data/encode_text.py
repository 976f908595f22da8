"""The part that the text encoder makes: every different caption once, and the empty one for caption dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import InputError
from .shards import Report, Rows, Shard, ShardPlan, batches_of, rows_for
from .shelf import Shelf

TextEncoder: TypeAlias = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Captions -> tokens [B, L, W] and pooled [B, V]; L the same for every caption."""

ENCODE_BATCH = 16
# Part of every key: raise it when the same captions would give other embeddings.
_TEXT_VERSION = 1


@dataclass(frozen=True)
class TextParts:
    """Makes embeddings in the encoder's own dtype: rows `tokens` [L, W] and `pooled` [V]."""

    encode_text: TextEncoder
    identity: str
    shelf: Shelf

    def empty(self) -> Rows:
        """The embedding of the empty caption: one row."""
        return self._rows([""], 1, None)

    def captions(self, captions: Sequence[str], empty: Rows) -> Rows:
        """The embeddings of all captions, as long as that of the empty one.

        Raises:
            InputError: the encoder gives a caption another length.
        """
        row = empty.header(0)
        return self._rows(captions, rows_for(row.tensors["tokens"].size_bytes + row.tensors["pooled"].size_bytes), row.shapes["tokens"][1:])

    def _rows(self, captions: Sequence[str], rows_per_shard: int, shape: tuple[int, ...] | None) -> Rows:
        def make(plan: ShardPlan, report: Report) -> Shard:
            batches = [self._encode([captions[row] for row in rows], shape) for rows in batches_of(plan, report, ENCODE_BATCH)]
            return {"tokens": torch.cat([tokens for tokens, _ in batches]), "pooled": torch.cat([pooled for _, pooled in batches])}, {}

        return self.shelf.rows("text", captions, rows_per_shard, make, "caption", _TEXT_VERSION, self.identity)

    def _encode(self, captions: list[str], shape: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
        tokens, pooled = (tensor.detach().cpu() for tensor in self.encode_text(captions))
        if tokens.ndim != 3 or pooled.ndim != 2 or not len(tokens) == len(pooled) == len(captions):
            found = f"{list(tokens.shape)} and {list(pooled.shape)} for {len(captions)} captions"
            raise InputError("text encoder", expected="tokens [B, L, W] and pooled [B, V]", found=found, remedy="Connect another one.")
        if shape is not None and tuple(tokens.shape[1:]) != shape:
            found = f"{list(tokens.shape[1:])} for captions like {max(captions, key=len)!r:.200}"
            raise InputError("captions", expected=f"embeddings of {list(shape)} for all", found=found, remedy="Shorten the longest.")
        if not (tokens.isfinite().all() and pooled.isfinite().all()):
            found = f"non-finite values for captions like {captions[0]!r:.200}"
            raise InputError("text encoder", expected="finite embeddings", found=found, remedy="Run the text encoder in BF16 or FP32.")
        return tokens, pooled

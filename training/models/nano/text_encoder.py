"""The nano's text encoder: words to tokens that carry their order, and a pooled vector.

FLUX gives text tokens no positions, so the word order must be in the tokens themselves. Words are hashed into a fixed table of embeddings: there is
no vocabulary file, and a word that was never seen still has an embedding of its own, which a LoRA can give a meaning.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flux import adopt

logger = logging.getLogger(__name__)

TOKENS = 16
TABLE_SIZE = 2048
PADDING = 0
HEADS = 4


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits of any script, in order."""
    return re.findall(r"\w+", text.lower())


def token_ids(texts: Sequence[str]) -> Tensor:
    """Texts -> word numbers [B, 16]; missing places hold the padding number, words beyond the 16th are dropped with a warning."""
    ids = torch.full((len(texts), TOKENS), PADDING, dtype=torch.long)
    for row, text in enumerate(texts):
        found = words(text)
        if len(found) > TOKENS:
            logger.warning("the nano text encoder reads %d words; the rest of %r is dropped", TOKENS, text)
        for column, word in enumerate(found[:TOKENS]):
            ids[row, column] = 1 + zlib.crc32(word.encode()) % (TABLE_SIZE - 1)
    return ids


class Layer(nn.Module):
    """A pre-norm transformer layer over all 16 places, padding included (its embedding is learnt)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.attention_norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.projection(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class TextEncoder(nn.Module):
    """Word numbers [B, 16] -> tokens [B, 16, width] and a pooled vector [B, pooled_width]."""

    def __init__(self, width: int, pooled_width: int, depth: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(TABLE_SIZE, width), nn.Parameter(torch.zeros(TOKENS, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm, self.pool = nn.LayerNorm(width), nn.Linear(width, pooled_width)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> TextEncoder:
        """An encoder that holds these tensors, every size read from them.

        Raises:
            InputError: naming missing, unexpected and mismatched tensors.
        """
        pooled_width, width = weights["pool.weight"].shape if "pool.weight" in weights else (1, HEADS)
        depth = len({name.split(".")[1] for name in weights if name.startswith("layers.")})
        with torch.device("meta"):
            encoder = cls(width, pooled_width, depth)
        adopt(encoder, weights, "text encoder weights")
        return encoder.requires_grad_(False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.words(ids) + self.places
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x, self.pool(x.mean(dim=1))

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> tokens [B, 16, width] and pooled vectors [B, pooled_width], on the encoder's device."""
        with torch.no_grad():
            return self(token_ids(texts).to(self.places.device))

"""From fused projections to attention: normalised, rotated queries and keys, as one operation with a backward pass of its own.

Left to autograd these steps make a dozen passes over memory and keep half as many tensors for the backward pass; here it is a few passes, and
only the projections and one number per head and token are kept. The arithmetic is in fp32 whatever the dtype (in fp64 for fp64).

Per head of width W: y = R(p) (x r * scale), with r = (mean(x^2) + eps)^-1/2 (RMS norm; Zhang & Sennrich 2019, arXiv:1910.07467) and R(p) the
rotation of neighbouring pairs by the angles of position p (Su et al. 2021, arXiv:2104.09864).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-6
QUERY, KEY, VALUE = 0, 1, 2

Stream = tuple[Tensor, Tensor, Tensor]
"""Fused projections [B, S, 3 D] (queries, keys, values), and the scales [W] of its queries' and of its keys' norm."""


def attend(table: Tensor, *streams: Stream) -> Tensor:
    """Joint attention of one or more streams of tokens -> [B, S, D], the tokens of all streams in their order.

    Args:
        table: unit complex numbers [S, W/2] of all tokens' positions.
        streams: of each its projections and scales.
    """
    inputs = [tensor for stream in streams for tensor in stream]
    query, key, value = _Heads.apply(table, *inputs)
    mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return mixed.transpose(1, 2).flatten(2)


class _Heads(torch.autograd.Function):
    """(table, qkv_1, query_scale_1, key_scale_1, qkv_2, ...) -> queries, keys, values, each [B, S, H, W] of all streams' tokens."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        streams, inverses, first = _streams(inputs), [], 0
        made = _room(streams)
        for qkv, *scales in streams:
            rows, parts = slice(first, first + qkv.shape[1]), _parts(qkv, scales[0])
            for which, scale in zip((QUERY, KEY), scales, strict=True):
                inverses.append(_inverse_size(parts[:, :, which]))
                normed = (parts[:, :, which] * inverses[-1]).mul_(scale)
                _turn(normed, table[rows], made[which][:, rows])
            if len(streams) > 1:
                made[VALUE][:, rows] = parts[:, :, VALUE]
            first = rows.stop
        ctx.save_for_backward(table, *inputs, *inverses)
        ctx.count = len(streams)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, *saved = ctx.saved_tensors
        streams, inverses = _streams(saved[: 3 * ctx.count]), saved[3 * ctx.count :]
        result: list[Tensor | None] = [None]
        first = 0
        for number, stream in enumerate(streams):
            rows = slice(first, first + stream[0].shape[1])
            wanted = ctx.needs_input_grad[1 + 3 * number : 4 + 3 * number]
            of_rows = [gradient[:, rows] for gradient in gradients]
            result += _of_stream(of_rows, table[rows], stream, inverses[2 * number : 2 * number + 2], wanted)
            first = rows.stop
        return tuple(result)


def _of_stream(gradients: list[Tensor], table: Tensor, stream: Stream, inverses: list[Tensor], wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """The gradients of one stream's projections and of its two scales, each where it is wanted."""
    if not any(wanted):
        return [None] * len(stream)
    qkv, *scales = stream
    of_qkv, of_scales = torch.empty_like(qkv), []
    source, target = _parts(qkv, scales[0]), _parts(of_qkv, scales[0])
    for which, scale in zip((QUERY, KEY), scales, strict=True):
        heads, inverse = source[:, :, which], inverses[which]
        of_scaled = _turn(gradients[which], table.conj())
        of_scales.append((of_scaled * heads * inverse).sum(dim=(0, 1, 2)).to(scale.dtype) if wanted[1 + which] else None)
        _of_heads(of_scaled.mul_(scale), heads, inverse, target[:, :, which])
    target[:, :, VALUE] = gradients[VALUE]
    return [of_qkv, *of_scales]


def _of_heads(of_normed: Tensor, heads: Tensor, inverse: Tensor, target: Tensor) -> None:
    """With g the gradient of the normalised head: r g - x r^3 mean(x g), into `target`."""
    along = (of_normed * heads).mean(dim=-1, keepdim=True).mul_(inverse.pow(3))
    torch.addcmul(of_normed.mul_(inverse), _wide(heads), along, value=-1, out=target)


def _turn(heads: Tensor, table: Tensor, target: Tensor | None = None) -> Tensor:
    """Neighbouring pairs of [B, S, H, W] as complex numbers times the table's [S, W/2], in fp32; into `target` if there is one."""
    if target is not None and target.dtype in (torch.float32, torch.float64):
        torch.mul(_complex(heads), table[:, None], out=_complex(target))
        return target
    turned = torch.view_as_real(_complex(_wide(heads)) * table[:, None]).flatten(-2)
    return turned if target is None else target.copy_(turned)


def _wide(heads: Tensor) -> Tensor:
    return heads if heads.dtype == torch.float64 else heads.float()


def _complex(heads: Tensor) -> Tensor:
    adjacent = heads if heads.stride(-1) == 1 else heads.contiguous()
    return torch.view_as_complex(adjacent.unflatten(-1, (-1, 2)))


def _inverse_size(heads: Tensor) -> Tensor:
    """(mean(x^2) + eps)^-1/2 of each head: [B, S, H, 1], fp32."""
    dtype = torch.float64 if heads.dtype == torch.float64 else torch.float32
    square = torch.linalg.vector_norm(heads, dim=-1, keepdim=True, dtype=dtype).square_()
    return square.div_(heads.shape[-1]).add_(EPS).rsqrt_()


def _streams(inputs: Sequence[Tensor]) -> list[Stream]:
    return [(inputs[at], inputs[at + 1], inputs[at + 2]) for at in range(0, len(inputs), 3)]


def _parts(qkv: Tensor, scale: Tensor) -> Tensor:
    """[B, S, 3 D] -> [B, S, 3, H, W], a view."""
    return qkv.unflatten(-1, (3, -1, scale.shape[0]))


def _room(streams: list[Stream]) -> tuple[Tensor, Tensor, Tensor]:
    """For all streams' queries, keys and values; the values of a single stream stay where they are."""
    qkv, scale, _ = streams[0]
    parts = _parts(qkv, scale)
    shape = (parts.shape[0], sum(stream[0].shape[1] for stream in streams), *parts.shape[3:])
    value = parts[:, :, VALUE] if len(streams) == 1 else qkv.new_empty(shape)
    return qkv.new_empty(shape), qkv.new_empty(shape), value

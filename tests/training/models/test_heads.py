"""The joined attention against the same mathematics written out plainly and left to autograd."""

from __future__ import annotations

import pytest
import torch
from graft.training.models.flux import rotary_table
from graft.training.models.heads import attend

HEADS, WIDTH, BATCH = 3, 8, 2
AXES = (2, 2, 4)


def plain(angles: torch.Tensor, streams: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Root mean square norm, rotation by sines and cosines, softmax: nothing of the module's own."""
    joined: list[list[torch.Tensor]] = [[], [], []]
    for qkv, query_scale, key_scale in streams:
        parts = qkv.reshape(*qkv.shape[:2], 3, HEADS, WIDTH).unbind(2)
        for which, scale in ((0, query_scale), (1, key_scale)):
            joined[which].append(parts[which] / (parts[which].pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * scale)
        joined[2].append(parts[2])
    query, key, value = (torch.cat(parts, dim=1) for parts in joined)
    cosine, sine = angles.cos()[:, None], angles.sin()[:, None]

    def turned(x: torch.Tensor) -> torch.Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)

    weights = torch.einsum("bqhw,bkhw->bhqk", turned(query), turned(key)).div(WIDTH**0.5).softmax(-1)
    return torch.einsum("bhqk,bkhw->bqhw", weights, value).flatten(2)


def make_streams(lengths: list[int], dtype: torch.dtype = torch.float32, tail: int = 0) -> list[list[torch.Tensor]]:
    """Projections (with `tail` more columns behind them, as in single blocks) and scales."""
    generator = torch.Generator().manual_seed(4)
    made = []
    for length in lengths:
        wide = torch.randn(BATCH, length, 3 * HEADS * WIDTH + tail, generator=generator).to(dtype)
        scales = [(1 + 0.3 * torch.randn(WIDTH, generator=generator)).to(dtype) for _ in range(2)]
        made.append([wide.requires_grad_(), *(scale.requires_grad_() for scale in scales)])
    return made


def without_tail(streams: list[list[torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return [(wide[..., : 3 * HEADS * WIDTH], query_scale, key_scale) for wide, query_scale, key_scale in streams]


def positions(count: int) -> torch.Tensor:
    return torch.stack([torch.zeros(count), torch.arange(count) // 3, torch.arange(count) % 3], dim=1)


def angles_of(ids: torch.Tensor) -> torch.Tensor:
    parts = [ids[:, axis, None] * 10_000 ** -(torch.arange(0, width, 2) / width) for axis, width in enumerate(AXES)]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("lengths", "tail"), [([7], 0), ([7], 5), ([3, 6], 0)])
def test_values_and_gradients_equal_plain_mathematics(lengths: list[int], tail: int) -> None:
    ids = positions(sum(lengths))
    results, gradients = [], []
    for function, places in ((attend, rotary_table(ids, AXES)), (lambda table, *streams: plain(table, list(streams)), angles_of(ids))):
        streams = make_streams(lengths, tail=tail)
        mixed = function(places, *without_tail(streams))
        mixed.sin().sum().backward()
        results.append(mixed.detach())
        gradients.append([tensor.grad for stream in streams for tensor in stream])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_only_wanted_gradients_are_made() -> None:
    """As in a frozen base: no scale trains, and text tokens may not depend on what is trained yet."""
    table, streams = rotary_table(positions(9), AXES), make_streams([3, 6])
    whole = make_streams([3, 6])
    attend(table, *without_tail(whole)).sin().sum().backward()
    for tensor in (*streams[0], *streams[1][1:]):
        tensor.requires_grad_(False)
    attend(table, *without_tail(streams)).sin().sum().backward()
    torch.testing.assert_close(streams[1][0].grad, whole[1][0].grad)
    assert all(tensor.grad is None for tensor in (*streams[0], *streams[1][1:]))


@pytest.mark.parametrize("lengths", [[7], [3, 6]])
def test_bf16_is_computed_in_fp32(lengths: list[int]) -> None:
    ids = positions(sum(lengths))
    narrow = make_streams(lengths, torch.bfloat16)
    wide = [[tensor.detach().float().requires_grad_() for tensor in stream] for stream in narrow]
    mixed, expected = (attend(rotary_table(ids, AXES), *without_tail(streams)) for streams in (narrow, wide))
    assert mixed.dtype == torch.bfloat16
    mixed.float().sin().sum().backward()
    expected.sin().sum().backward()
    assert (mixed - expected).abs().max() < 0.03
    for ours, theirs in zip(narrow, wide, strict=True):
        for found, wanted in zip(ours, theirs, strict=True):
            assert found.grad.dtype == torch.bfloat16
            assert (found.grad - wanted.grad).norm() < 0.03 * wanted.grad.norm()


def test_gradients_that_are_not_adjacent_in_memory() -> None:
    """The backward pass of plain attention may hand back transposed or expanded gradients."""
    from graft.training.models.heads import _Heads

    table, streams = rotary_table(positions(7), AXES), make_streams([7])
    for of_heads in (torch.ones(1).expand(BATCH, 7, HEADS, WIDTH), torch.randn(BATCH, HEADS, WIDTH, 7).permute(0, 3, 1, 2)):
        found = []
        for gradient in (of_heads, of_heads.contiguous()):
            query, key, value = _Heads.apply(table, *without_tail(streams)[0])
            found.append(torch.autograd.grad((query, key, value), streams[0], (gradient, gradient, gradient)))
        for ours, expected in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected)

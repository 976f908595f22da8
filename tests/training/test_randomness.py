"""Generators by name: the same for the same name, others for others, for ever."""

from __future__ import annotations

import torch
from graft.training.randomness import generator


def first(*name) -> float:
    return torch.rand(1, generator=generator(*name)).item()


def test_a_generator_follows_from_its_name_alone():
    assert first(1, "noise", 5) == first(1, "noise", 5)
    others = [(1, "noise", 5), (2, "noise", 5), (1, "t", 5), (1, "noise", 6), (1, "noise", 5, 0), (15, "noise"), (1, "noise", 55)]
    assert len({first(*name) for name in others}) == len(others)


def test_the_seeds_never_change():
    # Computed once with hashlib alone: blake2b of "7 0x1f noise 0x1f 3", 8 bytes, little-endian, without the lowest bit.
    assert generator(7, "noise", 3).initial_seed() == 3642519003656204092
    assert generator(7, "noise", 3).device.type == "cpu"


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first(1, "noise", 5)
    assert torch.equal(torch.rand(1), expected)


def test_neighbouring_counters_give_unrelated_numbers():
    draws = torch.tensor([first(0, "t", counter) for counter in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.02 and abs(draws.var() - 1 / 12) < 0.005
    lagged = torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]
    assert abs(lagged) < 0.07

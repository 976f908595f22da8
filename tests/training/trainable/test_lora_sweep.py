"""The layer of a sweep against the formula, differentiated by autograd: each LoRA on its own rows, whatever the others are."""

from __future__ import annotations

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.held import held_on_request, stored_of
from graft.training.models.held_linear import HeldLinear
from graft.training.trainable.lora import LoraRecipe
from graft.training.trainable.lora_sweep import JointLinear, Part, parts_of
from torch import Tensor, nn

PICTURES, TOKENS, IN, OUT = 2, 5, 6, 8


def parts(ranks: tuple[int, ...], scales: tuple[float, ...], seed: int = 0) -> list[Part]:
    """Rank 0 stands for a LoRA without an adapter in this layer."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for rank, scale in zip(ranks, scales, strict=True):
        down = torch.randn(rank, IN, generator=generator, dtype=torch.float64).requires_grad_(rank > 0)
        up = torch.randn(OUT, rank, generator=generator, dtype=torch.float64).requires_grad_(rank > 0)
        made.append(Part(down, up, scale))
    return made


def by_the_formula(x: Tensor, layer: nn.Linear, adapters: list[Part]) -> Tensor:
    rows = zip(x.chunk(len(adapters)), adapters, strict=True)
    return torch.cat([layer(own) + part.scale * (own @ part.down.T) @ part.up.T for own, part in rows])


def gradients(y: Tensor, x: Tensor, adapters: list[Part]) -> list[Tensor]:
    inputs = [x, *(tensor for part in adapters for tensor in (part.down, part.up) if tensor.requires_grad)]
    return list(torch.autograd.grad((y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum(), inputs))


@pytest.mark.parametrize("ranks, scales", [((3, 3), (1.0, 1.0)), ((1, 4, 2), (0.5, 1.0, 2.0)), ((2, 0, 3), (1.0, 1.0, 0.25))])
@pytest.mark.parametrize("shape", [(TOKENS,), ()])
def test_it_computes_the_formula_and_its_gradients(ranks, scales, shape):
    layer = nn.Linear(IN, OUT, dtype=torch.float64).requires_grad_(False)
    adapters = parts(ranks, scales)
    x = torch.randn(len(ranks) * PICTURES, *shape, IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected, found = by_the_formula(x, layer, adapters), JointLinear(layer, adapters)(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(found, x, adapters), gradients(expected, x, adapters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_no_lora_feels_another():
    """A row that is not finite, or an adapter that is huge, leaves the others' values and gradients as they are to the last bit."""
    layer, adapters = nn.Linear(IN, OUT, dtype=torch.float64).requires_grad_(False), parts((2, 2), (1.0, 1.0))
    x = torch.randn(2 * PICTURES, TOKENS, IN, dtype=torch.float64)
    broken = torch.cat([x[:PICTURES], torch.full_like(x[PICTURES:], float("nan"))])
    results = []
    for given in (x, broken):
        y = JointLinear(layer, adapters)(given)
        of_down, of_up = torch.autograd.grad(y.square().sum(), [adapters[0].down, adapters[0].up])
        results.append((y[:PICTURES], of_down, of_up))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_layer_in_8_bits_is_unpacked_for_all_of_them():
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(2)).bfloat16()
    held = stored_of(held_on_request({"double_blocks.0.img_attn.qkv.weight": weight}, "int8"))["double_blocks.0.img_attn.qkv.weight"]
    layer = HeldLinear(held)
    plain = nn.Linear(IN, OUT, bias=False)
    plain.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    adapters = [Part(part.down.detach().float(), part.up.detach().float()) for part in parts((2, 3), (1.0, 1.0))]
    x = torch.randn(2 * PICTURES, IN, generator=torch.Generator().manual_seed(3)).requires_grad_()
    found, expected = (JointLinear(each, adapters)(x) for each in (layer, plain))
    torch.testing.assert_close(found, expected)
    (ours,), (theirs,) = (torch.autograd.grad(y.sum(), x) for y in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_dora_is_refused(make_base):
    base = make_base(double_depth=1, single_depth=0)
    LoraRecipe(rank=1, dora=True).build(base)
    with pytest.raises(InputError, match="DoRA"):
        parts_of(base)

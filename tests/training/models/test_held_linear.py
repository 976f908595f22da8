"""A linear layer over 8 bits computes what its unpacked twin computes, forwards and backwards, and keeps nothing unpacked."""

from __future__ import annotations

import copy

import pytest
import torch
from graft.training.files.held import FORMS, Held, in_8_bits
from graft.training.models.held_linear import HeldLinear
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

FORMS_AND_PLAIN = (*FORMS, "plain e5m2", "one scale")


def held_weight(form: str, rows: int = 24, columns: int = 16) -> Held:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).bfloat16()
    if form == "plain e5m2":
        return Held(weight.to(torch.float8_e5m2))
    return Held(weight.to(torch.float8_e4m3fn), torch.tensor([[0.3]])) if form == "one scale" else in_8_bits(weight, form)


def twins(form: str, dtype: torch.dtype, bias: bool = True, rows: int = 24, columns: int = 16) -> tuple[HeldLinear, nn.Linear]:
    """A held layer, and a plain one with the same weights unpacked."""
    held, plain = held_weight(form, rows, columns), nn.Linear(columns, rows, bias=bias)
    plain.weight.data = held.numbers()
    plain = plain.to(dtype).requires_grad_(False)
    return HeldLinear(held, plain.bias), plain


def result(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("form", FORMS_AND_PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_are_those_of_the_unpacked_layer(form: str, dtype: torch.dtype, bias: bool):
    held, plain = twins(form, dtype, bias)
    x = torch.randn(2, 5, 16).to(dtype)
    for ours, theirs in zip(result(held, x), result(plain, x), strict=True):
        assert ours.dtype == dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("form", FORMS_AND_PLAIN)
def test_the_gradient_is_that_of_finite_differences(form: str):
    layer, _ = twins(form, torch.float64)
    assert torch.autograd.gradcheck(layer, torch.randn(3, 16, dtype=torch.float64, requires_grad=True))


def saved_by(layer: nn.Module, x: Tensor) -> list[Tensor]:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    return saved


@pytest.mark.parametrize("form", FORMS_AND_PLAIN)
def test_the_backward_pass_is_left_the_8_bits_and_no_copy(form: str):
    held, plain = twins(form, torch.float32)
    x = torch.randn(3, 16, requires_grad=True)
    saved = saved_by(held, x)
    assert {tensor.data_ptr() for tensor in saved} == {buffer.data_ptr() for buffer in held.buffers()}
    assert any(tensor.data_ptr() == plain.weight.data_ptr() for tensor in saved_by(plain, x)), "or the measure sees nothing"


def test_recomputing_blocks_changes_nothing():
    net = nn.Sequential(twins("int8", torch.float32)[0], nn.SiLU(), twins("fp8 e4m3fn", torch.float32, rows=16, columns=24)[0])
    x = torch.randn(4, 16)
    again = result(lambda x: checkpoint(net, x, use_reentrant=False), x)  # type: ignore[arg-type]
    for ours, theirs in zip(result(net, x), again, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("form", FORMS_AND_PLAIN)
def test_casts_and_copies_leave_the_numbers_alone(form: str):
    layer, _ = twins(form, torch.float32)
    before = layer.weight
    assert torch.equal(copy.deepcopy(layer).to(torch.float64).half().bfloat16().weight, before)
    assert not list(layer.named_parameters())[1:] and set(layer.state_dict()) == {"bias"}


def test_weights_made_under_inference_mode_can_be_trained_through():
    with torch.inference_mode():
        held = held_weight("one scale")
    layer = HeldLinear(held)
    _, gradient = result(layer, torch.randn(2, 16))
    assert gradient.shape == (2, 16) and layer.qweight.data_ptr() == held.stored.data_ptr()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("form", FORMS_AND_PLAIN)
def test_pefts_adapters_sit_on_it_as_on_the_unpacked_layer(form: str, dora: bool):
    results = []
    for layer in twins(form, torch.float32):
        net = nn.Sequential(layer)
        inject_adapter_in_model(LoraConfig(r=3, target_modules=["0"], use_dora=dora), net)
        assert net[0].base_layer is layer
        random = torch.Generator().manual_seed(0)
        for parameter in net.parameters():
            if parameter.requires_grad:  # peft begins in the dtype of the weight, which differs here
                parameter.data = torch.randn(parameter.shape, generator=random)
        y, gradient = result(net, torch.linspace(-1, 1, 32).reshape(2, 16))
        trained = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.requires_grad}
        assert len(trained) == (3 if dora else 2)
        results.append((y, gradient, *(trained[name] for name in sorted(trained))))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)

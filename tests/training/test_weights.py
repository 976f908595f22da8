"""Whose tensors are whose: the base is never changed, masters are fp32, a stored result of something else is refused."""

from __future__ import annotations

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.weights import TrainedWeights, compute_dtype, move_frozen, own_module
from torch import nn

CPU = torch.device("cpu")


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trained, self.dead = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dead(self.trained(x))


@pytest.fixture
def part() -> Part:
    torch.manual_seed(0)
    return Part()


def test_compute_dtype():
    assert compute_dtype("auto", CPU) == torch.float32 and compute_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert compute_dtype("bf16", CPU) == torch.bfloat16 and compute_dtype("fp32", torch.device("cuda")) == torch.float32


def test_our_own_view_of_a_base_shares_storage_and_changes_nothing(part):
    before = fingerprint(part.state_dict())
    own = own_module(part)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(own.parameters(), part.parameters(), strict=True))
    move_frozen(own, nn.Module(), CPU, torch.bfloat16)
    own.extra, own.trained = nn.Linear(1, 1), nn.Identity()
    assert all(parameter.dtype == torch.float32 for parameter in part.parameters()) and not hasattr(part, "extra")
    assert isinstance(part.trained, nn.Linear) and part.trained.weight.requires_grad and fingerprint(part.state_dict()) == before


def test_what_trains_is_left_out_of_the_move(part):
    own = own_module(part)
    own.adapter = nn.Linear(2, 2)
    move_frozen(own, own.adapter, CPU, torch.bfloat16)
    assert own.adapter.weight.dtype == torch.float32 and own.dead.weight.dtype == torch.bfloat16


def test_a_base_made_under_inference_mode_can_be_trained_through():
    with torch.inference_mode():
        base = nn.Linear(3, 3)
        base.weight = nn.Parameter(torch.ones(3, 3), requires_grad=False)
    x = torch.ones(1, 3, requires_grad=True)
    own_module(base)(x).sum().backward()
    assert x.grad is not None


def test_in_fp32_the_module_computes_with_the_masters_themselves(part):
    weights = TrainedWeights(part, CPU, torch.float32)
    assert weights.names == ["trained.weight", "trained.bias"] and weights.masters["trained.weight"] is part.trained.weight
    assert weights.tensors().keys() == part.state_dict().keys()


def test_in_bf16_masters_stay_fp32_and_small_steps_are_not_lost(part):
    exact = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    weights = TrainedWeights(part, CPU, torch.bfloat16)
    assert part.trained.weight.dtype == torch.bfloat16 and all(torch.equal(weights.tensors()[name], exact[name]) for name in exact)
    with torch.no_grad():
        for _ in range(1000):
            weights.masters["trained.weight"].add_(1e-5)  # less than half a bf16 step of these weights: bf16 alone would never move
    weights.publish()
    torch.testing.assert_close(part.trained.weight.float(), exact["trained.weight"] + 1e-2, rtol=2**-8, atol=0)


def test_in_bf16_gradients_add_up_in_fp32(part):
    weights = TrainedWeights(part, CPU, torch.bfloat16)
    for scale in (1.0, 2.0**-10):  # the sum 1 + 2^-10 cannot be held in bf16
        part.trained.weight.grad, part.trained.bias.grad = torch.full((3, 3), scale).bfloat16(), torch.zeros(3).bfloat16()
        weights.gather_gradients()
    assert weights.masters["trained.weight"].grad.unique().tolist() == [1 + 2**-10] and part.trained.weight.grad is None


def test_a_trained_parameter_without_a_gradient_is_our_bug_and_is_named(part):
    with pytest.raises(AssertionError, match=r"trained\.weight"):
        TrainedWeights(part, CPU, torch.float32).gather_gradients()


def test_loading_what_was_trained_as_something_else_names_every_tensor(part):
    weights = TrainedWeights(part, CPU, torch.float32)
    stored = {"trained.weight": torch.zeros(2, 2), "dead.weight": torch.zeros(3, 3), "lora.down": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        weights.load(stored)
    assert all(name in caught.value.found for name in ("trained.weight", "trained.bias", "lora.down")) and "dead" not in caught.value.found


def test_loading_restores_masters_and_what_computes(part):
    weights = TrainedWeights(part, CPU, torch.bfloat16)
    stored = {name: torch.full_like(tensor, 0.1) for name, tensor in weights.tensors().items()}
    weights.load(stored)
    assert weights.masters["trained.bias"].unique().tolist() == [pytest.approx(0.1)]
    assert part.trained.bias.unique().tolist() == [torch.tensor(0.1).bfloat16().item()]

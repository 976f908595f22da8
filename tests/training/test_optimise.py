"""Learning rates against torch's schedulers, AdamW against the paper's formula in float64, and a restored optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from graft.training import optimisers
from graft.training.errors import InputError
from graft.training.optimise import (
    build_optimiser,
    clip_gradients,
    ema_decay,
    learning_rate,
    optimiser_tensors,
    restore_optimiser,
    set_learning_rate,
    update_ema,
)
from graft.training.settings import OptimiserSettings, ScheduleSettings
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

PEAK, WARMUP, HORIZON, LAST = 1e-3, 4, 20, 0.1


def torch_rates(shape: str) -> list[float]:
    """The same schedule put together from torch's own schedulers."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    rise = LinearLR(optimiser, start_factor=1 / WARMUP, total_iters=WARMUP - 1)
    falls = {
        "cosine": lambda: CosineAnnealingLR(optimiser, HORIZON - WARMUP, eta_min=PEAK * LAST),
        "linear": lambda: LinearLR(optimiser, start_factor=1.0, end_factor=LAST, total_iters=HORIZON - WARMUP),
        "constant": lambda: LinearLR(optimiser, start_factor=1.0, total_iters=1),
    }
    schedule, rates = SequentialLR(optimiser, [rise, falls[shape]()], milestones=[WARMUP]), []
    for _ in range(HORIZON + 1):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_schedules_equal_torch_s(shape):
    schedule = ScheduleSettings(shape=shape, warmup_steps=WARMUP, horizon_steps=HORIZON, final_fraction=LAST)
    ours = [learning_rate(OptimiserSettings(learning_rate=PEAK), schedule, step) for step in range(HORIZON + 1)]
    assert ours == pytest.approx(torch_rates(shape), rel=1e-9)


@pytest.mark.parametrize(("shape", "last"), [("cosine", 1e-4), ("linear", 1e-4), ("constant", 1e-3)])
def test_beyond_the_horizon_the_rate_stays(shape, last):
    schedule = ScheduleSettings(shape=shape, warmup_steps=WARMUP, horizon_steps=HORIZON, final_fraction=LAST)
    for step in (HORIZON, HORIZON + 1, 50 * HORIZON):
        assert learning_rate(OptimiserSettings(learning_rate=PEAK), schedule, step) == pytest.approx(last)


def test_the_first_step_is_not_idle_without_warmup_or_with():
    assert learning_rate(OptimiserSettings(learning_rate=PEAK), ScheduleSettings(shape="cosine", horizon_steps=10), 0) == PEAK
    assert learning_rate(OptimiserSettings(learning_rate=PEAK), ScheduleSettings(warmup_steps=4), 0) == PEAK / 4


def test_adamw_is_the_paper_s():
    settings = OptimiserSettings(learning_rate=1e-2, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6)
    start, random = np.linspace(-1, 1, 5), np.random.RandomState(0)
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimiser = build_optimiser(settings, [parameter])
    weight, mean, square = start.copy(), np.zeros(5), np.zeros(5)
    for step in range(1, 6):
        gradient, rate = random.randn(5), 1e-2 / step
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        set_learning_rate(optimiser, rate)
        optimiser.step()
        mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
        change = (mean / (1 - 0.8**step)) / (np.sqrt(square / (1 - 0.95**step)) + 1e-6)
        weight = weight - rate * 0.1 * weight - rate * change
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=2e-6)


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in (("a.weight", (3, 4)), ("b:odd", (2,)))}


def take_steps(optimiser: torch.optim.Optimizer, own: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        for name, parameter in own.items():
            generator = torch.Generator().manual_seed(step + len(name))
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step()


STATE_OF = {"adamw": {"exp_avg", "exp_avg_sq", "step"}, "lion": {"exp_avg"}, "muon": {"momentum", "exp_avg", "exp_avg_sq", "step"}}


def test_lion_is_the_paper_s():
    settings = OptimiserSettings(name="lion", learning_rate=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    start, random = np.linspace(-1, 1, 5), np.random.RandomState(0)
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimiser, weight, mean = build_optimiser(settings, [parameter]), start.copy(), np.zeros(5)
    for _ in range(5):
        gradient = random.randn(5)
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimiser.step()
        weight = weight - 1e-2 * (np.sign(0.9 * mean + 0.1 * gradient) + 0.1 * weight)
        mean = 0.99 * mean + 0.01 * gradient
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=2e-6, atol=1e-7)


def test_muon_turns_matrices_like_torch_s_and_steps_the_rest_like_adamw():
    settings, ours, theirs = OptimiserSettings(name="muon", learning_rate=1e-2, weight_decay=0.1), parameters(), parameters()
    take_steps(build_optimiser(settings, list(ours.values())), ours, range(4))
    take_steps(torch.optim.AdamW([theirs["b:odd"]], lr=1e-2, weight_decay=0.1), theirs, range(4))
    again = parameters()
    reference = torch.optim.Muon([again["a.weight"]], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    take_steps(reference, again, range(4))
    torch.testing.assert_close(ours["a.weight"], again["a.weight"], rtol=0, atol=4 * 1e-2 * 0.03)  # torch iterates in BF16
    torch.testing.assert_close(ours["b:odd"], theirs["b:odd"], rtol=1e-6, atol=1e-7)


def test_muon_turns_matrices_of_one_size_together_as_it_does_one_by_one(monkeypatch):
    """Together is how an accelerator does it."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in ((8, 24), (24, 8), (8, 8), (16, 20), (8, 12))]
    alone = optimisers.orthogonal(matrices)
    assert optimisers._together(matrices) == [[0], [1], [2], [3], [4]]
    monkeypatch.setattr(optimisers, "_together", lambda wide: [[0, 1, 2, 4], [3]])
    for one, other, matrix in zip(alone, optimisers.orthogonal(matrices), matrices, strict=True):
        assert one.shape == matrix.shape
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STATE_OF)  # the others: test_optimiser_kinds.py
def test_a_restored_optimiser_goes_on_bit_for_bit(name):
    settings, straight, first, second = OptimiserSettings(name=name, learning_rate=1e-2), parameters(), parameters(), parameters()
    take_steps(build_optimiser(settings, list(straight.values())), straight, range(6))
    optimiser = build_optimiser(settings, list(first.values()))
    take_steps(optimiser, first, range(3))
    stored = optimiser_tensors(optimiser, list(first))
    assert {key.rpartition(":")[0] for key in stored} == set(first) and {key.rpartition(":")[2] for key in stored} == STATE_OF[name]
    with torch.no_grad():
        for name, parameter in second.items():
            parameter.copy_(first[name])
    again = build_optimiser(settings, list(second.values()))
    restore_optimiser(again, list(second), {name: tensor.clone() for name, tensor in stored.items()})
    take_steps(again, second, range(3, 6))
    assert all(torch.equal(second[name], straight[name]) for name in straight)


def test_a_state_of_other_parameters_is_refused():
    optimiser = build_optimiser(OptimiserSettings(), list(parameters().values()))
    with pytest.raises(InputError, match=r"c\.weight"):
        restore_optimiser(optimiser, list(parameters()), {"c.weight:exp_avg": torch.zeros(1)})


def test_clipping_shortens_and_reports_the_length_before():
    own = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    own[0].grad, own[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(own, 0.0).item() == pytest.approx(5.0)
    assert own[1].grad.item() == 4.0
    assert clip_gradients(own, 1.0).item() == pytest.approx(5.0)
    assert math.hypot(own[0].grad[0].item(), own[1].grad.item()) == pytest.approx(1.0, rel=1e-5)


def test_clipping_leaves_a_broken_gradient_where_it_broke():
    own = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    own[0].grad, own[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([math.nan])
    assert math.isnan(clip_gradients(own, 1.0).item())
    assert own[0].grad.tolist() == [3.0, 0.0] and math.isnan(own[1].grad.item())


def test_clipping_is_torchs_own_arithmetic():
    own, theirs = ([nn.Parameter(torch.zeros(7, 5)), nn.Parameter(torch.zeros(3))] for _ in range(2))
    for index, pair in enumerate(zip(own, theirs, strict=True)):
        for parameter in pair:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    assert torch.equal(clip_gradients(own, 0.7), nn.utils.clip_grad_norm_(theirs, 0.7))
    assert all(torch.equal(mine.grad, other.grad) for mine, other in zip(own, theirs, strict=True))


def test_the_running_average():
    assert [ema_decay(0.99, step) for step in (0, 8, 10_000)] == [0.1, 0.5, 0.99]
    average, weights = {"a": torch.tensor([1.0])}, {"a": torch.tensor([3.0]), "frozen": torch.tensor([9.0])}
    update_ema(average, weights, 0.75)
    assert average["a"].item() == pytest.approx(1.5)  # 0.75 * 1 + 0.25 * 3

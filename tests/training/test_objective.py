"""The objective against analytic distributions and formulas worked out apart from it."""

from __future__ import annotations

import math

import pytest
import torch
from graft.training.objective import (
    BUCKETS,
    HELD_OUT_TIMES,
    Draws,
    bucket_sums,
    draw,
    draw_times,
    drop_captions,
    flow_matching_loss,
    held_out_draws,
    resolution_shift,
    shifted,
)
from graft.training.settings import DENSITIES, ObjectiveSettings
from graft.training.trainable.base import Conditions

COUNT = 20_000
# Kolmogorov-Smirnov at a level of one in a thousand: 1.95 / sqrt(n).
KS_LIMIT = 1.95 / math.sqrt(COUNT)


def times(tokens: int = 1024, **fields) -> torch.Tensor:
    return draw_times(ObjectiveSettings(**fields), tokens, COUNT, torch.Generator().manual_seed(1)).double()


def distance(sample: torch.Tensor, distribution) -> float:
    """The largest distance between the sample's distribution function and the given one."""
    ordered = sample.sort().values
    expected = distribution(ordered)
    steps = torch.arange(COUNT + 1, dtype=torch.float64) / COUNT
    return max((expected - steps[:-1]).abs().max().item(), (expected - steps[1:]).abs().max().item())


def normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def logit_normal_cdf(mean: float, std: float):
    return lambda t: normal_cdf((torch.logit(t) - mean) / std)


def test_uniform():
    assert distance(times(density="uniform"), lambda t: t) < KS_LIMIT


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5)])
def test_logit_normal(mean, std):
    assert distance(times(density="logit_normal", logit_mean=mean, logit_std=std), logit_normal_cdf(mean, std)) < KS_LIMIT
    assert distance(times(density="logit_normal", logit_mean=mean + 0.1, logit_std=std), logit_normal_cdf(mean, std)) > KS_LIMIT


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (2176, 0.825)])
def test_flux_shift_is_a_logit_normal_whose_mean_is_mu(tokens, mu):
    # e^mu / (e^mu + 1/t - 1) with t = sigmoid(z) is sigmoid(z + mu).
    assert distance(times(tokens, density="flux_shift"), logit_normal_cdf(mu, 1.0)) < KS_LIMIT


@pytest.mark.parametrize("scale", [1.29, -0.5, 0.0])
def test_mode(scale):
    def distribution(t: torch.Tensor) -> torch.Tensor:
        """P(f(u) <= t) for u uniform, by inverting the falling map f on a fine grid."""
        u = torch.linspace(1, 0, 200_001, dtype=torch.float64)
        f = 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
        return 1 - u[torch.searchsorted(f, t).clamp(max=len(u) - 1)]

    assert distance(times(density="mode", mode_scale=scale), distribution) < KS_LIMIT


@pytest.mark.parametrize("density", DENSITIES)
def test_times_lie_between_data_and_noise(density):
    t = times(density=density)
    assert t.min() >= 0 and t.max() <= 1 and t.std() > 0.1


def test_shift_and_its_line():
    settings = ObjectiveSettings()
    ends = settings.shift_at_256_tokens, settings.shift_at_4096_tokens
    assert resolution_shift(256, *ends) == 0.5 and resolution_shift(4096, *ends) == pytest.approx(1.15)
    assert [resolution_shift(tokens, 0.0, 2.0) for tokens in (256, 2176, 4096)] == [0.0, 1.0, 2.0]
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    # alpha t / (1 + (alpha - 1) t) with alpha = e^mu = 3: 0, 1/2, 3/4, 1.
    torch.testing.assert_close(shifted(t, math.log(3)), torch.tensor([0.0, 0.5, 0.75, 1.0], dtype=torch.float64))


def test_the_network_sees_x_t_and_is_compared_with_noise_minus_data():
    x_0, n = torch.full((2, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), -1.0)
    t, guidance = torch.tensor([0.25, 1.0]), torch.tensor([3.5, 1.0])
    seen = {}

    def predict(x_t, times, conditions, scale):
        seen.update(x_t=x_t, t=times, guidance=scale)
        return torch.full_like(x_t, -3.5)

    conditions = Conditions(torch.zeros(2, 1, 1), torch.zeros(2, 1))
    loss = flow_matching_loss(predict, x_0, conditions, Draws(n, t, guidance, torch.zeros(2, dtype=torch.bool)), torch.float32)
    assert seen["x_t"][:, 0, 0, 0].tolist() == [0.75 * 3 - 0.25, -1.0]  # (1-t) x_0 + t n
    assert torch.equal(seen["t"], t) and torch.equal(seen["guidance"], guidance)
    assert loss.tolist() == [0.25, 0.25]  # (-3.5 - (-1 - 3))^2


def test_the_loss_is_fp32_when_the_network_computes_in_bf16():
    draws = held_out_draws(ObjectiveSettings(), [0], 0.5, (2, 4, 4))
    loss = flow_matching_loss(
        lambda x_t, *_: x_t, torch.ones(1, 2, 4, 4), Conditions(torch.zeros(1), torch.zeros(1)), draws, torch.bfloat16
    )
    assert loss.dtype == torch.float32
    expected = (((1 + draws.noise) / 2).bfloat16().float() - (draws.noise - 1)).pow(2).mean()
    torch.testing.assert_close(loss[0], expected)


def test_draws_do_not_depend_on_how_the_stream_is_cut():
    settings = ObjectiveSettings(caption_dropout=0.5)
    whole, parts = draw(settings, 3, range(4, 8), (2, 4, 4)), [draw(settings, 3, range(first, first + 2), (2, 4, 4)) for first in (4, 6)]
    for name in ("noise", "t", "guidance", "dropped"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    assert not torch.equal(draw(settings, 4, range(4, 8), (2, 4, 4)).noise, whole.noise)


def test_noise_is_standard_normal_and_a_sample_s_own():
    noise = draw(ObjectiveSettings(), 0, range(64), (4, 8, 8)).noise
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert len({sample.sum().item() for sample in noise}) == 64


def test_guidance_is_drawn_evenly_in_its_range_or_constant():
    draws = draw(ObjectiveSettings(guidance=(1.0, 7.0)), 0, range(1000), (1, 2, 2))
    assert draws.guidance.min() >= 1 and draws.guidance.max() <= 7
    assert abs(draws.guidance.mean() - 4) < 0.2 and abs(draws.guidance.std() - 6 / math.sqrt(12)) < 0.1
    assert set(draw(ObjectiveSettings(guidance=(3.5, 3.5)), 0, range(5), (1, 2, 2)).guidance.tolist()) == {3.5}
    assert abs(torch.corrcoef(torch.stack([draws.guidance, draws.t]))[0, 1]) < 0.1


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_captions_are_dropped_at_the_asked_rate(rate):
    dropped = draw(ObjectiveSettings(caption_dropout=rate), 0, range(1000), (1, 2, 2)).dropped
    assert abs(dropped.float().mean() - rate) < 0.04  # 3 standard deviations are 0.043 at the most


def test_a_dropped_caption_is_the_empty_one_and_the_hint_stays():
    conditions = Conditions(torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.ones(2, 5, dtype=torch.bfloat16), torch.rand(2, 3, 4, 4))
    left = drop_captions(conditions, torch.tensor([True, False]), torch.zeros(3, 4), torch.full((5,), 2.0))
    assert left.text.dtype == torch.bfloat16 and left.hint is conditions.hint
    assert left.text[0].unique().tolist() == [0] and left.text[1].unique().tolist() == [1]
    assert left.pooled[0].unique().tolist() == [2] and left.pooled[1].unique().tolist() == [1]


def test_held_out_draws_leave_nothing_to_chance():
    settings = ObjectiveSettings(guidance=(1.0, 4.0), caption_dropout=1.0)
    draws, again = held_out_draws(settings, [5, 2], 0.3, (1, 2, 2)), held_out_draws(settings, [2], 0.9, (1, 2, 2))
    assert draws.t.tolist() == pytest.approx([0.3, 0.3]) and draws.guidance.tolist() == [2.5, 2.5] and not draws.dropped.any()
    assert torch.equal(draws.noise[1], again.noise[0])
    assert pytest.approx([0.0625, 0.1875]) == HELD_OUT_TIMES[:2] and len(HELD_OUT_TIMES) == BUCKETS


def test_bucket_sums_add_up():
    t, losses = [0.0, 0.124, 0.125, 0.5, 1.0], [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bucket_sums(t, losses) == {0: (3.0, 2), 1: (4.0, 1), 4: (8.0, 1), 7: (16.0, 1)}

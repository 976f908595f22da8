"""Sampling against diffusers' scheduler, against figures computed by hand, and what makes a picture depend on its own seed only."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from graft.training.errors import InputError
from graft.training.models.flux import ControlResiduals, Flux, FluxConfig
from graft.training.sample import (
    LATENT_SCALE,
    LATENT_SHIFT,
    euler,
    noised,
    percent_to_sigma,
    picture_noise,
    resolution_shift,
    sample,
    simple_sigmas,
)
from torch import nn


def flow_time(share: Fraction, mu: float = 1.15) -> float:
    """Independent of the module: written from the formula, in double precision, from an exact share of the table."""
    return 0.0 if share == 0 else 1.0 / (1.0 + math.exp(-mu) * float(1 / share - 1))


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("steps", "table_rows"),
    [
        (1, [10000]),
        (2, [10000, 5000]),
        (3, [10000, 6667, 3334]),
        (4, [10000, 7500, 5000, 2500]),
        (7, [10000, 8572, 7143, 5715, 4286, 2858, 1429]),
    ],
)
def test_simple_schedule_takes_these_rows_of_the_table(steps: int, table_rows: list[int]) -> None:
    expected = [flow_time(Fraction(row, 10000)) for row in table_rows] + [0.0]
    torch.testing.assert_close(simple_sigmas(steps, 1.15), torch.tensor(expected), rtol=2e-7, atol=0)


def test_denoise_keeps_the_tail_of_a_longer_schedule() -> None:
    expected = [flow_time(Fraction(row, 10000)) for row in (5000, 4000, 3000, 2000, 1000)] + [0.0]
    torch.testing.assert_close(simple_sigmas(5, 1.15, denoise=0.5), torch.tensor(expected), rtol=2e-7, atol=0)
    assert len(simple_sigmas(5, 1.15, denoise=0.0)) == 0
    assert torch.equal(simple_sigmas(5, 1.15, denoise=0.99995), simple_sigmas(5, 1.15))


def test_schedule_equals_diffusers_dynamic_shift() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 20, 20).tolist(), mu=0.8)
    torch.testing.assert_close(simple_sigmas(20, 0.8), scheduler.sigmas, rtol=1e-6, atol=0)


def test_shares_of_the_schedule_as_flow_times() -> None:
    assert [percent_to_sigma(share) for share in (-0.1, 0.0, 1.0, 1.5)] == [1.0, 1.0, 0.0, 0.0]
    assert percent_to_sigma(0.25, 1.15) == pytest.approx(flow_time(Fraction(3, 4)), rel=1e-12)
    assert percent_to_sigma(0.5, 0.0) == pytest.approx(0.5)


def test_resolution_shift_is_the_line_through_its_two_points() -> None:
    assert [resolution_shift(tokens) for tokens in (256, 4096)] == pytest.approx([0.5, 1.15])
    assert resolution_shift(1024) == pytest.approx(0.63)


@pytest.mark.parametrize(("steps", "denoise"), [(0, 1.0), (-3, 1.0), (10001, 1.0), (20, -0.1), (20, 1.1), (20, float("nan")), (500, 0.01)])
def test_impossible_schedules_are_refused(steps: int, denoise: float) -> None:
    with pytest.raises(InputError):
        simple_sigmas(steps, 1.15, denoise)


# ---------------------------------------------------------------- solver


def test_euler_equals_diffusers_step_by_step() -> None:
    sigmas = simple_sigmas(9, 1.15)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].tolist())
    start = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(3))

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.sin(3 * x) * t + x

    x = start
    for timestep in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(timestep) / 1000), timestep, x).prev_sample
    torch.testing.assert_close(euler(velocity, start, sigmas), x, rtol=1e-5, atol=1e-6)


def test_euler_of_growth_by_hand() -> None:
    made = euler(lambda x, t: x, torch.tensor([8.0]), torch.tensor([1.0, 0.5, 0.25, 0.0]))
    assert made.item() == 8 * 0.5 * 0.75 * 0.75


def test_a_straight_path_arrives_exactly() -> None:
    latents, noise = torch.full((1, 2), 3.0), torch.full((1, 2), -1.0)
    assert torch.equal(noised(latents, noise, 1.0), noise)
    start = noised(latents, noise, float(simple_sigmas(4, 1.15, 0.5)[0]))
    torch.testing.assert_close(euler(lambda x, t: noise - latents, start, simple_sigmas(4, 1.15, 0.5)), latents)


class Watcher:
    def __init__(self, stop_at: int = -1) -> None:
        self.heard: list[object] = []
        self.asked, self.stop_at = 0, stop_at

    def start(self, total: int, unit: str) -> None:
        self.heard.append((total, unit))

    def advance(self, done: int, **values: float) -> None:
        self.heard.append(done)

    def finish(self) -> None:
        self.heard.append("finished")

    def check_interrupt(self) -> None:
        self.asked += 1
        if self.asked == self.stop_at:
            raise KeyboardInterrupt


def test_progress_is_told_and_an_interrupt_passes_through() -> None:
    watcher = Watcher()
    euler(lambda x, t: x, torch.ones(1), simple_sigmas(3), watcher)
    assert watcher.heard == [(3, "step"), 1, 2, 3, "finished"]
    stopped = Watcher(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        euler(lambda x, t: x, torch.ones(1), simple_sigmas(3), stopped)
    assert stopped.heard == [(3, "step"), 1, "finished"]


# ---------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def model() -> Flux:
    torch.manual_seed(0)
    config = FluxConfig(
        hidden_size=32,
        head_dim=16,
        double_depth=1,
        single_depth=1,
        in_channels=16,
        context_width=12,
        vector_width=8,
        mlp_width=64,
        guidance=True,
        axes=(4, 6, 6),
    )
    return Flux(config).requires_grad_(False)


@pytest.fixture
def prompt() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 5, 12, generator=generator), torch.randn(3, 8, generator=generator)


class ConstantControl(nn.Module):
    """Adds its weight everywhere; remembers the flow times at which it was asked and the hints that it got."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((32,), 0.5))
        self.times: list[float] = []

    def forward(self, image, hint, image_ids, text, text_ids, t, pooled, guidance=None) -> ControlResiduals:
        self.times.append(round(float(t[0]), 6))
        residual = self.weight * hint.mean(dim=(1, 2, 3))[:, None, None] + image.new_zeros(*image.shape[:2], 1)
        return ControlResiduals((residual,), (residual,), "modulo")


def test_noise_depends_on_the_pictures_own_seed() -> None:
    both, alone = picture_noise([7, 8], 4, 6, 8), picture_noise([8], 4, 6, 8)
    assert both.shape == (2, 4, 6, 8) and torch.equal(both[1:], alone)
    torch.manual_seed(123)
    assert torch.equal(picture_noise([8], 4, 6, 8), alone)


def test_sampling_is_the_euler_solution_in_raw_space(model: Flux, prompt) -> None:
    noise = picture_noise([1, 2, 3], 4, 6, 8)
    made = sample(model, *prompt, noise, steps=1, guidance=2.0)
    from graft.training.models.flux import image_ids, pack, text_ids, unpack

    one, two = torch.ones(3), torch.full((3,), 2.0)
    velocity = unpack(model(pack(noise), image_ids(6, 8), prompt[0], text_ids(5), one, prompt[1], two), 6, 8)
    torch.testing.assert_close(made, (noise - velocity) / 0.3611 + 0.1159)
    assert (LATENT_SCALE, LATENT_SHIFT) == (0.3611, 0.1159)


def test_batches_and_neighbours_change_nothing(model: Flux, prompt) -> None:
    noise, watcher = picture_noise([1, 2, 3], 4, 6, 8), Watcher()
    at_once = sample(model, *prompt, noise, steps=3)
    in_parts = sample(model, *prompt, noise, steps=3, batch_size=2, progress=watcher)
    torch.testing.assert_close(in_parts, at_once, rtol=1e-5, atol=1e-5)
    assert watcher.heard == [(6, "step"), 1, 2, 3, 4, 5, 6, "finished"]
    assert not torch.allclose(sample(model, *prompt, noise.flip(0), steps=3), at_once)


def test_shift_none_follows_the_resolution(model: Flux, prompt) -> None:
    noise = picture_noise([1, 2, 3], 4, 6, 8)
    expected = sample(model, *prompt, noise, steps=3, shift=resolution_shift(12))
    assert torch.equal(sample(model, *prompt, noise, steps=3, shift=None), expected)


def test_control_acts_between_start_and_end_only(model: Flux, prompt) -> None:
    noise, hint, network = picture_noise([1, 2, 3], 4, 6, 8), torch.ones(3, 3, 48, 64), ConstantControl()
    sample(model, *prompt, noise, steps=8, controlnet=network, hint=hint, start=0.25, end=0.75)
    assert network.times == [round(float(t), 6) for t in simple_sigmas(8)[2:7]]


def test_strength_scales_the_residuals(model: Flux, prompt) -> None:
    noise, hint, network = picture_noise([1, 2, 3], 4, 6, 8), torch.ones(3, 3, 48, 64), ConstantControl()
    base = sample(model, *prompt, noise, steps=2)
    assert torch.equal(sample(model, *prompt, noise, steps=2, controlnet=network, hint=hint, strength=0.0), base)
    halved = sample(model, *prompt, noise, steps=2, controlnet=network, hint=hint, strength=0.5)
    half_hint = sample(model, *prompt, noise, steps=2, controlnet=network, hint=hint / 2)
    torch.testing.assert_close(halved, half_hint)
    assert not torch.allclose(halved, base)


def test_hints_stay_with_their_pictures_in_parts(model: Flux, prompt) -> None:
    noise, hint = picture_noise([1, 2, 3], 4, 6, 8), torch.arange(3.0)[:, None, None, None].expand(3, 3, 48, 64)
    at_once = sample(model, *prompt, noise, steps=2, controlnet=ConstantControl(), hint=hint)
    in_parts = sample(model, *prompt, noise, steps=2, controlnet=ConstantControl(), hint=hint, batch_size=1)
    torch.testing.assert_close(in_parts, at_once, rtol=1e-5, atol=1e-5)


def test_cfg_moves_away_from_the_negative_prompt(model: Flux, prompt) -> None:
    noise, negative = picture_noise([1, 2, 3], 4, 6, 8), (torch.zeros(1, 4, 12), torch.zeros(1, 8))
    wanted = sample(model, *prompt, noise, steps=1)
    unwanted = sample(model, negative[0].expand(3, 4, 12), negative[1].expand(3, 8), noise, steps=1)
    made = sample(model, *prompt, noise, steps=1, cfg=3.0, negative=negative)
    torch.testing.assert_close(made, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-4)


def test_a_bf16_base_with_an_fp32_control(model: Flux, prompt) -> None:
    noise, hint = picture_noise([1, 2, 3], 4, 6, 8), torch.ones(3, 3, 48, 64)
    narrow = Flux(model.config).to(torch.bfloat16).requires_grad_(False)
    narrow.load_state_dict(model.state_dict())
    made = sample(narrow, *prompt, noise, steps=2, controlnet=ConstantControl(), hint=hint)
    exact = sample(model, *prompt, noise, steps=2, controlnet=ConstantControl(), hint=hint)
    assert made.dtype == torch.float32 and (made - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"controlnet": ConstantControl()}, "hint"),
        ({"controlnet": ConstantControl(), "hint": torch.ones(2, 3, 48, 64)}, "hints"),
        ({"controlnet": ConstantControl(), "hint": torch.ones(3, 3, 48, 64), "start": 0.8, "end": 0.2}, "start and end"),
        ({"controlnet": ConstantControl(), "hint": torch.ones(3, 3, 48, 64), "strength": float("nan")}, "strength"),
        ({"cfg": 2.0}, "cfg"),
        ({"steps": 0}, "steps"),
        ({"noise": torch.zeros(2, 4, 6, 8)}, "pictures to sample"),
        ({"noise": torch.zeros(0, 4, 6, 8)}, "pictures to sample"),
    ],
)
def test_what_cannot_be_sampled_is_refused(model: Flux, prompt, changed: dict, named: str) -> None:
    arguments = {"noise": torch.zeros(3, 4, 6, 8), **changed}
    with pytest.raises(InputError, match=named):
        sample(model, *prompt, **arguments)

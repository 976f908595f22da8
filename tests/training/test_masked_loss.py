"""What is masked is not learnt: the loss, its gradient, and a training on pictures that are wrong where they are masked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graft.training.data.batches import load_batch
from graft.training.loop import batch_losses, conditions_of, held_out_loss, train_step
from graft.training.objective import Draws, draw, drop_captions, flow_matching_loss
from graft.training.trainable.base import Conditions


def test_the_loss_is_the_weighted_mean_over_all_cells():
    generator = torch.Generator().manual_seed(0)
    x_0, n, velocity = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))
    draws = Draws(n, torch.full((2,), 0.5), torch.ones(2), torch.zeros(2, dtype=torch.bool))
    weights = torch.rand(2, 1, 4, 4, generator=generator)
    conditions = Conditions(torch.zeros(2, 1, 1), torch.zeros(2, 1), None)
    loss = flow_matching_loss(lambda *_: velocity, x_0, conditions, draws, torch.float32, weights)
    error = (velocity.double() - (n - x_0).double()) ** 2
    expected = [(error[row] * weights[row].double()).sum().item() / error[row].numel() for row in range(2)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-6)
    whole = flow_matching_loss(lambda *_: velocity, x_0, conditions, draws, torch.float32)
    assert torch.equal(flow_matching_loss(lambda *_: velocity, x_0, conditions, draws, torch.float32, torch.ones(2, 1, 4, 4)), whole)


class Source:
    """Batches whose latents are spoilt by a constant on their right half, with or without a mask that says so."""

    def __init__(self, data, masked: bool, spoilt: float = 3.0) -> None:
        self._data, self._masked, self._spoilt = data, masked, spoilt

    def batch(self, number: int):
        batch = load_batch(self._data, [(number % self._data.train_size, 0), ((number + 1) % self._data.train_size, 0)], 0)
        latents, weights = batch.latents.clone(), torch.ones(2, 1, *batch.latents.shape[2:])
        half = latents.shape[-1] // 2
        latents[..., half:] += self._spoilt
        weights[..., half:] = 0
        return replace(batch, latents=latents, loss_weights=weights if self._masked else None)


def gradient(learner, batch) -> dict[str, torch.Tensor]:
    loss, _ = batch_losses(learner, learner.predict, batch, 0)
    masters = learner.weights.masters
    return dict(zip(masters, torch.autograd.grad(loss.mean(), list(masters.values())), strict=True))


def test_the_gradient_is_that_of_the_cells_that_count(tiny_data, tiny_learner):
    """Against a loss that is put together of the left half alone."""
    batch, learner = Source(tiny_data, masked=True).batch(0), tiny_learner()
    draws = draw(learner.settings.objective, learner.settings.seed, range(2), batch.latents.shape[1:])
    conditions = drop_captions(conditions_of(batch, learner), draws.dropped, batch.empty_text, batch.empty_pooled)
    t = draws.t[:, None, None, None]
    x_t = (1 - t) * batch.latents + t * draws.noise
    error = (learner.predict(x_t, draws.t, replace(conditions, seeds=draws.seeds), draws.guidance) - (draws.noise - batch.latents)).square()
    half = error.shape[-1] // 2
    expected = torch.autograd.grad(error[..., :half].sum() / error.numel(), list(learner.weights.masters.values()))
    for own, other in zip(gradient(learner, batch).values(), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-7)


def test_what_lies_under_the_mask_is_learnt_less(tiny_data, tiny_learner):
    """Pictures are spoilt on their right half: without a mask the right answers to clean pictures are unlearnt, with one far less."""
    lost = {}
    for masked in (False, True):
        learner = tiny_learner(learning_rate=5e-3, shape="constant", evaluate_samples=3)
        for _ in range(20):
            train_step(learner, Source(tiny_data, masked))
        lost[masked] = held_out_loss(learner, tiny_data).held_out
    assert lost[True] < 0.85 * lost[False]

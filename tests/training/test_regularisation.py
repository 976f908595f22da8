"""Pictures that must not change, beside the data: what they add to a gradient, that all else stays as it is, and that they are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from graft.training.data.batches import Batches, batch_indices, load_batch
from graft.training.data.index import SampleTable
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.guard import NonFiniteError
from graft.training.loop import conditions_of, held_out_loss, train_step
from graft.training.objective import draw, drop_captions, flow_matching_loss
from graft.training.plots import PRIOR_COLOR, loss_plot
from graft.training.regularisation import PriorBatches, Regularisation, regularisation_of
from graft.training.report import training_report
from graft.training.store import RunStore


@pytest.fixture
def prior_data(tiny_data):
    """The same pictures in another role: what was held out is trained on, with captions that the data has not."""
    return replace(tiny_data, key="of others", train=tiny_data.held_out, held_out=first(tiny_data, 3))


def first(data, count: int) -> SampleTable:
    """The first training samples of a data set."""
    return SampleTable(data.index, data.train.entries[:count])


@pytest.fixture
def step_of(tiny_data, tiny_learner):
    """One step's record, and the gradient that it was taken by."""

    def run(prior_data=None, weight: float = 1.0, **changes):
        learner = tiny_learner(clip_norm=0.0, **changes)
        gradients: dict[str, torch.Tensor] = {}
        update = learner.update

        def spy(rate: float) -> float:
            gradients.update({name: master.grad.clone() for name, master in learner.weights.masters.items()})
            return update(rate)

        learner.update = spy
        settings = learner.settings
        with Batches(tiny_data, seed=settings.seed, batch_size=settings.batch_size, workers=0) as batches:
            if prior_data is None:
                return train_step(learner, batches), gradients
            with PriorBatches(Regularisation(prior_data, weight), settings) as prior:
                return train_step(learner, batches, prior=prior), gradients

    return run


def own_gradient(learner, data, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of the first batch of a data set, put together apart from the loop."""
    settings = learner.settings
    batch = load_batch(data, batch_indices(seed, 0, settings.batch_size, data.train_size), seed)
    draws = draw(settings.objective, seed, range(settings.batch_size), batch.latents.shape[1:])
    conditions = drop_captions(conditions_of(batch, learner), draws.dropped, batch.empty_text, batch.empty_pooled)
    loss = flow_matching_loss(learner.predict, batch.latents, conditions, draws, torch.float32)
    masters = learner.weights.masters
    return loss.detach(), dict(zip(masters, torch.autograd.grad(loss.mean(), list(masters.values())), strict=True))


def test_the_gradient_is_that_of_both_losses_the_second_weighted(step_of, tiny_learner, prior_data):
    record, gradients = step_of(prior_data, 0.25)
    alone, of_data = step_of()
    learner = tiny_learner()
    loss, of_others = own_gradient(learner, prior_data, PriorBatches(Regularisation(prior_data), learner.settings).seed)
    assert record.loss == alone.loss and record.buckets == alone.buckets, "nothing that is drawn for the data has changed"
    assert alone.regularisation is None and record.regularisation == pytest.approx(loss.mean().item(), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_data[name] + 0.25 * of_others[name], rtol=1e-5, atol=1e-7)
    assert any(of_others[name].abs().max() > 1e-4 for name in of_others)


def test_accumulated_batches_count_as_one_larger(step_of, prior_data):
    whole, of_whole = step_of(prior_data, 0.5, batch_size=2)
    parts, of_parts = step_of(prior_data, 0.5, batch_size=1, accumulation=2)
    assert whole.regularisation == pytest.approx(parts.regularisation, rel=1e-5)
    for name, gradient in of_whole.items():
        torch.testing.assert_close(gradient, of_parts[name], rtol=1e-4, atol=1e-7)


def test_two_and_two_steps_are_four_and_an_interrupt_changes_nothing(tiny_train, tiny_settings, prior_data, tmp_path, stop_at):
    regularisation = Regularisation(prior_data, 0.5)
    straight = tiny_train(4, regularisation=regularisation)
    store = RunStore(tmp_path / "elsewhere")
    parts = tiny_train(2, store=store, regularisation=regularisation)
    parts = tiny_train(2, store=store, regularisation=regularisation, previous=parts)
    assert parts.run_key == straight.run_key and fingerprint(parts.weights()) == fingerprint(straight.weights())
    store, progress = RunStore(tmp_path / "stopped"), stop_at(3)
    with pytest.raises(progress.Stop):
        tiny_train(4, store=store, regularisation=regularisation, progress=progress)
    assert fingerprint(tiny_train(4, store=store, regularisation=regularisation).weights()) == fingerprint(straight.weights())


def test_it_is_part_of_the_key_where_it_is_used_and_nowhere_else(tiny_train, prior_data):
    plain = tiny_train(1)
    assert "regularisation" not in plain.inputs() and tiny_train(1, regularisation=regularisation_of(prior_data, 0.0)) == plain
    assert b"regularisation" not in (plain.folder / "losses.jsonl").read_bytes()
    one, half = (tiny_train(1, regularisation=Regularisation(prior_data, weight)) for weight in (1.0, 0.5))
    other = tiny_train(1, regularisation=Regularisation(replace(prior_data, key="of still others")))
    assert len({state.run_key for state in (plain, one, half, other)}) == 4
    assert half.inputs()["regularisation"] == {"data_key": "of others", "weight": 0.5}


def test_its_loss_is_reported_apart(tiny_train, prior_data):
    state = tiny_train(2, regularisation=Regularisation(prior_data))
    losses, report = state.history().regularisation, training_report(state)
    assert len(losses) == 2 and report["regularisation_loss"] == pytest.approx(sum(losses) / 2)
    assert report["regularisation"] == {"data_key": "of others", "weight": 1.0}
    later = tiny_train(1, previous=state)
    assert later.history().regularisation[:2] == losses and later.history().regularisation[2] != later.history().regularisation[2], "NaN"
    assert "regularisation_loss" not in training_report(tiny_train(1)) and tiny_train(1).history().regularisation == ()
    with_it, without = loss_plot([1.0, 2.0, 3.0], regularisation=[2.0, 1.5, 1.0]), loss_plot([1.0, 2.0, 3.0])
    assert (with_it == PRIOR_COLOR).all(axis=-1).any() and not (without == PRIOR_COLOR).all(axis=-1).any()


@pytest.mark.slow
def test_what_is_kept_beside_the_data_is_learnt_with_it(tiny_data, tiny_learner, prior_data):
    """Trained on two pictures until it knows them by heart, it does worse on others than with these beside the two."""
    two, lost = replace(tiny_data, train=first(tiny_data, 2)), {}
    for beside in (False, True):
        learner = tiny_learner(learning_rate=5e-3, shape="constant", evaluate_samples=3)
        with Batches(two, seed=1, batch_size=2, workers=0) as batches, PriorBatches(Regularisation(prior_data, 2.0), learner.settings) as prior:
            for _ in range(25):
                train_step(learner, batches, prior=prior if beside else None)
        lost[beside] = held_out_loss(learner, replace(tiny_data, held_out=prior_data.train)).held_out
    assert lost[True] < 0.98 * lost[False]


def test_pictures_that_give_no_finite_loss_are_named(tiny_data, tiny_learner, prior_data, monkeypatch):
    learner = tiny_learner()
    with PriorBatches(Regularisation(prior_data), learner.settings) as prior, Batches(tiny_data, seed=7, batch_size=2, workers=0) as batches:
        real = prior.batch
        broken = replace(real(0), pooled=real(0).pooled * float("nan"))
        monkeypatch.setattr(PriorBatches, "batch", lambda self, number: broken)
        with pytest.raises(NonFiniteError, match=r"regularisation pictures .*pooled of batch 0"):
            train_step(learner, batches, prior=prior)
    assert learner.step == 0


def test_pictures_of_another_form_are_refused_before_any_work(tiny_train, tiny_data_in, tmp_path, store):
    with pytest.raises(InputError, match="hint"):
        tiny_train(1, regularisation=Regularisation(tiny_data_in(tmp_path / "plain", "none")))
    assert not store.runs()


@pytest.mark.parametrize("weight", [-1.0, 0.0, 101.0, float("nan")])
def test_weights_without_sense_are_refused(weight, tiny_data):
    with pytest.raises(InputError, match="regularisation weight"):
        Regularisation(tiny_data, weight)


def test_what_is_noted_is_plain_json(tiny_train, prior_data):
    state = tiny_train(1, regularisation=Regularisation(prior_data))
    lines = [json.loads(line) for line in (state.folder / "losses.jsonl").read_text("utf-8").splitlines()]
    assert [line["regularisation"] for line in lines if "loss" in line] == [pytest.approx(state.history().steps[0].regularisation)]

"""A sweep is its single runs: the same keys, the same numbers to rounding, found, resumed and stopped as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graft.training import sweep, sweep_loop
from graft.training.data.encode import encode_dataset
from graft.training.data.folder import ImageFolder
from graft.training.data.shapes import write_dataset
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.guard import NonFiniteError
from graft.training.loop import apply_step
from graft.training.models.flux import Flux
from graft.training.models.nano import load_nano
from graft.training.state import State
from graft.training.store import RunStore
from graft.training.sweep import Member, members_of, train_sweep
from graft.training.train_to import train_to
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.lora import LoraRecipe
from graft.training.weights import own_module

RECIPE = LoraRecipe(rank=2, alpha=3.0, layers="all_linears", dropout=0.25, seed=1)
CPU = torch.device("cpu")
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4
"""Largest relative difference of any step's loss; and of the weights' way from where they began, as a share of its length."""


@pytest.fixture
def data(tiny_data_in, tmp_path):
    return tiny_data_in(tmp_path / "pictures", "none")


@pytest.fixture
def run_sweep(tiny_base, data, store):
    def run(members, steps, **changes):
        return train_sweep(tiny_base, members, data, **{"steps": steps, "store": store, "device": CPU, **changes})

    return run


@pytest.fixture
def run_single(tiny_train, data, store):
    return lambda member, steps, **changes: tiny_train(steps, member.settings, **{"recipe": member.recipe, "data": data, "store": store, **changes})


@pytest.fixture
def members(tiny_settings) -> list[Member]:
    """Of different ranks, rates and seeds, one of fewer layers at another guidance with dropout of its own, one with another optimiser."""
    settings = tiny_settings(accumulation=2, ema_decay=0.9, checkpointing=True, evaluate_every=2)
    made = members_of(RECIPE, settings, learning_rates=[2e-3], ranks=[1, 3], seeds=[1, 5])[1:]
    lion = replace(settings, optimiser=replace(settings.optimiser, name="lion", learning_rate=3e-4), clip_norm=0.5)
    other = LoraRecipe(rank=4, layers="attention", guidance=2.5, dropout=0.5)
    return [*made, Member(name="lion", recipe=RECIPE, settings=lion), Member(name="attention", recipe=other, settings=settings)]


def way(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """All trained weights in a row."""
    return torch.cat([tensor.flatten() for name, tensor in sorted(weights.items()) if not name.endswith("alpha")])


@pytest.fixture
def nothing_trains(monkeypatch):
    def made(*_):
        raise AssertionError("something was trained")

    monkeypatch.setattr(sweep, "Learner", made)
    monkeypatch.setattr("graft.training.train_to.Learner", made)


def require_same(together: State, alone: State, member: Member, base: LoadedBase) -> None:
    """Keys and descriptions are equal; losses and weights agree to the tolerances above."""
    assert (together.key, together.inputs()) == (alone.key, alone.inputs()), member.name
    ours, theirs = together.history(), alone.history()
    for one, other in zip((*ours.steps, *ours.held_out), (*theirs.steps, *theirs.held_out), strict=True):
        of_one, of_other = (getattr(record, "loss", None) or record.held_out for record in (one, other))
        assert one.step == other.step and of_one == pytest.approx(of_other, rel=LOSS_TOLERANCE), member.name
    assert [record.learning_rate for record in ours.steps] == [record.learning_rate for record in theirs.steps]
    first = member.recipe.build(own_module(base.model)).module.state_dict()
    assert (way(together.weights()) - way(alone.weights())).norm() <= WEIGHT_TOLERANCE * (way(alone.weights()) - way(first)).norm(), member.name


@pytest.mark.slow
def test_each_is_trained_as_if_it_were_alone(members, run_sweep, run_single, tiny_base, tmp_path):
    outcomes = run_sweep(members, 4)
    for member, outcome in zip(members, outcomes, strict=True):
        alone = run_single(member, 4, store=RunStore(tmp_path / "alone"))
        require_same(outcome.state, alone, member, tiny_base)
        assert outcome.state.checkpoint.facts()["trained_together"] == len(members) and "trained_together" not in alone.checkpoint.facts()


@pytest.mark.slow
def test_twelve_steps_of_three_loras_of_the_nano_are_those_of_three_single_trainings(tiny_settings, tmp_path):
    """The built-in model on pictures and captions that it knows; the three differ in rate and rank."""
    nano = load_nano()
    base = LoadedBase(Flux.from_weights(nano.transformer), nano.transformer_fingerprint)
    write_dataset(tmp_path / "shapes", count=8, seed=1, size_px=64)
    dataset = ImageFolder(path=tmp_path / "shapes", resolution_px=64, held_out=2)
    encoded = encode_dataset(dataset, nano.autoencoder.encode, nano.text_encoder.encode, "vae", "clip", tmp_path / "encoded", hint_form="none")
    settings = tiny_settings(horizon_steps=12, evaluate_every=6)
    recipe = LoraRecipe(rank=4, alpha=4.0, layers="attention_mlp", blocks="single_blocks.2-3")
    three = members_of(recipe, settings, learning_rates=[1e-4, 3e-4, 1e-3], ranks=[2, 4, 8])[::4]
    outcomes = train_sweep(base, three, encoded, steps=12, store=RunStore(tmp_path / "together"), device=CPU)
    for member, outcome in zip(three, outcomes, strict=True):
        given = {"steps": 12, "store": RunStore(tmp_path / "alone"), "device": CPU}
        require_same(outcome.state, train_to(base, member.recipe, encoded, member.settings, **given), member, base)
    ways = [way(outcome.state.weights()) for outcome in outcomes]
    assert [len(outcome.history().steps) for outcome in outcomes] == [12] * 3 and len({len(each) for each in ways}) == 3


def test_what_a_sweep_has_trained_is_found_and_the_reverse(members, run_sweep, run_single, request):
    one, other, third = members[:3]
    single = run_single(one, 2)
    outcomes = run_sweep([one, other, one], 2)
    assert outcomes[0].state == outcomes[2].state == single and "trained_together" not in single.checkpoint.facts()
    request.getfixturevalue("nothing_trains")
    assert run_single(other, 2) == outcomes[1].state and [outcome.state for outcome in run_sweep([other, one], 2)] == [outcomes[1].state, single]
    with pytest.raises(AssertionError, match="something was trained"):
        run_sweep([one, third], 2)


def test_an_interrupted_sweep_goes_on_bit_for_bit(members, run_sweep, stop_at, tmp_path):
    pair = members[:2]
    straight = run_sweep(pair, 3, store=RunStore(tmp_path / "straight"))
    stop = stop_at(2)
    with pytest.raises(stop.Stop):
        run_sweep(pair, 3, progress=stop)
    resumed = run_sweep(pair, 3)
    for one, other in zip(resumed, straight, strict=True):
        for part in ("weights", "optimiser", "ema"):
            assert fingerprint(one.state.checkpoint.read(part)) == fingerprint(other.state.checkpoint.read(part)), part
        assert [record.loss for record in one.state.history().steps] == [record.loss for record in other.state.history().steps]


def test_one_that_is_ahead_is_joined_by_the_rest(members, run_sweep, run_single, monkeypatch):
    """Of two at step 0 and one at step 2 the two catch up; then all three go together."""
    run_single(members[0], 2)
    together = []
    single = sweep_loop.joint_step
    monkeypatch.setattr(sweep_loop, "joint_step", lambda joint, *rest: together.append(joint.count) or single(joint, *rest))
    outcomes = run_sweep(members[:3], 3)
    assert together == [2, 2, 3] and [outcome.state.step for outcome in outcomes] == [3, 3, 3]
    assert [[record.step for record in outcome.state.history().steps] for outcome in outcomes] == [[1, 2, 3]] * 3


def test_they_go_on_from_one_state(members, run_sweep, run_single):
    before = run_single(members[0], 1)
    settings = members[0].settings
    faster = replace(members[0], settings=replace(settings, optimiser=replace(settings.optimiser, learning_rate=5e-3)))
    goes_on, branch = (outcome.state for outcome in run_sweep([members[0], faster], 2, previous=before))
    assert goes_on == run_single(members[0], 3) and branch.parent == before and branch.step == 3


def test_one_that_breaks_leaves_the_others(members, run_sweep, monkeypatch):
    def broken(learner, batches, times, losses, started, *rest):
        if learner.settings.optimiser.name == "lion" and learner.step == 1:
            raise NonFiniteError(step=1, loss=float("nan"), gradient_norm=1.0, learning_rate=1.0, samples=[0], tensor=None, advice="Lower it.")
        return apply_step(learner, batches, times, losses, started, *rest)

    monkeypatch.setattr(sweep_loop, "apply_step", broken)
    outcomes = run_sweep(members[1:], 3)
    by_name = {outcome.member.name: outcome for outcome in outcomes}
    assert by_name["lion"].state.step == 1 and by_name["lion"].state.partial and "Step 2" in str(by_name["lion"].error)
    assert all(outcome.state.step == 3 and outcome.error is None for outcome in outcomes if outcome.member.name != "lion")


def test_when_all_break_it_is_said_as_alone(members, run_sweep, monkeypatch):
    def broken(*_):
        raise NonFiniteError(step=0, loss=float("nan"), gradient_norm=1.0, learning_rate=1.0, samples=[0], tensor=None, advice="Lower it.")

    monkeypatch.setattr(sweep_loop, "apply_step", broken)
    with pytest.raises(NonFiniteError, match="Step 1"):
        run_sweep(members[:2], 2)


def test_a_sweep_in_bf16_leaves_the_base_alone(members, run_sweep, run_single, tiny_base, tiny_settings, tmp_path):
    plain = members_of(RECIPE, tiny_settings(compute="bf16"), learning_rates=[1e-3, 2e-3])
    outcomes = run_sweep(plain, 3)
    assert fingerprint(tiny_base.model.state_dict()) == tiny_base.fingerprint
    for member, outcome in zip(plain, outcomes, strict=True):
        alone = run_single(member, 3, store=RunStore(tmp_path / "alone"))
        for one, other in zip(outcome.state.history().steps, alone.history().steps, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=2e-2)


def test_members_are_all_combinations_and_named_by_what_varies(tiny_settings):
    settings = tiny_settings()
    made = members_of(replace(RECIPE, alpha=0.1), settings, learning_rates=[1e-4, 2e-3], ranks=[2, 6], seeds=[3])
    assert [member.name for member in made] == ["lr0.0001_rank2", "lr0.0001_rank6", "lr0.002_rank2", "lr0.002_rank6"]
    assert [member.recipe.alpha for member in made[:2]] == [0.1, pytest.approx(0.3)] and {member.recipe.seed for member in made} == {3}
    assert made[3].settings.optimiser.learning_rate == 2e-3 and made[3].recipe.rank == 6
    kept = members_of(RECIPE, settings, ranks=[2, 6], keep_scale=False)
    assert [member.recipe.alpha for member in kept] == [3.0, 3.0] and kept[0] == Member(name="rank2", recipe=RECIPE, settings=settings)


def test_what_cannot_be_a_sweep_is_said_before_anything_is_trained(members, run_sweep, recipe, tiny_settings, tmp_path, nothing_trains):
    settings = tiny_settings()
    other_batch = replace(members[0], settings=replace(members[0].settings, batch_size=3))
    dora = replace(members[0], recipe=replace(RECIPE, dora=True))
    refused = {"at least one LoRA": [], "batch_size": [members[0], other_batch], "without DoRA": [dora]}
    for said, given in refused.items():
        with pytest.raises(InputError, match=said):
            run_sweep(given, 1)
    with pytest.raises(InputError, match="steps"):
        run_sweep(members, 0)
    with pytest.raises(InputError, match="ControlNetRecipe"):
        members_of(recipe, settings)
    with pytest.raises(InputError, match="every rank once"):
        members_of(RECIPE, settings, ranks=[4, 4])
    with pytest.raises(InputError, match="ranks or seeds"):
        members_of(LoraRecipe(from_file=tmp_path / "a.safetensors"), settings, seeds=[1])
    with pytest.raises(InputError, match="learning rate"):
        members_of(RECIPE, settings, learning_rates=[0.0])

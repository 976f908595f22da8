"""The optimisers that come from libraries, and Adafactor: their numbers, their refusal, and trainings that go on bit for bit with each of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from graft.training import packages
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.loop import held_out_loss, measure
from graft.training.optimise import build_optimiser, optimiser_tensors, restore_optimiser
from graft.training.optimiser_kinds import KINDS
from graft.training.settings import OPTIMISERS, OptimiserSettings
from graft.training.store import RunStore
from torch import nn

RATES = {"prodigy": 1.0, "lion": 2e-4}
NEW = [name for name in OPTIMISERS if name not in ("adamw", "lion", "muon")]
FREE = {"name": "schedule_free", "shape": "constant"}
needs_schedulefree = pytest.mark.skipif(find_spec("schedulefree") is None, reason="schedulefree is not installed")
needs_prodigy = pytest.mark.skipif(find_spec("prodigyopt") is None, reason="prodigyopt is not installed")


def require(name: str) -> None:
    package = KINDS[name].package
    if package:
        pytest.importorskip(package)


def some(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((96, 64), (7,), (4, 3, 3, 3))]


def take_steps(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number))
        optimiser.step()


def settings_of(name: str, **changes: Any) -> OptimiserSettings:
    return OptimiserSettings(name=name, learning_rate=RATES.get(name, 1e-2), **changes)


# ---------------------------------------------------------------- numbers


@pytest.mark.slow  # importing transformers takes longer than all the other tests here
def test_adafactor_is_that_of_transformers_with_a_fixed_rate():
    reference = pytest.importorskip("transformers.optimization").Adafactor
    own, theirs = some(), some()
    take_steps(build_optimiser(settings_of("adafactor", weight_decay=0.1), own), own, range(4))
    take_steps(reference(theirs, lr=1e-2, weight_decay=0.1, scale_parameter=False, relative_step=False), theirs, range(4))
    for ours, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_adafactor_moves_a_matrix_of_zeros_at_the_rate_that_it_is_given():
    """torch's own would move it by a thousandth of that: the second half of every LoRA begins so."""
    zeros = nn.Parameter(torch.zeros(8, 8))
    take_steps(build_optimiser(settings_of("adafactor", weight_decay=0.0), [zeros]), [zeros], range(1))
    assert zeros.detach().square().mean().sqrt().item() == pytest.approx(1e-2, rel=0.05)


@needs_prodigy
def test_prodigy_finds_a_rate_and_prints_nothing(capsys: pytest.CaptureFixture[str]):
    target, parameter = torch.linspace(-1, 1, 50), nn.Parameter(torch.zeros(50))
    optimiser = build_optimiser(settings_of("prodigy", weight_decay=0.01), [parameter])
    for _ in range(150):
        optimiser.zero_grad()
        (parameter - target).abs().sum().backward()
        optimiser.step()
    group = optimiser.param_groups[0]
    assert group["decouple"] and group["weight_decay"] == 0.01 and group["use_bias_correction"] and group["safeguard_warmup"]
    assert group["d"] > 1e-3, "from 1e-6"
    assert (parameter.detach() - target).abs().mean() < 0.1
    assert capsys.readouterr().out == ""


@needs_schedulefree
def test_what_is_saved_of_schedule_free_is_the_library_s_evaluation_mode():
    from graft.training.schedule_free import averaged

    own = some()
    optimiser = build_optimiser(settings_of("schedule_free"), own)
    assert all(torch.equal(x, y) for x, y in zip(averaged(optimiser, "abc").values(), own, strict=True)), "one before the first step"
    take_steps(optimiser, own, range(5))
    before, ours = [parameter.detach().clone() for parameter in own], averaged(optimiser, "abc")
    assert all(torch.equal(parameter, kept) for parameter, kept in zip(own, before, strict=True))
    optimiser.eval()
    for x, parameter, y in zip(ours.values(), own, before, strict=True):
        torch.testing.assert_close(x, parameter.detach(), rtol=1e-6, atol=1e-7)
        assert (x - y).abs().max() > 1e-3


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("name", NEW)
def test_a_restored_optimiser_goes_on_bit_for_bit(name: str):
    require(name)
    straight, first = some(), some()
    take_steps(build_optimiser(settings_of(name), straight), straight, range(6))
    optimiser, names = build_optimiser(settings_of(name), first), ["a", "b:odd", "c"]
    take_steps(optimiser, first, range(3))
    stored = {key: tensor.clone() for key, tensor in optimiser_tensors(optimiser, names).items()}
    second = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    again = build_optimiser(settings_of(name), second)
    restore_optimiser(again, names, stored)
    take_steps(again, second, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(second, straight, strict=True))
    types = [{key: type(value) for key, value in each.state[parameters[0]].items()} for each, parameters in ((optimiser, first), (again, second))]
    assert types[0] == types[1]


def test_settings_of_the_group_are_those_of_now_and_its_counters_those_of_then():
    pytest.importorskip("prodigyopt")
    first, second = some(), some()
    optimiser = build_optimiser(settings_of("prodigy"), first)
    take_steps(optimiser, first, range(3))
    stored = optimiser_tensors(optimiser, "abc")
    assert {key for key in stored if key.startswith(":")} == {f":{key} (number)" for key in ("d", "d_denom", "d_hat", "d_max", "d_numerator", "k")}
    again = build_optimiser(replace(settings_of("prodigy"), betas=(0.8, 0.9)), second)
    restore_optimiser(again, "abc", stored)
    assert again.param_groups[0]["betas"] == (0.8, 0.9)
    assert again.param_groups[0]["k"] == 3 and again.param_groups[0]["d"] == optimiser.param_groups[0]["d"]


@pytest.fixture
def rated(tiny_settings):
    """Settings of the tiny training with an optimiser and a rate that suits it."""

    def make(name: str, **changes: Any):
        rate = {"learning_rate": RATES[name]} if name in RATES else {}
        free = {"shape": "constant"} if name == "schedule_free" else {}
        return tiny_settings(name=name, **{**rate, **free, **changes})

    return make


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if KINDS[name].package == "bitsandbytes" else name for name in NEW])
def test_two_and_two_steps_are_four_bit_for_bit_however_often_it_is_measured(name, tiny_train, rated, tmp_path):
    require(name)
    straight = tiny_train(4, rated(name))
    elsewhere = RunStore(tmp_path / "elsewhere")
    often = rated(name, evaluate_every=1, checkpoint_every=1)
    parts = tiny_train(2, often, store=elsewhere, previous=tiny_train(2, often, store=elsewhere))
    assert parts.run_key == straight.run_key and fingerprint(parts.weights()) == fingerprint(straight.weights())
    assert fingerprint(parts.checkpoint.read("optimiser")) == fingerprint(straight.checkpoint.read("optimiser"))
    assert fingerprint(straight.weights()) != straight.initial_fingerprint


@needs_schedulefree
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_schedule_free_measures_saves_and_shows_its_average_and_trains_on_as_if_it_had_not(compute, tiny_learner, tiny_data):
    from graft.training.data.batches import Batches
    from graft.training.loop import train_step

    learner = tiny_learner(compute=compute, evaluate_samples=3, **FREE)
    with Batches(tiny_data, seed=7, batch_size=2, workers=0) as batches:
        for _ in range(3):
            train_step(learner, batches)
    trained, published = fingerprint(learner.weights.tensors()), fingerprint(learner.trainable.module.state_dict())
    plain = held_out_loss(learner, tiny_data)
    records: list[Any] = []
    listener = SimpleNamespace(held_out=records.append)
    run = SimpleNamespace(history=SimpleNamespace(append=lambda record: None))
    measure(learner, SimpleNamespace(data=tiny_data, progress=_Quiet(), run=run, listener=listener), set(), due=True)
    assert records[0].held_out != plain.held_out
    with learner.showing_result():
        inside = fingerprint(learner.weights.tensors())
        assert held_out_loss(learner, tiny_data) == records[0]
    assert inside == fingerprint(learner.result()) == fingerprint(learner.parts()["weights"]) != trained
    assert fingerprint(learner.weights.tensors()) == trained and fingerprint(learner.trainable.module.state_dict()) == published


class _Quiet:
    def check_interrupt(self) -> None: ...


@needs_schedulefree
def test_an_interrupt_while_schedule_free_is_measured_leaves_what_trains(tiny_learner):
    learner = tiny_learner(**FREE)
    for parameter in learner.weights.parameters:
        parameter.grad = torch.ones_like(parameter)
    learner.update(1e-3)
    before = fingerprint(learner.weights.tensors())
    with pytest.raises(KeyboardInterrupt), learner.showing_result():
        raise KeyboardInterrupt
    assert fingerprint(learner.weights.tensors()) == before


@needs_prodigy
def test_the_rate_that_is_told_is_the_one_that_prodigy_has_found(tiny_learner):
    learner = tiny_learner(name="prodigy", learning_rate=1.0)
    assert learner.update(1.0) == pytest.approx(1e-6), "where every Prodigy begins"
    learner.optimiser.param_groups[0]["d"] = 3e-3
    assert learner.update(0.5) == pytest.approx(1.5e-3)
    assert tiny_learner().update(0.5) == 0.5


@pytest.mark.parametrize(("before", "now", "taken"), [("adamw", "muon", False), ("lion", "adamw", False), ("adamw", "lion", True)])
def test_another_optimiser_takes_over_the_weights_and_what_it_can_use_of_the_state(before, now, taken, tiny_train, rated, monkeypatch):
    """Lion keeps the same average as AdamW; AdamW lacks half of what it needs in Lion's state, and would have failed at its first step."""
    from graft.training import learner

    restored: list[int] = []
    real = learner.restore_optimiser
    monkeypatch.setattr(learner, "restore_optimiser", lambda *given: (restored.append(1), real(*given)))
    first = tiny_train(2, rated(before))
    second = tiny_train(1, rated(now), previous=first)
    assert second.step == 3 and second.parent == first and bool(restored) == taken
    kept = {name.rpartition(":")[2] for name in second.checkpoint.read("optimiser")}
    assert kept == {"lion": {"exp_avg"}, "adamw": {"exp_avg", "exp_avg_sq", "step"}, "muon": {"momentum", "exp_avg", "exp_avg_sq", "step"}}[now]


@needs_schedulefree
def test_another_optimiser_goes_on_from_schedule_free_s_average(tiny_train, rated):
    first = tiny_train(2, rated("schedule_free"))
    second = tiny_train(1, rated("adamw", learning_rate=1e-8, warmup_steps=0, shape="constant", weight_decay=0.0), previous=first)
    after, before = second.weights(), first.weights()
    assert all((after[name] - before[name]).abs().max() < 1e-6 for name in before)


# ---------------------------------------------------------------- libraries that are not there


@pytest.mark.parametrize("name", [name for name in NEW if KINDS[name].package])
def test_a_missing_library_is_named_before_any_work(name: str, tiny_train, rated, store, monkeypatch: pytest.MonkeyPatch):
    package = KINDS[name].package
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(packages, "find_spec", lambda wanted: None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        tiny_train(2, rated(name))
    assert not store.runs()


class EightBit(torch.optim.AdamW):
    """As bitsandbytes has it: a count that is a plain number, states in 8 bits that must not be cast, and pages that only it can make."""

    is_paged = False

    def __init__(self, parameters: Any, **told: Any) -> None:
        super().__init__(parameters, **told)
        self.buffers: list[torch.Tensor] = []

    def get_state_buffer(self, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        self.buffers.append(torch.zeros(parameter.shape, dtype=dtype))
        return self.buffers[-1]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state.update(step=0, state1=self.get_state_buffer(parameter, torch.uint8), absmax1=torch.zeros(1))
            state["step"] += 1
            state["state1"] += (parameter.grad.abs() * 10).to(torch.uint8)
            state["absmax1"] += parameter.grad.abs().max()
            parameter -= state["state1"] * state["absmax1"] * (self.param_groups[0]["lr"] / 1000 / state["step"])

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        assert move_to_device is not self.is_paged, "what is paged stays so"
        for index, parameter in enumerate(self.param_groups[0]["params"]):
            self.state[parameter] = state_dict["state"].get(index, {})


class PagedEightBit(EightBit):
    is_paged = True


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_eight_bit_states_are_told_and_kept_as_their_library_wants_them(name: str, monkeypatch: pytest.MonkeyPatch):
    stand_in: Any = ModuleType("bitsandbytes")
    stand_in.optim = SimpleNamespace(AdamW8bit=EightBit, PagedAdamW8bit=PagedEightBit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", stand_in)
    told = OptimiserSettings(name=name, learning_rate=3e-3, betas=(0.8, 0.95), weight_decay=0.2, eps=1e-6)
    straight, first = some(), some()
    take_steps(build_optimiser(told, straight), straight, range(4))
    optimiser = build_optimiser(told, first)
    assert {key: optimiser.defaults[key] for key in ("lr", "betas", "weight_decay", "eps")} == {
        "lr": 3e-3, "betas": (0.8, 0.95), "weight_decay": 0.2, "eps": 1e-6
    }  # fmt: skip
    take_steps(optimiser, first, range(2))
    stored = {key: tensor.clone() for key, tensor in optimiser_tensors(optimiser, "abc").items()}
    assert stored["a:state1"].dtype == torch.uint8 and stored["a:step (number)"].item() == 2
    second = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    again: Any = build_optimiser(told, second)
    restore_optimiser(again, "abc", stored)
    if again.is_paged:
        assert [id(buffer) for buffer in again.buffers] == [id(again.state[parameter]["state1"]) for parameter in second], "in the library's pages"
    take_steps(again, second, range(2, 4))
    assert all(torch.equal(one, other) for one, other in zip(second, straight, strict=True))

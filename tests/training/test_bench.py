"""The benchmark compares like with like: both sides compute the same loss; and what it reports."""

from __future__ import annotations

import builtins
import json

import pytest
import torch
from graft.training import bench, bench_sizes
from graft.training.bench import describe, run_bench
from graft.training.bench_sizes import SIZES, BenchSize, random_batch, random_flux, size_named
from graft.training.errors import InputError
from graft.training.objective import Draws, flow_matching_loss
from graft.training.trainable.base import Conditions

CPU = torch.device("cpu")
TINY = BenchSize(
    hidden_size=32, head_dim=16, axes=(4, 6, 6), double_depth=2, single_depth=2, context_width=12, vector_width=8, picture_px=32,
    text_tokens=5, batch=2, compute="fp32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)


def test_both_sides_compute_the_same_loss_and_gradients() -> None:
    """From the same weights (randomised, since a fresh ControlNet says nothing) and the same draws."""
    from graft.training.bench_diffusers import DiffusersStep

    base, batch = random_flux(TINY, CPU), random_batch(TINY)
    trainable = TINY.recipe.build(base)
    generator = torch.Generator().manual_seed(3)
    for parameter in trainable.module.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    usual = DiffusersStep(base, trainable.module, TINY.settings(False).optimiser, torch.float32, False)
    conditions, noise = Conditions(batch.text, batch.pooled, batch.hint), torch.randn(batch.latents.shape, generator=generator)
    guidance, timesteps = torch.tensor([3.5, 2.0]), torch.tensor([250.0, 731.0])
    draws = Draws(noise, timesteps / 1000, guidance, torch.zeros(2, dtype=torch.bool))
    ours = flow_matching_loss(lambda *given: trainable.predict(base, *given), batch.latents, conditions, draws, torch.float32).mean()
    theirs = usual.loss(batch.latents, conditions, noise, timesteps, guidance)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    ours.backward()
    theirs.backward()
    for name in ("controlnet_blocks.1.weight", "controlnet_blocks.0.bias"):
        found, expected = trainable.module.get_parameter(name).grad, usual.network.get_parameter(name).grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", bench.SIDES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_learns(side: bench.Side, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, really = [], torch.optim.AdamW.step

    def watched(optimiser: torch.optim.AdamW, *arguments: object) -> object:
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        before = [parameter.detach().clone() for parameter in parameters]
        done = really(optimiser, *arguments)
        changed.append(not all(torch.equal(*pair) for pair in zip(before, parameters, strict=True)))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    step = bench._MAKERS[side](random_flux(TINY, CPU), TINY, CPU, checkpointing)
    losses = [step() for _ in range(3)]
    assert all(0.1 < loss < 100 for loss in losses) and len(set(losses)) == 3 and changed == [True] * 3


def test_the_frozen_transformer_is_shared() -> None:
    from graft.training.bench_diffusers import transformer_of

    base = random_flux(TINY, CPU)
    theirs = transformer_of(base)
    key = theirs.get_parameter("transformer_blocks.1.attn.to_k.weight")
    assert key.data_ptr() == base.double_blocks[1].img_attn.qkv.weight[32:].data_ptr() and not key.requires_grad


def test_figures_and_their_description(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_memory_of", lambda side, *rest: {"ours": 50_000_000, "diffusers": 2_000_000_000}[side])
    taken = iter([9.0] * 6 + [1.0, 4.0, 2.0, 5.0, 3.0, 6.0])

    def timed(step, device) -> float:
        step()
        return next(taken)

    monkeypatch.setattr(bench, "timed", timed)
    monkeypatch.setattr(bench, "reversed", lambda sides: sides, raising=False)
    figures = run_bench(tmp_path / "figures.json", "tiny", repeats=3, device=CPU)
    assert json.loads((tmp_path / "figures.json").read_text("utf-8")) == figures | {"sizes": {**figures["sizes"], "axes": [4, 6, 6]}}
    assert (figures["ours_seconds"], figures["diffusers_seconds"], figures["ratio"]) == (2.0, 5.0, 0.4)
    assert figures["ours_seconds_quartiles"] == [1.5, 2.5] and figures["sizes"]["image_tokens"] == 4
    shown = describe(figures)
    assert "| our step | 2 | 1.5 to 2.5 | 50.0 MB |" in shown and "5 | 4.5 to 5.5 | 2.00 GB |" in shown
    assert "Ratio of medians 0.40" in shown


def test_sides_take_turns_in_going_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for side in bench.SIDES:
        monkeypatch.setitem(bench._MAKERS, side, lambda *rest, side=side: lambda: order.append(side) or 0.0)
    bench._seconds_of_both(TINY, CPU, False, 3, bench.NO_PROGRESS)
    assert len(order) == 12 and order[:4] == ["diffusers", "ours", "ours", "diffusers"]


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    assert 10e6 < bench._memory_of("ours", SIZES["mini"], CPU, False) < 4e9


@pytest.mark.parametrize(("size", "repeats", "named"), [("huge", 20, "bench size"), ("tiny", 1, "bench repeats")])
def test_absurd_requests_are_refused(size: str, repeats: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        run_bench(None, size, repeats, device=CPU)


def test_missing_diffusers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest, **named):
        if name.split(".")[0] == "diffusers":
            raise ImportError("No module named 'diffusers'")
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install diffusers"):
        run_bench(None, "tiny", 3, device=CPU)


def test_file_in_the_way_of_the_figures(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--json"):
        run_bench(tmp_path / "file" / "figures.json", "tiny", 3, device=CPU)


def test_auto_follows_the_device() -> None:
    assert size_named("auto", CPU)[0] == "mini" and size_named("auto", torch.device("cuda"))[0] == "flux-512px"


def test_the_large_size_is_that_of_flux_dev() -> None:
    """11.9 billion parameters, as published."""
    with torch.device("meta"):
        model = bench_sizes.Flux(SIZES["flux-512px"].config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_901_408_320

"""The sweep's bench: what it writes, that both sides really train, and that memory is shared."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from graft.training import bench_sweep
from graft.training.bench_sizes import SIZES, random_flux
from graft.training.bench_sweep import LEARNING_RATES, describe, run_sweep_bench, single_steps, sweep_step
from graft.training.errors import InputError

TINY = replace(SIZES["mini"], hidden_size=128, double_depth=1, single_depth=1, picture_px=32, text_tokens=4, batch=1)
CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_figures_are_written_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_sweep, "size_named", lambda name, device: ("tiny", TINY))
    figures = run_sweep_bench(tmp_path / "figures.json", repeats=3, batches=(1,))
    assert json.loads((tmp_path / "figures.json").read_text("utf-8")) == figures
    found = figures["batches"]["1"]
    assert figures["sweep_ratio_batch_1"] == pytest.approx(found["sweep_seconds"] / found["four_single_seconds"]) and found["turns"] == 3
    assert found["single_peak_bytes"] < found["sweep_peak_bytes"] < len(LEARNING_RATES) * found["single_peak_bytes"]
    assert f"| {figures['sweep_ratio_batch_1']:.2f} |" in describe(figures)


def test_both_sides_take_the_same_steps():
    base = random_flux(TINY, CPU)
    together, alone = sweep_step(base, TINY, CPU, False), single_steps(base, TINY, CPU, False)
    for _ in range(3):
        losses = [[record.loss for record in step()] for step in (together, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == len(LEARNING_RATES)


def test_too_few_turns_and_a_file_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(InputError, match="bench repeats"):
        run_sweep_bench(repeats=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        run_sweep_bench(tmp_path / "file" / "figures.json")

"""The figures of a base in 8 bits: what they are made of, and what is refused before anything is measured."""

from __future__ import annotations

import json

import pytest
import torch
from graft.training import bench_base8
from graft.training.bench_base8 import SMALL, describe, loss_curves, run_base8
from graft.training.errors import InputError
from graft.training.history import HeldOutRecord, History


def history(first: float, last: float) -> History:
    return History((), tuple(HeldOutRecord(step=step, held_out=loss, by_time=(loss,), samples=1) for step, loss in ((0, first), (9, last))))


def test_the_ratios_are_those_of_int8_against_bf16(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_base8, "peak_bytes", lambda size, form, device: {None: 200, "int8": 104, "fp8 e4m3fn": 110}[form])
    curves = {"bf16": history(2.0, 1.0), "int8": history(2.01, 1.004), "fp8 e4m3fn": history(2.1, 1.05)}
    monkeypatch.setattr(bench_base8, "loss_curves", lambda steps, device, progress: curves)
    figures = run_base8(tmp_path / "figures.json", steps=9, size=SMALL)
    assert (figures["base_memory_ratio"], figures["held_out_loss_ratio"]) == (0.52, 1.004)
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8")) == figures
    assert "| fp8 e4m3fn | 110 bytes | 0.550 | 2.10000 | 1.05000 | +5.000% |" in describe(figures)


def test_what_cannot_be_measured_is_refused_first(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_base8, "peak_bytes", lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="bench steps"):
        run_base8(steps=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--json"):
        run_base8(tmp_path / "file" / "figures.json")


@pytest.mark.slow
def test_bases_differ_and_nothing_else_does():
    curves = loss_curves(2, torch.device("cpu"), held_out=4)
    starts = {name: found.held_out[0].held_out for name, found in curves.items()}
    assert len(set(starts.values())) == 3 and all(len(found.steps) == 2 for found in curves.values())
    assert max(starts.values()) / min(starts.values()) < 1.05

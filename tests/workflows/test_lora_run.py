"""The shipped LoRA workflows, run without ComfyUI on few pictures and steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.headless.cli import main
from graft.training.catalogue import catalogue
from graft.training.files.header import read_header
from graft.training.files.identify import identify
from graft.training.store import RunStore

WORKFLOWS = Path(__file__).parents[2] / "workflows"
SAMPLERS = ("Sample without LoRA", "Sample with LoRA", "Sample an old caption with LoRA")
SMALL = {
    "GraftDrawShapes.count": 8, "GraftImageFolder.held_out": 2, "GraftSettings.batch_size": 2, "GraftSettings.warmup_steps": 0,
    "GraftSettings.learning_rate": 0.02,  # three steps at the workflow's own move a picture by less than one of 255 levels
    "GraftSettings.horizon_steps": 3, "GraftSettings.evaluate_every": 0, "GraftTrainSteps.steps": 3, "EmptySD3LatentImage.batch_size": 1,
    **{f"{sampler}.steps": 2 for sampler in SAMPLERS}, "GraftLoRAExam.pictures": 2, "GraftLoRAExam.steps": 2, "GraftLoRAGrid.steps": 2,
    "GraftLoRAGrid.captions": "a red star", "GraftReport.required_new_word_rate": 0, "GraftReport.largest_old_caption_fall": 1,
}  # fmt: skip


SMALL_SWEEP = {
    **{name: SMALL[name] for name in SMALL if name.startswith(("GraftImageFolder", "GraftSettings", "EmptySD3LatentImage", "GraftLoRAGrid"))},
    "GraftDrawShapes.count": 6, "GraftSettings.horizon_steps": 2, "GraftTrainSweep.steps": 2, "GraftTrainSweep.learning_rates": "0.001, 0.02",
    "Sample with the best LoRA.steps": 2,
}  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))


def test_it_trains_samples_and_exports(tmp_path: Path):
    assert run(tmp_path, SMALL) == 0
    header = read_header(tmp_path / "out" / "nano_lora.safetensors")
    assert (identify(header).kind, identify(header).layout, header.metadata["ss_guidance_scale"]) == ("lora", "Kohya", "1.0")
    assert header.metadata["graft.used_on_fingerprint"] == header.metadata["graft.base_fingerprint"]
    assert header.metadata["ss_sd_model_name"] == header.metadata["graft.used_on_name"] == "nano_flux"
    pictures = [tmp_path / "out" / f"{name}_00001_.png" for name in ("word_without_lora", "word_with_lora", "old_with_lora", "loss", "exam", "steps")]
    assert len({path.read_bytes() for path in pictures}) == len(pictures)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["train_steps"] == 3 and report["weights_changed"] is True and report["recipe"]["kind"] == "lora"
    assert {f"{name}_{when}" for name in ("new_word_rate", "old_caption_rate") for when in ("before", "after")} <= set(report)
    assert report["new_word_rate_after"] == 0.0 and report["train_seconds"] > 0
    assert [entry.workflow for entry in catalogue(RunStore(tmp_path / "runs"))] == ["nano_lora"]
    (tmp_path / "out" / "report.json").unlink()
    assert run(tmp_path, {**SMALL, "GraftReport.required_new_word_rate": 0.8}) == 1, "scripts are told by the exit status"
    assert (tmp_path / "out" / "report.json").is_file(), "and find the figures"


def test_a_sweep_trains_draws_and_exports_all_of_them(tmp_path: Path):
    assert run(tmp_path, SMALL_SWEEP, "nano_lora_sweep") == 0
    names = ("lr0.001", "lr0.02")
    files = {name: (tmp_path / "out" / f"{name}.safetensors") for name in names}
    assert {name: read_header(path).metadata["ss_learning_rate"] for name, path in files.items()} == {"lr0.001": "0.001", "lr0.02": "0.02"}
    pictures = [tmp_path / "out" / f"{name}_00001_.png" for name in (*names, "sweep_losses", "sweep_best")]
    assert len({path.read_bytes() for path in pictures}) == len(pictures)
    assert [run.history.read().steps[-1].step for run in RunStore(tmp_path / "runs").runs()] == [2, 2]
    assert {entry.workflow for entry in catalogue(RunStore(tmp_path / "runs"))} == {"nano_lora_sweep"}


def run(folder: Path, values: dict[str, Any], workflow: str = "nano_lora") -> int:
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return main(["run", str(WORKFLOWS / f"{workflow}.json"), "--output", str(folder / "out"), *sets])

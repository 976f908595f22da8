"""The shipped workflows of the built-in model, run without ComfyUI on few pictures and steps (the main one: tests/nodes/test_workflow.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from graft.nodes.headless.cli import main
from graft.training.files.header import read_header
from graft.training.files.identify import identify
from graft.training.files.tensors import read_tensors

WORKFLOWS = Path(__file__).parents[2] / "workflows"
SMALL = {
    "GraftDrawShapes.count": 24,
    "GraftImageFolder.held_out": 2,
    "GraftSettings.batch_size": 2,
    "GraftSettings.warmup_steps": 0,
    "GraftSettings.horizon_steps": 5,
    "GraftSettings.evaluate_every": 0,
}
pytestmark = pytest.mark.slow


def run(name: str, output: Path, **settings: object) -> None:
    sets = [part for key, value in {**SMALL, **settings}.items() for part in ("--set", f"{key}={value}")]
    assert main(["run", str(WORKFLOWS / f"{name}.json"), "--output", str(output), *sets]) == 0


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))


def test_training_goes_on_from_the_first_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from graft.training import train_to as module

    asked, train = [], module.train
    monkeypatch.setattr(module, "train", lambda learner, training: asked.append((learner.step, training.until_step)) or train(learner, training))
    samplers = ("Sample without ControlNet", "Sample after the first part", "Sample after the second part")
    steps = {"First part.steps": 2, "Second part, from the first.steps": 3, **{f"{name}.steps": 2 for name in samplers}}
    run("continue_training", tmp_path / "out", **steps, **{"EmptySD3LatentImage.batch_size": 1})
    assert asked == [(0, 2), (2, 5)]  # the second part trained its own steps only
    pictures = [tmp_path / "out" / f"continue_{name}_00001_.png" for name in ("source", "after_part_1", "after_part_2", "loss")]
    assert len({path.read_bytes() for path in pictures}) == len(pictures)


def test_both_layouts_are_exported_with_their_reports(tmp_path: Path):
    names = ("XLabs", "InstantX")
    steps = {f"Train Steps ({name}).steps": 2 for name in names}
    grids = {f"Validation Grid ({name}).{setting}": 2 for name in names for setting in ("steps", "pictures", "columns")}
    run("export_controlnet", tmp_path / "out", **steps, **grids)
    for layout in ("XLabs", "InstantX"):
        file = tmp_path / "out" / f"nano_canny_{layout.lower()}.safetensors"
        found = identify(read_header(file))
        assert (found.kind, found.layout.lower()) == ("controlnet", layout.lower())
        assert all(bool(torch.isfinite(tensor).all()) for tensor in read_tensors(file).values())
        assert (tmp_path / "out" / f"nano_canny_{layout.lower()}_diffusers" / "config.json").is_file()
        report = json.loads((tmp_path / "out" / f"nano_canny_{layout.lower()}_report.json").read_text(encoding="utf-8"))
        assert report["train_steps"] == 2 and report["weights_changed"] is True and 0 <= report["edge_f1_after"] <= 1

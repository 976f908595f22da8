"""The shipped workflow, whole: every node as the runner calls it, with a shortened training that must follow its edges."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch
from graft.nodes.headless.cli import main
from graft.training.files.header import read_header
from graft.training.files.tensors import read_tensors

WORKFLOW = Path(__file__).parents[2] / "workflows" / "nano_canny_controlnet.json"
NODES = {node["type"]: node["id"] for node in json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"]}
SHORT_STEPS, SHORT_EDGE_F1 = 200, 0.35
"""What the shortened training must reach; without a ControlNet the score is near chance, about 0.15."""


def run(output: Path, **settings: object) -> int:
    sets = [part for name, value in settings.items() for part in ("--set", f"{NODES[name.split('__')[0]]}.{name.split('__')[1]}={value}")]
    return main(["run", str(WORKFLOW), "--output", str(output), *sets])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workflow")


@pytest.fixture(autouse=True)
def folders(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_INPUT", str(shared / "input"))
    monkeypatch.setenv("GRAFT_RUNS", str(shared / "runs"))


SHORT = {
    "GraftDrawShapes__count": 528,
    "GraftImageFolder__held_out": 16,
    "GraftSettings__horizon_steps": SHORT_STEPS,
    "GraftTrainSteps__steps": SHORT_STEPS,
    "GraftValidationGrid__pictures": 16,
    "GraftReport__required_edge_f1": 0,
}


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_INPUT", str(shared / "input"))
        patch.setenv("GRAFT_RUNS", str(shared / "runs"))
        assert run(shared / "out", **SHORT) == 0
    return shared / "out"


@pytest.mark.slow
def test_it_follows_held_out_edges(trained: Path):
    report = json.loads((trained / "report.json").read_text(encoding="utf-8"))
    assert report["edge_f1_after"] >= SHORT_EDGE_F1 > report["edge_f1_before"] + 0.1
    assert report["edge_f1_shuffled_edges"] > report["edge_f1_shuffled_edges_own"] + 0.1
    assert report["held_out_loss_after"] < report["held_out_loss_before"]
    assert report["weights_changed"] is True and report["train_steps"] == SHORT_STEPS


@pytest.mark.slow
def test_everything_promised_is_made(trained: Path):
    grid = cv2.imread(str(trained / "comparison_00001_.png"))
    assert grid.shape[0] > 3 * 128 and cv2.imread(str(trained / "loss_00001_.png")).shape == (540, 900, 3)
    assert len(list(trained.glob("sampler_controlled_*.png"))) == len(list(trained.glob("sampler_source_*.png"))) == 4
    header = read_header(trained / "nano_canny_controlnet.safetensors")
    assert {info.dtype for info in header.tensors.values()} == {"BF16"} and "input_hint_block.0.weight" in header.tensors
    assert header.metadata["modelspec.resolution"] == "128x128"
    assert {path.name for path in (trained / "nano_canny_controlnet_diffusers").iterdir()} >= {"config.json", "README.txt"}


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_gives_the_same_file(trained: Path, shared: Path, monkeypatch: pytest.MonkeyPatch):
    from graft.training import train_to as module

    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    assert run(shared / "again", **SHORT) == 0
    first, second = (read_tensors(folder / "nano_canny_controlnet.safetensors") for folder in (trained, shared / "again"))
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_below_the_required_score_the_run_fails_after_writing(trained: Path, shared: Path, capsys: pytest.CaptureFixture[str]):
    assert run(shared / "strict", **{**SHORT, "GraftReport__required_edge_f1": 1.0}) == 1
    assert "edge F1: expected at least 1.00" in capsys.readouterr().err
    assert (shared / "strict" / "report.json").is_file()
    assert {"comparison_00001_.png", "loss_00001_.png"} <= {path.name for path in (shared / "strict").iterdir()}  # to see why


def test_the_report_which_may_fail_is_the_last_output():
    """The runner takes outputs in the file's order, and a run below its bar must still leave its pictures."""
    nodes = json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"]
    outputs = [node["type"] for node in nodes if node["type"] in ("SaveImage", "GraftExportControlNet", "GraftReport")]
    assert outputs[-1] == "GraftReport"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"GraftBuildControlNet__double_blocks": 3}, "double blocks"),
        ({"GraftDrawShapes__count": 60}, "held"),
        ({"GraftSettings__warmup_steps": 5000}, "warm-up"),
        ({"GraftExportControlNet__file_name": "../../elsewhere"}, "file name"),
        ({"GraftImageFolder__resolution_px": 100}, "multiple of 16"),
    ],
)
def test_bad_input_is_said_before_training(
    shared: Path, tmp_path: Path, setting: dict, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Each with the node that it concerns; nothing is trained (a step would be a failure) and no result is written."""
    from graft.training import train_to as module

    monkeypatch.setenv("GRAFT_INPUT", str(tmp_path / "input"))
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained"))
    small = {"GraftDrawShapes__count": 80, "GraftTrainSteps__steps": 2}
    assert run(tmp_path / "out", **{**small, **setting}) == 2
    error = capsys.readouterr().err
    assert message in error and "node" in error
    assert not list(tmp_path.glob("out/*"))

"""The sweep's nodes without ComfyUI: lists as text, results side by side, one state out of many, in a graph from end to end."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.headless.run import run_workflow
from graft.nodes.headless.terminal import Reporter
from graft.nodes.host import use_host
from graft.nodes.registry import NODE_CLASS_MAPPINGS
from graft.nodes.sweep import LARGEST_SWEEP, PickState, TrainSweep
from graft.training.errors import InputError
from graft.training.store import RunStore


def test_lists_are_read_early():
    said = {"learning_rates": "1e-4; 3e-4,", "ranks": " 4 ,16", "seeds": ""}
    assert TrainSweep.VALIDATE_INPUTS(**said) is True and TrainSweep.VALIDATE_INPUTS(learning_rates=None, ranks="", seeds="") is True
    assert "learning_rates" in TrainSweep.VALIDATE_INPUTS(**{**said, "learning_rates": "fast"})
    assert "ranks" in TrainSweep.VALIDATE_INPUTS(**{**said, "ranks": "4.5"})
    many = ",".join(str(number) for number in range(LARGEST_SWEEP))
    assert f"{2 * LARGEST_SWEEP} combinations" in TrainSweep.VALIDATE_INPUTS(learning_rates="1, 2", ranks="", seeds=many)


def test_one_state_is_taken_out_of_a_list():
    states: Any = ["first", "second"]
    assert PickState().execute(states, [2], ["a", "b"]) == ("second", "b") and PickState().execute(states, [1]) == ("first", "")
    with pytest.raises(InputError, match="1 to 2, the states that there are"):
        PickState().execute(states, [3])


def node(type_name: str, **inputs: Any) -> dict[str, Any]:
    """With the defaults of all widgets that are not given."""
    declared = NODE_CLASS_MAPPINGS[type_name].INPUT_TYPES()["required"]  # type: ignore[attr-defined]
    defaults = {name: entry[1]["default"] for name, entry in declared.items() if "default" in entry[1]}
    return {"class_type": type_name, "inputs": {**defaults, **inputs}}


def graph(folder: Path) -> dict[str, Any]:
    """Two LoRAs of the nano FLUX on pictures that are drawn; one is exported by its number, both through the list."""
    lora = node("GraftBuildLoRA", model=["1", 0], rank=2, alpha=2.0, layers="attention", blocks="single_blocks.3")
    settings = node("GraftSettings", learning_rate=1e-3, evaluate_samples=1)
    sweep = {"trainable": ["4", 0], "data": ["5", 0], "settings": ["6", 0], "steps": 2, "learning_rates": "1e-3, 2e-3"}
    return {
        "1": node("GraftNanoFlux"),
        "2": node("GraftDrawShapes", folder=str(folder), count=4),
        "3": node("GraftImageFolder", folder=["2", 0], resolution_px=128, held_out=1),
        "4": lora,
        "5": node("GraftEncodeDataset", dataset=["3", 0], clip=["1", 1], vae=["1", 2], trainable=["4", 0]),
        "6": settings,
        "7": node("GraftTrainSweep", model=["1", 0], **sweep),
        "8": node("GraftPickState", states=["7", 0], number=2, names=["7", 1]),
        "9": node("GraftExportLoRA", state=["8", 0], file_name="picked"),
        "10": node("GraftExportLoRA", state=["7", 0], file_name=["7", 1]),
        "11": {"class_type": "PreviewImage", "inputs": {"images": ["7", 3]}},
    }


@pytest.mark.slow
def test_a_graph_trains_exports_and_shows_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    workflow = tmp_path / "sweep.json"
    workflow.write_text(json.dumps(graph(tmp_path / "pictures")), encoding="utf-8")
    with use_host(HeadlessHost(tmp_path / "out")):
        run_workflow(workflow, [], Reporter(StringIO(), lambda: None))
    files = {path.stem: path.read_bytes() for path in (tmp_path / "out").glob("*.safetensors")}
    assert set(files) == {"picked", "lr0.001", "lr0.002"} and files["lr0.001"] != files["lr0.002"]
    assert len(RunStore(tmp_path / "runs").runs()) == 2

"""The pack in a running ComfyUI server: train and sample in one graph, queue again, raise the steps, cancel, kill."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from graft.training.history import HistoryFile

TRAIN, SETTINGS, SAMPLER, SAVE = "8", "6", "15", "17"
LINKS: dict[str, tuple[str, dict[str, Any]]] = {
    "1": ("GraftNanoFlux", {}),
    "2": ("GraftDrawShapes", {"folder": "drawn", "count": 8, "size_px": 128, "seed": 0}),
    "3": ("GraftImageFolder", {"folder": ["2", 0], "resolution_px": 128, "held_out": 2}),
    "4": ("GraftBuildControlNet", {"model": ["1", 0], "layout": "xlabs", "double_blocks": 2, "single_blocks": 0}),
    "5": ("GraftEncodeDataset", {"dataset": ["3", 0], "clip": ["1", 1], "vae": ["1", 2], "trainable": ["4", 0]}),
    SETTINGS: ("GraftSettings", {"learning_rate": 1e-3, "batch_size": 4, "horizon_steps": 6, "evaluate_every": 0}),
    TRAIN: ("GraftTrainSteps", {"model": ["1", 0], "trainable": ["4", 0], "data": ["5", 0], "settings": [SETTINGS, 0], "steps": 3}),
    "9": ("GraftTrainedControlNet", {"state": [TRAIN, 0]}),
    "10": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a red circle"}),
    "11": ("GraftCannyHint", {"image": ["12", 0]}),
    "12": ("EmptyImage", {"width": 128, "height": 128, "color": 255}),
    "13": ("ControlNetApplyAdvanced", {"positive": ["10", 0], "negative": ["10", 0], "control_net": ["9", 0], "image": ["11", 0], "vae": ["1", 2]}),
    "14": ("EmptySD3LatentImage", {"width": 128, "height": 128}),
    SAMPLER: (
        "KSampler",
        {"model": ["1", 0], "positive": ["13", 0], "negative": ["13", 1], "latent_image": ["14", 0], "steps": 4, "cfg": 1.0, "seed": 1,
         "sampler_name": "euler", "scheduler": "simple"},
    ),
    "16": ("VAEDecode", {"samples": [SAMPLER, 0], "vae": ["1", 2]}),
    SAVE: ("SaveImage", {"images": ["16", 0]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(comfyui: Path, new_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = new_server(comfyui, tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def workflow(server: Any) -> dict[str, Any]:
    """The whole job in API format; what is not said above has the value that its widget begins with."""
    return {id: {"class_type": kind, "inputs": {**defaults(server, kind), **given}} for id, (kind, given) in LINKS.items()}


def defaults(server: Any, kind: str) -> dict[str, Any]:
    required = server.get(f"/object_info/{kind}")[kind]["input"].get("required", {})
    found = {name: (entry[0], entry[1] if len(entry) > 1 else {}) for name, entry in required.items()}
    listed = {name: values[0] for name, (values, _) in found.items() if isinstance(values, list) and values}
    return listed | {name: options["default"] for name, (_, options) in found.items() if "default" in options}


def changed(workflow: dict[str, Any], node: str, **inputs: Any) -> dict[str, Any]:
    other = copy.deepcopy(workflow)
    other[node]["inputs"].update(inputs)
    return other


def runs(server: Any) -> list[Path]:
    """The folders of the store that hold a training."""
    return sorted(file.parent for file in (server.output / "graft" / "runs").glob("*/losses.jsonl"))


def losses(server: Any) -> list[list[float]]:
    """The loss of every step of every run in the store."""
    return [[record.loss for record in HistoryFile(run / "losses.jsonl").read().steps] for run in runs(server)]


def trained_steps(server: Any) -> int:
    """How often a step was done; one that was done again after a kill counts again."""
    return sum((run / "losses.jsonl").read_text(encoding="utf-8").count('"loss"') for run in runs(server))


def last_weights(run: Path) -> bytes:
    return (run / "step_00000012" / "weights.safetensors").read_bytes()


def test_the_whole_job_runs_and_a_second_queue_trains_nothing(server: Any, workflow: dict[str, Any]):
    made = server.run(workflow)
    assert (server.output / made.outputs[SAVE]["images"][0]["filename"]).stat().st_size > 1000
    assert trained_steps(server) == 3
    assert set(server.run(workflow).cached) >= {"1", "5", TRAIN, SAMPLER}
    assert trained_steps(server) == 3


def test_a_node_downstream_trains_nothing(server: Any, workflow: dict[str, Any]):
    server.run(workflow)
    assert TRAIN in server.run(changed(workflow, SAMPLER, seed=2)).cached


def test_more_steps_train_only_the_rest(server: Any, workflow: dict[str, Any]):
    server.run(workflow)
    (before,) = losses(server)
    server.run(changed(workflow, TRAIN, steps=5))
    (after,) = losses(server)
    assert after[:3] == before[:3] and len(after) == 5


def test_without_comfyuis_cache_the_result_is_found_on_disk(server: Any, workflow: dict[str, Any]):
    server.run(workflow)
    before = trained_steps(server)
    server.forget()
    again = server.run(changed(workflow, SAMPLER, seed=3))
    assert TRAIN not in again.cached and trained_steps(server) == before


def test_a_cancelled_and_killed_training_ends_as_a_straight_one(server: Any, workflow: dict[str, Any]):
    long = changed(changed(workflow, SETTINGS, seed=5, checkpoint_every=2), TRAIN, steps=12)
    others, before = set(runs(server)), trained_steps(server)
    number = server.queue(long)
    server.wait_for(lambda: trained_steps(server) >= before + 3)
    server.post("/interrupt", {})
    assert server.finished(number)["status"]["messages"][-1][0] == "execution_interrupted"
    server.queue(long)
    server.wait_for(lambda: trained_steps(server) >= before + 7)
    server.kill()
    server.start()
    server.run(long)
    (run,) = set(runs(server)) - others
    resumed = last_weights(run)
    shutil.rmtree(run)
    server.forget()
    server.run(long)
    assert last_weights(run) == resumed and trained_steps(server) == before + 12
    assert sorted(map(len, losses(server)))[-1] == 12


def test_wrong_values_are_told_before_anything_runs(server: Any, workflow: dict[str, Any]):
    with pytest.raises(AssertionError, match="canny thresholds"):
        server.queue(changed(workflow, "11", low=500, high=200))


# ---------------------------------------------------------------- pictures of the graph, and files that come back

CAPTIONS = "a red circle\na blue square\na star"
FROM_GRAPH: dict[str, tuple[str, dict[str, Any]]] = {
    "20": ("LoadImage", {"image": "drawn/shape_00000.png"}),
    "21": ("LoadImage", {"image": "drawn/shape_00001.png"}),
    "22": ("LoadImage", {"image": "drawn/shape_00002.png"}),
    "23": ("ImageBatch", {"image1": ["20", 0], "image2": ["21", 0]}),
    "24": ("ImageBatch", {"image1": ["23", 0], "image2": ["22", 0]}),
    "25": ("GraftCannyHint", {"image": ["24", 0]}),
    "26": ("GraftImageBatch", {"images": ["24", 0], "hints": ["25", 0], "captions": CAPTIONS, "resolution_px": 128, "held_out": 1}),
}


@pytest.fixture(scope="module")
def from_graph(server: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    """The same job on pictures and hints that stock nodes have loaded and put together."""
    server.run(workflow)  # draws the pictures
    added = {id: {"class_type": kind, "inputs": {**defaults(server, kind), **given}} for id, (kind, given) in FROM_GRAPH.items()}
    return changed({**workflow, **added}, "5", dataset=["26", 0])


def encoded_files(server: Any) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (server.output / "graft" / "cache" / "encoded").glob("*.safetensors")}


def test_pictures_and_hints_of_the_graph_are_trained_on_and_found_again(server: Any, from_graph: dict[str, Any]):
    before = trained_steps(server)
    server.run(from_graph)
    files = encoded_files(server)
    assert trained_steps(server) == before + 3 and sum(name.startswith("hint-pictures-") for name in files) == 1
    assert {"26", "5", TRAIN} <= server.run(changed(from_graph, SAMPLER, seed=4)).cached
    server.forget()
    assert "26" not in server.run(changed(from_graph, SAMPLER, seed=5)).cached
    assert trained_steps(server) == before + 3 and encoded_files(server) == files
    server.run(changed(from_graph, "26", hints=["24", 0]))  # other hints: trained anew, and the pictures are found
    assert trained_steps(server) == before + 6
    assert sorted(name.split("-")[0] for name in encoded_files(server).keys() - files.keys()) == ["hint"]


def test_data_of_the_graph_that_does_not_fit_is_told_on_the_node(server: Any, from_graph: dict[str, Any]):
    with pytest.raises(AssertionError, match="captions: expected a caption for each picture"):
        server.queue(changed(from_graph, "26", captions=""))
    kind, told = server.finished(server.queue(changed(from_graph, "26", captions="one\ntwo")))["status"]["messages"][-1]
    assert kind == "execution_error" and told["node_id"] == "26"
    assert "captions: expected one text for all, or 3: one for each picture; found 2 lines" in told["exception_message"]


def test_the_exported_file_gives_the_same_picture_tomorrow(server: Any, workflow: dict[str, Any]):
    workflow = changed(workflow, SAMPLER, seed=6)
    inputs = {**defaults(server, "GraftExportControlNet"), "state": [TRAIN, 0], "file_name": "mine"}
    today = server.run({**workflow, "30": {"class_type": "GraftExportControlNet", "inputs": inputs}})
    (server.folder / "models" / "controlnet").mkdir(exist_ok=True)
    shutil.copy(server.output / "mine.safetensors", server.folder / "models" / "controlnet")
    version = tuple(int(part) for part in server.get("/system_stats")["system"]["comfyui_version"].split(".")[:2])
    stock = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "mine.safetensors"}}
    ours = {"class_type": "GraftLoadControlNet", "inputs": {"controlnet": "mine.safetensors"}}
    for loader in (ours, stock) if version >= (0, 33) else (ours,):  # v0.3.64's takes FLUX.1's own width only
        tomorrow = server.run({**workflow, "9": loader})
        assert np.array_equal(*(saved_pixels(server, run) for run in (today, tomorrow)))
    without = server.run(changed(workflow, "13", strength=0.0))
    assert not np.array_equal(saved_pixels(server, today), saved_pixels(server, without))


def saved_pixels(server: Any, run: Any) -> np.ndarray:
    return cv2.imread(str(server.output / run.outputs[SAVE]["images"][0]["filename"]))


def test_a_training_is_seen_and_stopped_from_the_page_and_the_next_run_goes_on(server: Any, workflow: dict[str, Any]):
    long = changed(changed(workflow, SETTINGS, seed=6), TRAIN, steps=30, vae=["1", 2])
    number = server.queue(long)
    run = server.wait_for(lambda: next((each for each in live(server) if each["phase"] == "running" and each["step"] >= 2), None))["run"]
    for wish in ("sample", "save"):
        assert server.post(f"/graft/live/{run}/wishes/{wish}", {}) == {"accepted": True}
    server.wait_for(lambda: (found := server.get(f"/graft/live/{run}"))["picture_steps"] and found["saved_step"])
    server.post(f"/graft/live/{run}/wishes/stop", {})
    assert server.finished(number)["status"]["status_str"] == "success", "the graph goes on with what is trained"
    stopped = server.get(f"/graft/live/{run}")
    assert stopped["phase"] == "stopped" and 2 <= stopped["step"] < 30 and sum(point[1] for point in stopped["points"]) == stopped["step"]
    assert TRAIN not in server.run(long).cached
    (finished,) = live(server)
    assert finished["phase"] == "finished" and finished["step"] == 30 and finished["node"] == TRAIN
    assert TRAIN in server.run(long).cached


def live(server: Any) -> list[dict[str, Any]]:
    """The trainings that a page would show."""
    return server.get("/graft/live")["runs"]

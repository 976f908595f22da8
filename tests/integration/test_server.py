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
from graft.training.data.encoded import INDEX_BEGINNING
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
    return server.prompt(LINKS)


def changed(workflow: dict[str, Any], node: str, **inputs: Any) -> dict[str, Any]:
    other = copy.deepcopy(workflow)
    other[node]["inputs"].update(inputs)
    return other


def losses(server: Any) -> list[list[float]]:
    """The loss of every step of every run in the store."""
    return [[record.loss for record in HistoryFile(run / "losses.jsonl").read().steps] for run in server.runs]


def weights(run: Path, step: int) -> bytes:
    return (run / f"step_{step:08}" / "weights.safetensors").read_bytes()


def test_the_whole_job_runs_and_a_second_queue_trains_nothing(server: Any, workflow: dict[str, Any]):
    made = server.run(workflow)
    assert (server.output / made.outputs[SAVE]["images"][0]["filename"]).stat().st_size > 1000
    assert server.trained_steps() == 3
    assert set(server.run(workflow).cached) >= {"1", "5", TRAIN, SAMPLER}
    assert server.trained_steps() == 3


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
    before = server.trained_steps()
    for seed in range(3, 8):  # a server on a busy machine takes its time to forget, and does not say when it has
        server.forget()
        again = server.run(changed(workflow, SAMPLER, seed=seed))
        assert server.trained_steps() == before
        if TRAIN not in again.cached:
            return
    pytest.fail("ComfyUI did not empty its cache")


def test_a_cancelled_and_killed_training_ends_as_a_straight_one(server: Any, workflow: dict[str, Any]):
    long = changed(changed(workflow, SETTINGS, seed=5, checkpoint_every=2), TRAIN, steps=12)
    others, before = set(server.runs), server.trained_steps()
    number = server.queue(long)
    server.wait_for(lambda: server.trained_steps() >= before + 3)
    server.post("/interrupt", {})
    asked_at = server.trained_steps()
    assert server.finished(number)["status"]["messages"][-1][0] == "execution_interrupted"
    assert server.trained_steps() <= asked_at + 1, "the step that was being done, and none after it"
    server.queue(long)
    server.wait_for(lambda: server.trained_steps() >= before + 7)
    server.kill()
    server.start()
    server.run(long)
    (run,) = set(server.runs) - others
    resumed = weights(run, 12)
    shutil.rmtree(run)
    server.forget()
    server.run(long)
    assert weights(run, 12) == resumed and server.trained_steps() == before + 12
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
    return changed({**workflow, **server.prompt(FROM_GRAPH)}, "5", dataset=["26", 0])


def encoded_files(server: Any) -> dict[str, int]:
    """What was encoded and when; the index of a data set tells by its time when it was used."""
    files = (server.output / "graft" / "cache" / "encoded").glob("*.safetensors")
    return {path.name: path.stat().st_mtime_ns for path in files if not path.name.startswith(INDEX_BEGINNING)}


def test_pictures_and_hints_of_the_graph_are_trained_on_and_found_again(server: Any, from_graph: dict[str, Any]):
    before = server.trained_steps()
    server.run(from_graph)
    files = encoded_files(server)
    assert server.trained_steps() == before + 3 and sum(name.startswith("hint-pictures-") for name in files) == 1
    assert {"26", "5", TRAIN} <= server.run(changed(from_graph, SAMPLER, seed=4)).cached
    server.forget()
    assert "26" not in server.run(changed(from_graph, SAMPLER, seed=5)).cached
    assert server.trained_steps() == before + 3 and encoded_files(server) == files
    server.run(changed(from_graph, "26", hints=["24", 0]))  # other hints: trained anew, and the pictures are found
    assert server.trained_steps() == before + 6
    assert sorted(name.split("-")[0] for name in encoded_files(server).keys() - files.keys()) == ["hint"]


def test_data_of_the_graph_that_does_not_fit_is_told_on_the_node(server: Any, from_graph: dict[str, Any]):
    with pytest.raises(AssertionError, match="captions: expected a caption for each picture"):
        server.queue(changed(from_graph, "26", captions=""))
    kind, told = server.finished(server.queue(changed(from_graph, "26", captions="one\ntwo")))["status"]["messages"][-1]
    assert kind == "execution_error" and told["node_id"] == "26"
    assert "captions: expected one text for all, or 3: one for each picture; found 2 lines" in told["exception_message"]


def test_the_exported_file_gives_the_same_picture_tomorrow(server: Any, workflow: dict[str, Any]):
    workflow = changed(workflow, SAMPLER, seed=6)
    today = server.run({**workflow, **server.prompt({"30": ("GraftExportControlNet", {"state": [TRAIN, 0], "file_name": "mine"})})})
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


def test_a_training_is_seen_and_stopped_from_the_page_and_goes_on_as_if_nothing_had_happened(server: Any, workflow: dict[str, Any]):
    long, others = changed(changed(workflow, SETTINGS, seed=6), TRAIN, steps=30, vae=["1", 2]), set(server.runs)
    number = server.queue(long)
    run = server.wait_for(lambda: next((each for each in live(server) if each["phase"] == "running" and each["step"] >= 2), None))["run"]
    for wish in ("sample", "save"):
        assert server.post(f"/graft/live/{run}/wishes/{wish}", {}) == {"accepted": True}
    server.wait_for(lambda: (found := server.get(f"/graft/live/{run}"))["picture_steps"] and found["saved_step"])
    server.post(f"/graft/live/{run}/wishes/stop", {})
    assert server.finished(number)["status"]["status_str"] == "success", "the graph goes on with what is trained"
    stopped = server.get(f"/graft/live/{run}")
    assert stopped["phase"] == "stopped" and 2 <= stopped["step"] < 30 and sum(point[1] for point in stopped["points"]) == stopped["step"]
    with pytest.raises(AssertionError):
        server.post(f"/graft/live/{run}/wishes/save", {})  # 409: nothing runs that could do it
    assert TRAIN not in server.run(long).cached
    (finished,) = live(server)
    assert finished["phase"] == "finished" and finished["step"] == 30 and finished["node"] == TRAIN
    assert TRAIN in server.run(long).cached
    (folder,) = set(server.runs) - others
    assert weights(folder, 30) == weights_of_a_straight_run(server, long, folder)


def weights_of_a_straight_run(server: Any, workflow: dict[str, Any], folder: Path) -> bytes:
    """After 30 steps that nobody has interrupted, sampled from or saved between."""
    folder.rename(server.folder / "was_stopped")
    server.forget()
    server.run(workflow)
    return weights(folder, 30)


def live(server: Any) -> list[dict[str, Any]]:
    """The trainings that a page would show."""
    return server.get("/graft/live")["runs"]

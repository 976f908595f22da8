"""What trains again and what does not, in a running ComfyUI; and what a training leaves behind there."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.headless.cli import main
from graft.training.checkpoint import list_checkpoints
from graft.training.files.write import write_safetensors
from graft.training.models.nano import load_nano

MB = 1 << 20
BASE, DATA, FIRST, SECOND, THIRD = "1", "3", "11", "12", "13"
FIRST_SETTINGS, OTHER_SETTINGS = "6", "7"
PICTURES = "made"
SETTINGS = {"learning_rate": 1e-3, "batch_size": 1, "horizon_steps": 50, "evaluate_every": 0, "evaluate_samples": 0}
COMMON = {"model": [BASE, 0], "trainable": ["4", 0], "data": ["5", 0], "settings": [FIRST_SETTINGS, 0]}
LINKS: dict[str, tuple[str, dict[str, Any]]] = {
    BASE: ("GraftNanoFlux", {}),
    DATA: ("GraftImageFolder", {"folder": PICTURES, "resolution_px": 64, "held_out": 0}),
    "4": ("GraftBuildControlNet", {"model": [BASE, 0], "layout": "xlabs", "double_blocks": 1, "single_blocks": 0}),
    "5": ("GraftEncodeDataset", {"dataset": [DATA, 0], "clip": ["1", 1], "vae": ["1", 2], "trainable": ["4", 0]}),
    FIRST_SETTINGS: ("GraftSettings", SETTINGS),
    OTHER_SETTINGS: ("GraftSettings", {**SETTINGS, "learning_rate": 5e-4}),
    FIRST: ("GraftTrainSteps", {**COMMON, "steps": 2}),
    SECOND: ("GraftTrainSteps", {**COMMON, "steps": 1, "previous": [FIRST, 0]}),
    THIRD: ("GraftTrainSteps", {**COMMON, "steps": 1, "previous": [FIRST, 0], "settings": [OTHER_SETTINGS, 0]}),
    "21": ("GraftLossPlot", {"state": [FIRST, 0]}),
    "22": ("GraftLossPlot", {"state": [SECOND, 0]}),
    "23": ("GraftLossPlot", {"state": [THIRD, 0]}),
    "31": ("PreviewImage", {"images": ["21", 0]}),
    "32": ("PreviewImage", {"images": ["22", 0]}),
    "33": ("PreviewImage", {"images": ["23", 0]}),
    "41": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a red circle"}),
    "42": ("EmptySD3LatentImage", {"width": 64, "height": 64}),
    "43": ("KSampler", {"model": [BASE, 0], "positive": ["41", 0], "negative": ["41", 0], "latent_image": ["42", 0], "steps": 2, "cfg": 1.0,
                        "seed": 1, "sampler_name": "euler", "scheduler": "simple"}),
    "44": ("VAEDecode", {"samples": ["43", 0], "vae": ["1", 2]}),
    "45": ("SaveImage", {"images": ["44", 0]}),
}  # fmt: skip
COMMON_NODES = (BASE, DATA, "4", "5", FIRST_SETTINGS, OTHER_SETTINGS)
ONE = (*COMMON_NODES, FIRST, "21", "31")
CHAIN = (*ONE, SECOND, "22", "32")
BRANCHES = (*CHAIN, THIRD, "23", "33")
SAMPLING = (BASE, "41", "42", "43", "44", "45")

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def server(comfyui: Path, new_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = new_server(comfyui, tmp_path_factory.mktemp("server"))
    running.add_faults()
    assert main(["shapes", str(running.folder / "input" / PICTURES), "--count", "4", "--seed", "0", "--size", "64"]) == 0
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def whole(server: Any) -> Prompt:
    return server.prompt(LINKS)


def part(whole: Prompt, nodes: tuple[str, ...], **changes: dict[str, Any]) -> Prompt:
    """Some nodes of the graph; changes are named n<id>."""
    chosen = copy.deepcopy({id: whole[id] for id in nodes})
    for name, inputs in changes.items():
        chosen[name[1:]]["inputs"].update(inputs)
    return chosen


def weights(run: Path) -> dict[int, bytes]:
    return {checkpoint.step: (checkpoint.path / "weights.safetensors").read_bytes() for checkpoint in list_checkpoints(run)}


def trained_by(server: Any, prompt: Prompt) -> int:
    """How many steps a queued workflow trains."""
    before = server.trained_steps()
    server.run(prompt)
    return server.trained_steps() - before


def remove_runs(server: Any, *names: str) -> None:
    for run in server.runs:
        if run.name in names:
            run.rename(server.folder / f"{run.name}.{len(list(server.folder.iterdir()))}")


def test_raised_steps_of_the_second_train_step_give_what_one_straight_run_gives(server: Any, whole: Prompt):
    assert trained_by(server, part(whole, CHAIN)) == 3
    again = server.run(part(whole, CHAIN, n12={"steps": 2}))
    assert {BASE, "5", FIRST} <= again.cached and SECOND not in again.cached and server.trained_steps() == 4
    (run,) = server.runs  # the same settings go on in the same run
    chained = weights(run)[4]
    remove_runs(server, run.name)
    server.forget()
    assert trained_by(server, part(whole, ONE, n11={"steps": 4})) == 4
    assert weights(server.runs[0])[4] == chained


def test_two_branches_from_one_state_are_both_right_in_either_order(server: Any, whole: Prompt):
    remove_runs(server, *(run.name for run in server.runs))
    server.forget()
    assert trained_by(server, part(whole, BRANCHES)) == 4
    first = {run.name: weights(run) for run in server.runs}
    assert len(first) == 2
    remove_runs(server, *first)
    server.forget()
    assert trained_by(server, part(whole, (*ONE, THIRD, "23", "33"))) == 3
    assert trained_by(server, part(whole, BRANCHES)) == 1
    assert {run.name: weights(run)[3] for run in server.runs} == {name: kept[3] for name, kept in first.items()}


def test_every_input_that_matters_trains_again_and_nothing_else(server: Any, whole: Prompt):
    server.run(part(whole, ONE))
    encoded = server.output / "graft" / "cache" / "encoded"
    assert trained_by(server, part(whole, ONE, n6={"seed": 1})) == 2
    assert trained_by(server, part(whole, ONE, n6={"learning_rate": 2e-3})) == 2
    assert trained_by(server, part(whole, ONE, n4={"seed": 9})) == 2
    assert trained_by(server, part(whole, ONE, n6={"checkpoint_every": 1})) == 0  # how often it is saved changes no number
    latents = {path.name for path in encoded.glob("latents*")}
    caption = server.folder / "input" / PICTURES / "shape_00001.txt"
    kept = caption.read_text(encoding="utf-8")
    caption.write_text("something else", encoding="utf-8")
    before, changed = server.trained_steps(), server.run(part(whole, ONE))
    assert server.trained_steps() == before + 2
    assert DATA not in changed.cached and {BASE, "4"} <= changed.cached
    assert latents and {path.name for path in encoded.glob("latents*")} == latents  # pictures were not encoded again
    caption.write_text(kept, encoding="utf-8")
    assert trained_by(server, part(whole, ONE)) == 0  # as it was: found


def test_another_base_trains_again(server: Any, whole: Prompt):
    write_base(server, 0.25)
    prompt = on_a_file(server, whole, "GraftLoadTransformer", transformer="base.safetensors")
    assert trained_by(server, prompt) == 2
    write_base(server, 0.5)  # another file under the same name
    assert trained_by(server, prompt) == 2


def on_a_file(server: Any, whole: Prompt, loader: str, **inputs: Any) -> Prompt:
    """A training on the base that a loader gives; text and pictures are encoded by the nano's own."""
    prompt = {**part(whole, ONE), **server.prompt({BASE: (loader, inputs)}), "50": whole[BASE]}
    prompt["5"]["inputs"] |= {"clip": ["50", 1], "vae": ["50", 2]}
    return prompt


def write_base(server: Any, change: float) -> None:
    folder = server.folder / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    tensors = {name: tensor.clone() for name, tensor in load_nano().transformer.items()}
    tensors["img_in.bias"] += change
    write_safetensors(folder / "base.safetensors", tensors)


def test_memory_that_runs_out_leaves_the_server_usable(server: Any, whole: Prompt):
    prompt = part(whole, ONE, n6={"seed": 77}, n11={"steps": 4})
    server.no_memory_after(2)
    try:
        status = server.finished(server.queue(prompt))["status"]
    finally:
        server.no_memory_after(None)
    (error,) = [data for kind, data in status["messages"] if kind == "execution_error"]
    assert error["node_id"] == FIRST and error["exception_type"].endswith("OutOfMemory")
    assert "the 2 steps that were trained are kept" in error["exception_message"] and "`checkpointing` on" in error["exception_message"]
    assert trained_by(server, prompt) == 2  # goes on from there


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_trainings_leave_no_memory_behind(server: Any, whole: Prompt, record_property: Any):
    before = picture(server, whole)
    sizes = []
    for number in range(10):
        assert trained_by(server, part(whole, ONE, n6={"seed": 100 + number})) == 2
        sizes.append(server.resident_bytes() / MB)
    record_property("resident_mb", [round(size) for size in sizes])
    (server.folder / "resident_mb.json").write_text(json.dumps(sizes))
    # The first ones fill what is filled once (allocator, caches); a training's own tensors would be 30 MB each time.
    assert sizes[-1] - sizes[3] < 40, sizes
    server.forget()
    assert picture(server, whole) == before  # other nodes, and the user's MODEL, are as they were


def picture(server: Any, whole: Prompt) -> bytes:
    """Its pixels."""
    made = server.run(part(whole, SAMPLING)).outputs["45"]["images"][0]
    from PIL import Image

    with Image.open(server.output / made["filename"]) as image:
        return image.tobytes()


def test_graft_run_sends_a_workflow_here_and_follows_it(server: Any, whole: Prompt, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(part(whole, (*ONE, *SAMPLING), n6={"seed": 500})), encoding="utf-8")
    before = server.trained_steps()
    assert main(["run", str(path), "--server", server.url, "--set", "43.seed=9", "--output", str(tmp_path / "here")]) == 0
    shown = capsys.readouterr()
    assert server.trained_steps() == before + 2 and "Train Steps (node 11)" in shown.err and "2/2 steps  loss" in shown.err
    assert 'node 45 "Save Image" (SaveImage): output/' in shown.out and list((tmp_path / "here").glob("*.png"))


def test_graft_run_tells_what_the_server_refuses(server: Any, whole: Prompt, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    nodes = [
        {"id": 1, "type": "EmptyImage", "outputs": [{"type": "IMAGE"}], "widgets_values": [64, 64, 1, 0]},
        {"id": 2, "type": "GraftCannyHint", "title": "Edges", "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
         "outputs": [{"type": "IMAGE"}, {"type": "GRAFT_HINT"}], "widgets_values": [300, 200, 0, 0]},
        {"id": 3, "type": "PreviewImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]},
    ]  # fmt: skip
    path = tmp_path / "ui.json"
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    path.write_text(json.dumps({"nodes": nodes, "links": links, "version": 0.4}), encoding="utf-8")
    assert main(["run", str(path), "--server", server.url]) == 2
    assert 'node 2 "Edges" (GraftCannyHint)' in capsys.readouterr().err
    assert main(["run", str(path), "--server", server.url, "--set", "Edges.low=100"]) == 0
    assert "temp/" in capsys.readouterr().out


def test_a_restarted_server_finds_what_was_trained_on_a_stock_loaders_model(server: Any, whole: Prompt):
    """And a cache that gives its entries up at once (memory pressure) makes nothing train twice."""
    write_base(server, 1.0)
    prompt = on_a_file(server, whole, "UNETLoader", unet_name="base.safetensors", weight_dtype="default")
    loads = server.finished(server.queue(prompt))["status"]["status_str"] == "success"  # v0.3.64's loader takes no model of this width
    if not loads:
        prompt = part(whole, ONE)
        server.run(prompt)
    before, notes = server.trained_steps(), sorted((server.output / "graft" / "cache" / "fingerprints").glob("model-*.json"))
    server.kill()
    pressure = "--cache-ram" in option_names(server)
    server.start(*(("--cache-ram", "100000") if pressure else ("--cache-none",)))
    for _ in range(2):
        server.run(prompt)
    assert server.trained_steps() == before
    if loads:
        assert notes and sorted((server.output / "graft" / "cache" / "fingerprints").glob("model-*.json")) == notes


def option_names(server: Any) -> str:
    return (server.checkout / "comfy" / "cli_args.py").read_text(encoding="utf-8")

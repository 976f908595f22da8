"""LoRAs in a running ComfyUI server: the shipped workflows, sweeps, masks, regularisation pictures, LORA_MODEL, a LoRA on a ControlNet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from graft.nodes.headless.cli import main
from graft.training.files.header import read_header
from graft.training.files.tensors import read_tensors
from graft.training.files.write import write_safetensors
from graft.training.history import HistoryFile
from graft.training.models.flux import Flux
from graft.training.models.nano import load_nano
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.trainable.controlnet_export import exported_tensors

WORKFLOWS = Path(__file__).parents[2] / "workflows"
COMMON = (
    "GraftDrawShapes.count=8", "GraftImageFolder.held_out=2", "GraftSettings.batch_size=2", "GraftSettings.warmup_steps=0",
    "GraftSettings.horizon_steps=3", "GraftSettings.evaluate_every=0", "GraftSettings.learning_rate=0.02", "EmptySD3LatentImage.batch_size=1",
    "GraftLoRAGrid.steps=1", "GraftLoRAGrid.captions=a red star",
)  # fmt: skip
SMALL = {
    "nano_lora": (
        *COMMON, "GraftTrainSteps.steps=3", "Sample without LoRA.steps=2", "Sample with LoRA.steps=2",
        "Sample an old caption with LoRA.steps=2", "GraftLoRAExam.pictures=1", "GraftLoRAExam.columns=1", "GraftLoRAExam.steps=1",
        "GraftReport.required_new_word_rate=0", "GraftReport.largest_old_caption_fall=1",
    ),
    "nano_lora_sweep": (
        *COMMON, "GraftTrainSweep.steps=2", "GraftTrainSweep.learning_rates=0.001, 0.02", "Sample with the best LoRA.steps=2",
    ),
}  # fmt: skip
"""The shipped workflows with little to do."""
SIDE_PX = 64
SAMPLER: dict[str, Any] = {"steps": 2, "cfg": 1.0, "seed": 1, "sampler_name": "euler", "scheduler": "simple"}
BASE: dict[str, tuple[str, dict[str, Any]]] = {
    "nano": ("GraftNanoFlux", {}),
    "drawn": ("GraftDrawShapes", {"folder": "drawn", "count": 2, "size_px": SIDE_PX}),
    "folder": ("GraftImageFolder", {"folder": ["drawn", 0], "resolution_px": SIDE_PX, "held_out": 0}),
    "settings": ("GraftSettings", {"learning_rate": 2e-2, "schedule": "constant", "batch_size": 1, "horizon_steps": 2, "evaluate_every": 0}),
    "lora": ("GraftBuildLoRA", {"model": ["nano", 0], "rank": 2, "alpha": 2.0, "layers": "attention", "blocks": "single_blocks.*"}),
}
ENCODERS: dict[str, Any] = {"clip": ["nano", 1], "vae": ["nano", 2], "trainable": ["lora", 0]}
TRAINED: dict[str, Any] = {"model": ["nano", 0], "trainable": ["lora", 0], "settings": ["settings", 0], "steps": 2}
MASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "blue": ("EmptyImage", {"width": SIDE_PX, "height": SIDE_PX, "color": 255}),
    "green": ("EmptyImage", {"width": SIDE_PX, "height": SIDE_PX, "color": 65280}),
    "both": ("ImageBatch", {"image1": ["blue", 0], "image2": ["green", 0]}),
    "mask": ("ImageToMask", {"image": ["both", 0], "channel": "green"}),
    "batch": (
        "GraftImageBatch",
        {"images": ["both", 0], "masks": ["mask", 0], "captions": "blue\ngreen", "resolution_px": SIDE_PX, "held_out": 0, "background_weight": 0.1},
    ),
    "whole": ("GraftImageBatch", {"images": ["both", 0], "captions": "blue\ngreen", "resolution_px": SIDE_PX, "held_out": 0}),
    "data": ("GraftEncodeDataset", {"dataset": ["batch", 0], **ENCODERS}),
    "plain": ("GraftEncodeDataset", {"dataset": ["whole", 0], **ENCODERS}),
    "prior": ("GraftEncodeDataset", {"dataset": ["folder", 0], **ENCODERS}),
    "masked": ("GraftTrainSteps", {**TRAINED, "data": ["data", 0], "regularisation": ["prior", 0], "regularisation_weight": 0.5}),
    "unmasked": ("GraftTrainSteps", {**TRAINED, "data": ["plain", 0]}),
    "report": ("GraftReport", {"state": ["masked", 0], "file_name": "masked"}),
    "other": ("GraftReport", {"state": ["unmasked", 0], "file_name": "unmasked"}),
}  # fmt: skip
AS_LORA_MODEL: dict[str, tuple[str, dict[str, Any]]] = {
    "trained": ("GraftTrainedLoRA", {"model": ["nano", 0], "state": ["masked", 0]}),
    "stock": ("LoraModelLoader", {"model": ["nano", 0], "lora": ["trained", 2], "strength_model": 1.0}),
    "text": ("CLIPTextEncode", {"clip": ["nano", 1], "text": "a red circle"}),
    "empty": ("EmptySD3LatentImage", {"width": SIDE_PX, "height": SIDE_PX}),
    **{
        f"{name} {part}": entry
        for name, model in (("without", "nano"), ("ours", "trained"), ("theirs", "stock"))
        for part, entry in {
            "sample": ("KSampler", {"model": [model, 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0], **SAMPLER}),
            "decode": ("VAEDecode", {"samples": [f"{name} sample", 0], "vae": ["nano", 2]}),
            "save": ("SaveImage", {"images": [f"{name} decode", 0], "filename_prefix": name}),
        }.items()
    },
}  # fmt: skip
CONTROLNET: dict[str, tuple[str, dict[str, Any]]] = {
    "build": ("GraftBuildControlNetLoRA", {"controlnet": "nano.safetensors", "rank": 2, "alpha": 2.0}),
    "hints": ("GraftEncodeDataset", {"dataset": ["folder", 0], **ENCODERS, "trainable": ["build", 0]}),
    "train": ("GraftTrainSteps", {**TRAINED, "trainable": ["build", 0], "data": ["hints", 0]}),
    "merged": ("GraftExportControlNet", {"state": ["train", 0], "file_name": "merged", "lora_file": True}),
}


@pytest.fixture(scope="module")
def server(comfyui: Path, new_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = new_server(comfyui, tmp_path_factory.mktemp("lora_server"))
    running.start()
    yield running
    running.kill()


def pixels(server: Any, run: Any, node: str) -> np.ndarray:
    (picture,) = run.outputs[node]["images"]
    return cv2.imread(str(server.output / picture["filename"]))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_shipped_workflow_runs_to_its_end(server: Any, tmp_path: Path, name: str):
    sets = [part for setting in SMALL[name] for part in ("--set", setting)]
    assert main(["run", str(WORKFLOWS / f"{name}.json"), "--server", server.url, "--output", str(tmp_path), *sets]) == 0
    files = {"nano_lora": ("nano_lora",), "nano_lora_sweep": ("lr0.001", "lr0.02")}[name]
    for file in files:
        header = read_header(server.output / f"{file}.safetensors")
        assert header.metadata["ss_sd_model_name"] == "nano_flux" and header.tensors
    if name == "nano_lora":
        report = json.loads((server.output / "report.json").read_text(encoding="utf-8"))
        assert report["train_steps"] == 3 and report["weights_changed"] is True and "new_word_rate_after" in report


def test_masks_and_regularisation_pictures_are_trained_with_and_the_lora_goes_to_stock_nodes(server: Any):
    (saver,) = {"SaveLoRA", "SaveLoRANode"} & set(server.get("/object_info"))  # the latter in v0.3.64
    saved = {"saved": (saver, {"lora": ["trained", 2], "prefix": "stock/lora"})}
    run = server.run(server.prompt({**BASE, **MASKED, **AS_LORA_MODEL, **saved}))
    reports = {name: json.loads((server.output / f"{name}.json").read_text(encoding="utf-8")) for name in ("masked", "unmasked")}
    assert all(report["weights_changed"] and report["train_steps"] == 2 for report in reports.values())
    assert reports["masked"]["regularisation_loss"] > 0 and "regularisation_loss" not in reports["unmasked"]
    first = {report["run_key"]: name for name, report in reports.items()}
    losses = {first[key]: HistoryFile(path / "losses.jsonl").read().steps[0].loss for path in server.runs if (key := run_key(path)) in first}
    assert losses["masked"] != losses["unmasked"], "the same pictures, texts, times and noise"
    ours, theirs, without = (pixels(server, run, f"{name} save") for name in ("ours", "theirs", "without"))
    assert np.array_equal(ours, theirs) and not np.array_equal(ours, without)
    (file,) = (server.output / "stock").glob("lora_*.safetensors")
    assert all(name.startswith("lora_unet_single_blocks_") for name in read_tensors(file))
    assert "not loaded" not in server.log()


def run_key(run: Path) -> str:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))["run_key"]


def test_a_lora_on_a_controlnet_is_trained_merged_and_trained_further(server: Any):
    folders = {kind: server.folder / "models" / kind for kind in ("controlnet", "loras")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    module = ControlNetRecipe(layout="xlabs", double_depth=1).build(Flux.from_weights(load_nano().transformer)).module
    torch.nn.init.normal_(module.controlnet_blocks[0].weight, std=0.02)  # zero as they begin, they would let no gradient through
    write_safetensors(folders["controlnet"] / "nano.safetensors", exported_tensors(module, "xlabs")[0])
    server.run(server.prompt({**BASE, **CONTROLNET}))
    before, merged = (read_tensors(path) for path in (folders["controlnet"] / "nano.safetensors", server.output / "merged.safetensors"))
    assert before.keys() == merged.keys() and any(not np.array_equal(before[name].float(), merged[name].float()) for name in before)
    shutil.move(server.output / "merged_lora.safetensors", folders["loras"])
    kind, widgets = CONTROLNET["build"]
    further = {**CONTROLNET, "build": (kind, {**widgets, "lora": "merged_lora.safetensors"})}
    server.run(server.prompt({**BASE, **further}))
    weights = [json.loads((run / "run.json").read_text(encoding="utf-8"))["recipe"] for run in server.runs]
    assert [("weights" in recipe, "rank" in recipe) for recipe in weights if recipe["kind"] == "controlnet_lora"].count((True, False)) == 1

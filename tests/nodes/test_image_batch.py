"""Image Batch Dataset as the graph calls it, and a whole graph without ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from graft.nodes.data import EncodeDataset
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.headless.run import run_workflow
from graft.nodes.host import use_host
from graft.nodes.image_batch import ImageBatchDataset
from graft.nodes.load import NanoFlux
from graft.training.data.canny import CannyRecipe
from graft.training.data.dataset import GivenHints
from graft.training.errors import InputError
from graft.training.trainable.controlnet import ControlNetRecipe
from torch import Tensor


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    monkeypatch.setattr("os.fsync", lambda handle: None)


def pictures(count: int, *size: int) -> Tensor:
    return torch.rand(count, *(size or (64, 64)), 3, generator=torch.Generator().manual_seed(count))


def made(**given: Any) -> Any:
    """Every value as the list that ComfyUI hands over."""
    values = {"images": [pictures(3)], "captions": ["a"], "resolution_px": [64], "held_out": [1], "missing_captions": ["stop"], **given}
    return ImageBatchDataset().execute(**values)[0]


def test_lists_of_batches_and_of_captions():
    dataset = made(images=[pictures(2), pictures(1, 80, 100)], captions=["a", "b\nb", "c"])
    assert [sample.caption for sample in dataset.scan()] == ["a", "b b", "c"] and dataset.hint == CannyRecipe()
    assert dataset.key() == made(images=[pictures(2), pictures(1, 80, 100)], captions=[["a", "b b", "c"]]).key()
    assert [sample.caption for sample in made(captions=["x\ny\nz"]).scan()] == ["x", "y", "z"]


def test_hints_or_a_recipe_and_not_both():
    assert made(hints=[pictures(3)]).hint == GivenHints() and made(recipe=[CannyRecipe.fixed(7, 9)]).hint == CannyRecipe.fixed(7, 9)
    with pytest.raises(InputError, match="hints: expected either hints or a recipe to make them by; found both"):
        made(hints=[pictures(3)], recipe=[CannyRecipe()])
    with pytest.raises(InputError, match=r"hints: expected RGB pictures.*found a NoneType"):
        made(hints=[None])  # Canny Hint without an image


def test_a_list_where_one_value_belongs():
    with pytest.raises(InputError, match="resolution_px: expected one value; found 2 in a list"):
        made(resolution_px=[64, 128])
    assert made(resolution_px=[64, 64]).resolution_px == 64


def test_pictures_without_captions_stop_unless_asked_for():
    with pytest.raises(InputError, match="3 problems: picture 1 has no caption"):
        made(captions=[""])
    assert [sample.caption for sample in made(captions=[""], missing_captions=["empty"]).scan()] == [""] * 3


@pytest.mark.parametrize("layout", ["xlabs", "instantx"])
def test_encode_dataset_takes_it(layout: str):
    """Also under inference mode, in which ComfyUI makes every tensor."""
    with torch.inference_mode():
        _, clip, vae = NanoFlux().execute()
        hints = pictures(3) * 0.5
        (data,) = EncodeDataset().execute(made(hints=[hints]), clip, vae, ControlNetRecipe(layout=layout), 4)
    rows = [sample.row for sample in data.train]
    assert (data.train_size, data.held_out_size) == (2, 1) and data.latents(data.train).shape == (2, 16, 8, 8)
    expected = (hints[rows] * 255).round() / 255
    if layout == "instantx":
        with torch.no_grad():
            latents = (vae.autoencoder.encode(expected.movedim(-1, 1)) - 0.1159) * 0.3611
        torch.testing.assert_close(data.hints(data.train, 0, [0, 0]), latents, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(data.hints(data.train, 0, [0, 0]), expected.movedim(-1, 1) * 2 - 1)


class Quiet:
    def node_started(self, number: int, count: int, name: str) -> None: ...
    def node_finished(self, seconds: float) -> None: ...
    def check_interrupt(self) -> None: ...


GRAPH: dict[str, tuple[str, dict[str, Any]]] = {
    "1": ("GraftNanoFlux", {}),
    "2": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a red circle on a blue background"}),
    "3": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 3}),
    "4": (
        "KSampler",
        {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "steps": 1, "cfg": 1.0, "seed": 1,
         "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0},
    ),
    "5": ("VAEDecode", {"samples": ["4", 0], "vae": ["1", 2]}),
    "6": ("GraftCannyHint", {"image": ["5", 0], "low": 20, "high": 40, "low_to": 0, "high_to": 0}),
    "7": (
        "GraftImageBatch",
        {"images": ["5", 0], "hints": ["6", 0], "captions": "one\ntwo\nthree", "resolution_px": 64, "held_out": 1, "missing_captions": "stop"},
    ),
    "8": ("GraftBuildControlNet", {"model": ["1", 0], "layout": "xlabs", "double_blocks": 1, "single_blocks": 0, "seed": 0}),
    "9": ("GraftEncodeDataset", {"dataset": ["7", 0], "clip": ["1", 1], "vae": ["1", 2], "trainable": ["8", 0], "hint_variants": 1}),
    "10": ("GraftSettings", {}),
    "11": ("GraftTrainSteps", {"model": ["1", 0], "trainable": ["8", 0], "data": ["9", 0], "settings": ["10", 0], "steps": 1}),
    "12": ("GraftReport", {"state": ["11", 0], "file_name": "report", "required_edge_f1": 0.0}),
    "13": (
        "GraftValidationGrid",
        {"model": ["1", 0], "vae": ["1", 2], "data": ["9", 0], "state": ["11", 0], "weights": "trained", "pictures": 1, "columns": 1,
         "steps": 1, "guidance": 3.5, "strength": 1.0, "start": 0.0, "end": 1.0, "seed": 0},
    ),
    "14": ("SaveImage", {"images": ["13", 0], "filename_prefix": "grid"}),
}  # fmt: skip


def test_a_whole_graph_without_comfyui(tmp_path: Path):
    """Pictures that the graph itself has sampled, hints that a node has made of them, and a training on both."""
    from graft.nodes.registry import NODE_CLASS_MAPPINGS

    given = {name: entry[1]["default"] for name, entry in NODE_CLASS_MAPPINGS["GraftSettings"].INPUT_TYPES()["required"].items()}
    prompt = {id: {"class_type": kind, "inputs": {**(given if kind == "GraftSettings" else {}), **values}} for id, (kind, values) in GRAPH.items()}
    (tmp_path / "graph.json").write_text(json.dumps(prompt), encoding="utf-8")
    with use_host(HeadlessHost(tmp_path / "out")):
        run_workflow(tmp_path / "graph.json", [], Quiet())
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["train_steps"] == 1
    (run,) = (tmp_path / "runs").glob("*/run.json")
    described = json.loads(run.read_text(encoding="utf-8"))
    assert described["hint"] == {"recipe": "given as pictures", "form": "pixels"} and described["train_samples"] == 2
    assert list((tmp_path / "out").glob("grid*.png"))

"""The nodes of data in a running ComfyUI: folders, tables, masks, captions, hints and buckets in one graph, pictures of the graph in another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from graft.training.data.encoded import Encoded, load_index
from graft.training.history import HistoryFile

BASE, TRAINABLE, SETTINGS, ENCODE, TRAIN = "1", "2", "3", "4", "5"
REPORT, SHEET, FIGURES = "31", "32", "33"
TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    BASE: ("GraftNanoFlux", {}),
    TRAINABLE: ("GraftBuildControlNet", {"model": [BASE, 0], "layout": "xlabs", "double_blocks": 1, "single_blocks": 0}),
    SETTINGS: ("GraftSettings", {"learning_rate": 1e-3, "batch_size": 2, "horizon_steps": 2, "evaluate_every": 0, "evaluate_samples": 0}),
    ENCODE: ("GraftEncodeDataset", {"clip": [BASE, 1], "vae": [BASE, 2], "trainable": [TRAINABLE, 0]}),
    TRAIN: ("GraftTrainSteps", {"model": [BASE, 0], "trainable": [TRAINABLE, 0], "data": [ENCODE, 0], "settings": [SETTINGS, 0], "steps": 2}),
    "6": ("GraftLossPlot", {"state": [TRAIN, 0]}),
    "7": ("PreviewImage", {"images": ["6", 0]}),
    "8": ("GraftCheckDataset", {"pictures": 12}),
    REPORT: ("PreviewAny", {"source": ["8", 0]}),
    SHEET: ("SaveImage", {"images": ["8", 1]}),
    FIGURES: ("PreviewAny", {"source": ["8", 2]}),
}
SOURCE = {"resolution_px": 64, "held_out": 0, "unreadable_pictures": "skip", "recipe": ["10", 1]}
FROM_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "10": ("GraftPictureHint", {"kind": "soft edges", "strength": 1.0}),
    "11": ("GraftPictureSource", {**SOURCE, "path": "tree"}),
    "12": ("GraftMasks", {"dataset": ["11", 0], "masks": "files", "background_weight": 0.25}),
    "13": ("GraftDatasetOptions", {"dataset": ["12", 0], "repeats": 3, "trigger_word": "sks"}),
    "14": ("GraftPictureSource", {**SOURCE, "path": "table"}),
    "15": ("GraftCombineDatasets", {"dataset_1": ["13", 0], "dataset_2": ["14", 0]}),
    "16": ("GraftFraming", {"dataset": ["15", 0], "sizes": "buckets", "min_px": 32, "max_px": 128, "step_px": 32, "flip": True, "cropped_views": 1}),
}
FROM_THE_GRAPH: dict[str, tuple[str, dict[str, Any]]] = {
    "10": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0xC02020}),
    "11": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0x40A0E0}),
    "12": ("ImageBatch", {"image1": ["10", 0], "image2": ["11", 0]}),
    "13": ("ImageInvert", {"image": ["12", 0]}),
    "14": ("ImageToMask", {"image": ["12", 0], "channel": "red"}),
    "16": (
        "GraftImageBatch",
        {"images": ["12", 0], "captions": "a red sheet\na blue sheet", "resolution_px": 64, "held_out": 0, "hints": ["13", 0], "masks": ["14", 0]},
    ),
}
RED_BGR, GREEN_BGR, BLUE_BGR = (32, 32, 192), (32, 160, 32), (224, 160, 64)


def write(path: Path, colour: tuple[int, int, int], width: int, height: int, caption: str | None, number: int = 0) -> None:
    """A picture of its own: a ground with a square in another place for each number."""
    picture = np.full((height, width, 3), colour, np.uint8)
    cv2.rectangle(picture, (4 + 8 * number, 8), (20 + 8 * number, 40), (255, 255, 255), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")


def write_files(folder: Path) -> None:
    """Five good pictures in kohya folders, one of them wide and one with a mask, a broken one, and two of a table."""
    for number in range(2):
        write(folder / "tree" / "2_red" / f"{number}.png", RED_BGR, 64, 64, f"a red sheet {number}", number)
        write(folder / "tree" / "1_green" / f"{number}.png", GREEN_BGR, 64, 64, f"a green sheet {number}", number)
        write(folder / "table" / f"{number}.png", BLUE_BGR, 64, 64, None, number)
    write(folder / "tree" / "2_red" / "wide.png", RED_BGR, 160, 60, "a wide red sheet")
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    cv2.imwrite(str(folder / "tree" / "2_red" / "0-masklabel.png"), mask)
    (folder / "tree" / "1_green" / "broken.png").write_bytes((folder / "tree" / "1_green" / "0.png").read_bytes()[:60])
    (folder / "tree" / "1_green" / "broken.txt").write_text("a broken sheet", "utf-8")
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"a blue sheet {number}"}) for number in range(2)]
    (folder / "table" / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture(scope="module")
def server(comfyui: Path, new_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = new_server(comfyui, tmp_path_factory.mktemp("server"))
    write_files(running.folder / "input")
    running.start()
    yield running
    running.kill()


def prompt(server: Any, nodes: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The data's nodes, of which 16 is the last, with a check and a training of two steps."""
    whole: dict[str, Any] = server.prompt({**TRAINING, **nodes})
    for reader in (ENCODE, "8"):
        whole[reader]["inputs"]["dataset"] = ["16", 0]
    return whole


def encoded_in(server: Any) -> dict[Path, Encoded]:
    folder = server.output / "graft" / "cache" / "encoded"
    found = {path: load_index(folder, path.stem.removeprefix("encoded-")) for path in folder.glob("encoded-*.safetensors")}
    return {path: encoded for path, encoded in found.items() if encoded is not None}


def new_encoded(server: Any, before: dict[Path, Encoded]) -> Encoded:
    (made,) = (encoded for path, encoded in encoded_in(server).items() if path not in before)
    return made


def sheet(server: Any, run: Any) -> np.ndarray:
    """The contact sheet as it was saved, BGR."""
    return cv2.imread(str(server.output / run.outputs[SHEET]["images"][0]["filename"]))


def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Of the sheet, near this colour."""
    return float((np.abs(picture.astype(int) - colour).max(axis=2) < 12).mean())


def require_trained(server: Any, runs_before: set[Path]) -> None:
    (run,) = set(server.runs) - runs_before
    losses = [record.loss for record in HistoryFile(run / "losses.jsonl").read().steps]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)


def test_files_of_every_kind_are_checked_encoded_and_trained_on(server: Any) -> None:
    before, runs = encoded_in(server), set(server.runs)
    run = server.run(prompt(server, FROM_FILES))
    report, figures = run.outputs[REPORT]["text"][0], json.loads(run.outputs[FIGURES]["text"][0])
    # Three red ones twice and two green ones once, all of it three times, and two blue ones: 18 + 6 + 2.
    assert "7 usable pictures: 7 to train on, 26 per epoch" in report and "1 problem:" in report and "broken.png" in report
    assert figures["pictures"] == 7 and len(figures["problems"]) == 1 and not figures["duplicates"]
    assert {(each["width_px"], each["height_px"]): each["pictures"] for each in figures["buckets"]} == {(64, 64): 6, (96, 32): 1}
    shown = sheet(server, run)
    assert all(share(shown, colour) > 0.02 for colour in (RED_BGR, GREEN_BGR, BLUE_BGR)) and share(shown, (0, 0, 0)) > 0.1  # hints are dark

    data = new_encoded(server, before)
    assert data.train_size == 7 and data.views == 4 and [problem.name for problem in data.skipped] == []
    by_caption = {sample.caption: sample for sample in data.train}
    assert set(by_caption) == {f"sks, a {colour} sheet {number}" for colour in ("red", "green") for number in range(2)} | {
        "sks, a wide red sheet", "a blue sheet 0", "a blue sheet 1",
    }  # fmt: skip
    weights = data.loss_weights([by_caption["sks, a red sheet 0"], by_caption["a blue sheet 0"]])
    assert weights is not None and (weights[0, 0, :, :4] == 0.25).all() and (weights[0, 0, :, 4:] == 1).all() and (weights[1] == 1).all()
    assert data.recipe.describe().startswith("soft edges") and data.rates is not None and sorted(data.rates.tolist()) == [1, 1, 3, 3, 6, 6, 6]
    assert data.verify() > 0
    require_trained(server, runs)


def test_a_second_queue_encodes_and_trains_nothing(server: Any) -> None:
    steps, sets = server.trained_steps(), encoded_in(server)
    server.forget()
    server.run(prompt(server, FROM_FILES))
    assert server.trained_steps() == steps == 2 and set(encoded_in(server)) == set(sets)


def test_pictures_hints_and_masks_of_the_graph_are_a_data_set(server: Any) -> None:
    before, runs = encoded_in(server), set(server.runs)
    run = server.run(prompt(server, FROM_THE_GRAPH))
    assert "2 usable pictures: 2 to train on, 0 held out" in run.outputs[REPORT]["text"][0] and "No problems." in run.outputs[REPORT]["text"][0]
    shown = sheet(server, run)
    assert all(share(shown, colour) > 0.05 for colour in (RED_BGR, (224, 160, 64), (223, 223, 63), (31, 95, 191)))  # the pictures and their negatives
    data = new_encoded(server, before)
    samples = sorted(data.train, key=lambda sample: sample.caption)
    assert [sample.caption for sample in samples] == ["a blue sheet", "a red sheet"]
    hints, weights = data.hint_pictures(samples, 0, [0, 0]), data.loss_weights(samples)
    assert np.allclose(hints[:, :, 0, 0].numpy() * 255, [[191, 95, 31], [63, 223, 223]], atol=1)
    assert weights is not None and np.allclose(weights.flatten(1).mean(1).numpy(), [0x40 / 255, 0xC0 / 255], atol=0.004)
    require_trained(server, runs)

"""Dataset Masks and the masks of Image Batch Dataset, as the graph calls them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from graft.nodes.framing import CutPictures
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from graft.nodes.image_batch import ImageBatchDataset
from graft.nodes.masks import Masks
from graft.training.data.folder import ImageFolder
from graft.training.errors import InputError


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    with use_host(HeadlessHost(tmp_path / "out")):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"p{number}.png"), np.full((64, 96, 3), 50 * number, np.uint8))
        (tmp_path / f"p{number}.txt").write_text("a picture", encoding="utf-8")
    cv2.imwrite(str(tmp_path / "p1-masklabel.png"), np.full((64, 96), 255, np.uint8))
    return tmp_path


def test_masks_before_and_after_buckets_are_the_same(folder):
    plain = ImageFolder(folder, 64)
    buckets = {"sizes": "buckets", "min_px": 32, "max_px": 128, "step_px": 32, "flip": False, "turned_views": 0, "rotation_degrees": 0.0}
    before = CutPictures().execute(Masks().execute(plain, "files", 0.1)[0], **buckets)[0]
    after = Masks().execute(CutPictures().execute(plain, **buckets)[0], "files", 0.1)[0]
    assert before.framing == after.framing != plain.framing and before.key() == after.key()
    assert [bool(sample.mask_digest) for sample in after.scan()] == [False, True, False]


def test_a_folder_without_masks_is_told_when_the_node_runs(folder):
    (folder / "p1-masklabel.png").unlink()
    with pytest.raises(InputError, match="masklabel"):
        Masks().execute(ImageFolder(folder, 64), "files", 0.0)


def test_masks_of_the_graph_come_as_lists():
    given = {"images": [torch.rand(2, 64, 64, 3)], "captions": ["a"], "resolution_px": [64], "held_out": [0], "missing_captions": ["stop"]}
    plain = ImageBatchDataset().execute(**given)[0]
    masked = ImageBatchDataset().execute(**given, masks=[torch.ones(1, 64, 64), torch.ones(1, 64, 64)], background_weight=[0.2])[0]
    assert all(sample.mask is None for sample in plain.scan()) and [sample.mask.background for sample in masked.scan()] == [0.2, 0.2]
    assert plain.key() != masked.key()

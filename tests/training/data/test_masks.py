"""Masks: cut as their pictures are, averaged to cells, weighing the loss; what is not masked is learnt and what is masked is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.batches import held_out_batch, load_batch
from graft.training.data.canny import CannyRecipe
from graft.training.data.combined import Combined, Part
from graft.training.data.encode import encode_dataset
from graft.training.data.folder import ImageFolder
from graft.training.data.framing import Framing
from graft.training.data.image_batch import store_image_batch
from graft.training.data.known import known_in
from graft.training.data.masked import Masked
from graft.training.data.sources.scan import look_at
from graft.training.errors import InputError

SIDE = 32


def small(pixels: torch.Tensor) -> torch.Tensor:
    """A stand-in for an autoencoder: mean colours of cells."""
    return torch.nn.functional.avg_pool2d(pixels, 8)


def words(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([[float(len(caption))] * 3 for caption in captions]).unsqueeze(1)
    return tokens, tokens[:, 0]


def encoded(dataset, folder: Path):
    return encode_dataset(dataset, small, words, "vae", "clip", folder, hint_form="none")


def left_half(height: int = 48, width: int = 48) -> np.ndarray:
    """A mask that is white on its left half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of 48 x 48 px, of which the first has a mask and the second is transparent on its right half."""
    random, path = np.random.RandomState(0), tmp_path / "pictures"
    path.mkdir()
    for number in range(4):
        picture = random.randint(0, 255, (48, 48, 3), np.uint8)
        if number == 1:
            picture = np.dstack([picture, left_half()])
        cv2.imwrite(str(path / f"p{number}.png"), picture)
        (path / f"p{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    cv2.imwrite(str(path / "p0-masklabel.png"), left_half())
    return path


def of(data, name: str) -> torch.Tensor:
    """The weights [4, 4] of one picture."""
    sample = next(sample for sample in data.train if sample.name == name)
    return data.loss_weights([sample])[0, 0]


LEFT = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 4)


def test_a_mask_file_is_no_picture_and_weighs_its_own(folder, tmp_path):
    plain = ImageFolder(folder, SIDE)
    assert [sample.name for sample in plain.scan()] == [f"p{number}.png" for number in range(4)]
    data = encoded(Masked(dataset=plain), tmp_path / "cache")
    assert torch.equal(of(data, "p0.png"), LEFT)
    assert all(torch.equal(of(data, f"p{number}.png"), torch.ones(4, 4)) for number in (1, 2, 3)), "without a mask all of it counts"
    batch = load_batch(data, [(0, 0), (1, 0)], seed=0)
    assert batch.loss_weights.shape == (2, 1, 4, 4) and batch.latents.shape == (2, 3, 4, 4)


def test_without_masks_nothing_is_kept_and_keys_are_as_they_were(folder, tmp_path):
    plain = ImageFolder(folder, SIDE)
    data = encoded(plain, tmp_path / "cache")
    assert "loss weights" not in data.parts and load_batch(data, [(0, 0)], 0).loss_weights is None
    masked = {background: encoded(Masked(dataset=plain, background=background), tmp_path / "cache") for background in (0.0, 0.5)}
    assert len({data.key, masked[0.0].key, masked[0.5].key}) == 3


def test_the_background_counts_as_much_as_it_is_told(folder, tmp_path):
    data = encoded(Masked(dataset=ImageFolder(folder, SIDE), background=0.25), tmp_path / "cache")
    torch.testing.assert_close(of(data, "p0.png"), torch.where(LEFT > 0, 1.0, 0.25))


def test_transparency_is_a_mask(folder, tmp_path):
    data = encoded(Masked(dataset=ImageFolder(folder, SIDE), kind="transparency"), tmp_path / "cache")
    assert torch.equal(of(data, "p1.png"), LEFT) and torch.equal(of(data, "p0.png"), torch.ones(4, 4))


def test_a_picture_that_cannot_be_decoded_is_named_as_a_picture_or_skipped_whatever_its_transparency(folder, tmp_path, spoil_png):
    spoil_png(folder / "p1.png")
    with pytest.raises(InputError, match=r"1 problem: p1\.png .*unreadable_pictures"):
        encoded(Masked(dataset=ImageFolder(folder, SIDE), kind="transparency"), tmp_path / "cache")
    data = encoded(Masked(dataset=ImageFolder(folder, SIDE, on_unreadable="skip"), kind="transparency"), tmp_path / "cache")
    assert [problem.name for problem in data.skipped] == ["p1.png"] and data.train_size == 3


def test_cells_on_the_edge_of_a_mask_count_by_their_share(folder, tmp_path):
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[:, :12], grey[0, 31] = 255, 51
    cv2.imwrite(str(folder / "p0-masklabel.png"), grey)
    cv2.imwrite(str(folder / "p0.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    weights = of(encoded(Masked(dataset=ImageFolder(folder, SIDE)), tmp_path / "cache"), "p0.png")
    assert weights[1].tolist() == [1.0, 0.5, 0.0, 0.0] and weights[0, 3].item() == pytest.approx(51 / 255 / 64)


def test_masks_are_cropped_and_mirrored_with_their_pictures(folder, tmp_path):
    """A picture whose mask is what is red in it: whatever cuts it, weights and red cells stay the same."""
    mask = np.zeros((40, 80), np.uint8)
    mask[4:20, 10:42] = 255
    cv2.imwrite(str(folder / "p0.png"), np.dstack([np.zeros_like(mask), np.zeros_like(mask), mask]))
    cv2.imwrite(str(folder / "p0-masklabel.png"), mask)
    dataset = Masked(dataset=ImageFolder(folder, SIDE, framing=Framing(flip=True, turned_views=1, rotation_degrees=20.0)))
    data = encoded(dataset, tmp_path / "cache")
    sample = next(sample for sample in data.train if sample.name == "p0.png")
    rows = range(sample.row, sample.row + 4)
    red = data.parts["latents"].stack("latents", rows)[:, 0] / 0.3611 + 0.1159
    weights = data.parts["loss weights"].stack("loss weights", rows)
    torch.testing.assert_close(weights, red, rtol=0, atol=0.02)
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[1].flip(-1))


def test_masks_out_of_a_graph(tmp_path):
    images, masks = torch.rand(2, 48, 48, 3), torch.from_numpy(left_half()).float().div(255).expand(2, -1, -1)

    def stored(**changes):
        given = {"masks": [masks], "background": 0.1, **changes}
        return store_image_batch([images], ["a"], tmp_path, resolution_px=SIDE, hint=CannyRecipe(), **given)

    data = encoded(stored(), tmp_path)
    torch.testing.assert_close(data.loss_weights(list(data.train))[:, 0], torch.where(LEFT > 0, 1.0, 0.1).expand(2, -1, -1))
    assert stored(masks=None).key() != stored().key() != stored(background=0.2).key()
    for wrong, said in (([masks[:1]], "as many"), ([masks[:, :20]], "proportions"), ([images], "MASK"), ([masks * 300], "values from")):
        with pytest.raises(InputError, match=said):
            stored(masks=wrong)


def test_masks_stay_with_their_pictures_among_other_data_sets(folder, tmp_path):
    masked = Masked(dataset=ImageFolder(folder, SIDE))
    other = tmp_path / "others"
    other.mkdir()
    cv2.imwrite(str(other / "q.png"), np.full((40, 40, 3), 9, np.uint8))
    (other / "q.txt").write_text("q", encoding="utf-8")
    both = Combined(parts=(Part(dataset=masked), Part(dataset=ImageFolder(other, SIDE))))
    without = Combined(parts=(Part(dataset=masked.dataset), Part(dataset=ImageFolder(other, SIDE))))
    assert both.key() != without.key()
    data = encoded(both, tmp_path / "cache")
    sample = next(sample for sample in data.train if sample.name.endswith("p0.png"))
    assert torch.equal(data.loss_weights([sample])[0, 0], LEFT)


def test_held_out_pictures_are_measured_by_their_masks_too(folder, tmp_path):
    data = encoded(Masked(dataset=ImageFolder(folder, SIDE, held_out=3)), tmp_path / "cache")
    assert held_out_batch(data, [0, 1, 2]).loss_weights.shape == (3, 1, 4, 4)


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(("mask", "said"), [(left_half(48, 20), "other proportions"), (np.zeros((48, 48), np.uint8), "black all over"), (None, "p0")])
def test_masks_that_cannot_be_used_are_listed_with_their_pictures(mask, said, folder, tmp_path):
    if mask is None:
        (folder / "p0-masklabel.png").write_bytes(b"no picture")
    else:
        cv2.imwrite(str(folder / "p0-masklabel.png"), mask)
    with pytest.raises(InputError, match=said):
        encoded(Masked(dataset=ImageFolder(folder, SIDE)), tmp_path / "cache")


def test_no_mask_at_all_and_weights_without_sense_are_refused(folder):
    (folder / "p0-masklabel.png").unlink()
    with pytest.raises(InputError, match="masklabel"):
        Masked(dataset=ImageFolder(folder, SIDE)).scan()
    with pytest.raises(InputError, match="background weight"):
        Masked(dataset=ImageFolder(folder, SIDE), background=1.5)
    with pytest.raises(InputError, match="masks"):
        Masked(dataset=ImageFolder(folder, SIDE), kind="guess")


def test_a_mask_that_was_drawn_again_is_encoded_again_and_nothing_else(folder, tmp_path):
    masked = Masked(dataset=ImageFolder(folder, SIDE))
    first = encoded(masked, tmp_path / "cache")
    cv2.imwrite(str(folder / "p0-masklabel.png"), 255 - left_half())
    seen: list[int] = []

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return small(pixels)

    second = encode_dataset(masked, counted, words, "vae", "clip", tmp_path / "cache", hint_form="none")
    assert torch.equal(of(second, "p0.png"), 1 - LEFT) and second.key != first.key and seen == []


def test_a_look_at_many_masks_is_shown_can_be_cancelled_and_is_remembered(folder, tmp_path, monkeypatch):
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # written long ago
    monkeypatch.setattr("graft.training.data.masked.LOOKED_AT_TOGETHER", 1)
    looked: list[int] = []
    monkeypatch.setattr("graft.training.data.masked.look_at", lambda data: looked.append(len(data)) or look_at(data))

    class Stops:
        shown: ClassVar = []
        checks = 3  # one after the pictures, two of masks

        def start(self, total: int, unit: str) -> None:
            self.shown.append((total, unit))

        def advance(self, done: int, **values: float) -> None:
            self.shown.append(done)

        def finish(self) -> None: ...

        def check_interrupt(self) -> None:
            self.checks -= 1
            if self.checks < 0:
                raise KeyboardInterrupt

    masked = Masked(dataset=ImageFolder(folder, SIDE))
    with pytest.raises(KeyboardInterrupt):
        masked.scan(known_in(tmp_path), Stops())
    assert Stops.shown == [(4, "picture"), 4, (4, "mask"), 1, 2] and len(looked) == 1
    assert len(masked.scan(known_in(tmp_path))) == 4 and len(looked) == 1

"""Several data sets as one: names, rates, captions, splits and keys, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graft.training.data.buckets import Buckets
from graft.training.data.canny import CannyRecipe
from graft.training.data.caption_rules import CaptionRules
from graft.training.data.combined import Combined, Part
from graft.training.data.folder import ImageFolder
from graft.training.data.framing import Framing
from graft.training.data.image_batch import store_image_batch
from graft.training.data.picture_set import PictureSet
from graft.training.data.sources.folder_tree import FolderTree
from graft.training.errors import InputError
from PIL import Image

MakeFolder = Callable[..., Path]
SIDE_PX = 32


@pytest.fixture
def folders(make_folder: MakeFolder, draw_picture: Callable[..., Image.Image]) -> tuple[ImageFolder, ImageFolder]:
    """Five pictures and three others, under the same names."""
    first, second = make_folder(5, "first"), make_folder(3, "second")
    for number, path in enumerate(sorted(second.glob("*.png"))):
        draw_picture(100 + number).save(path)
    return ImageFolder(first, SIDE_PX), ImageFolder(second, SIDE_PX)


def test_rates_names_and_captions_of_each_part(folders: tuple[ImageFolder, ImageFolder]) -> None:
    rules = CaptionRules(prefix="a photo of", trigger_word="sks")
    parts = (Part(dataset=folders[0], repeats=3, weight=0.5), Part(dataset=folders[1], captions=rules))
    samples = Combined(parts=parts).scan()
    assert [sample.name for sample in samples][4:6] == ["1: 0004.png", "2: 0000.png"] and len({sample.name for sample in samples}) == 8
    assert {(sample.repeats, sample.weight) for sample in samples[:5]} == {(3, 0.5)}
    assert samples[5].caption == "a photo of sks, picture 0" and samples[5].captions == () and samples[0].caption == "picture 0"


def test_parts_of_parts_multiply(folders: tuple[ImageFolder, ImageFolder]) -> None:
    inner = Combined(parts=(Part(dataset=folders[0], repeats=2, captions=CaptionRules(shuffle_tags=True, variants=4)),))
    (first, *_) = Combined(parts=(Part(dataset=inner, repeats=5, weight=2.0),)).scan()
    assert (first.repeats, first.weight, first.name) == (10, 2.0, "0000.png")


def test_pictures_are_those_of_the_parts(folders: tuple[ImageFolder, ImageFolder], tmp_path: Path) -> None:
    batch = store_image_batch(
        [torch.rand(2, SIDE_PX, SIDE_PX, 3)], ["x\ny"], tmp_path / "cache", resolution_px=SIDE_PX, hint=CannyRecipe()
    )
    whole = Combined(parts=tuple(Part(dataset=each) for each in (*folders, batch)))
    samples = whole.scan()
    for sample, part in ((samples[0], folders[0]), (samples[5], folders[1]), (samples[8], batch)):
        original = next(each for each in part.scan() if each.digest == sample.digest)
        assert np.array_equal(whole.read(sample), part.read(original))


def test_what_parts_hold_out_and_a_data_set_for_validation(folders: tuple[ImageFolder, ImageFolder]) -> None:
    counted = replace(folders[0], held_out=2)
    train, held_out = Combined(parts=(Part(dataset=counted), Part(dataset=folders[1]))).split(
        Combined(parts=(Part(dataset=counted), Part(dataset=folders[1]))).scan()
    )
    assert held_out == counted.split(counted.scan())[1] and len(train) == 6
    validation = replace(folders[1], held_out=16)  # more than there are: all of it is for validation anyway
    whole = Combined(parts=(Part(dataset=folders[0]), Part(dataset=validation, is_held_out=True)))
    assert whole.split(whole.scan()) == ([0, 1, 2, 3, 4], [5, 6, 7])
    looked = list(Combined(parts=(Part(dataset=counted), Part(dataset=folders[1]))).look())
    assert [place for place, entry in enumerate(looked) if entry.is_held_out] == held_out  # type: ignore[union-attr]


def test_a_copy_of_a_validation_picture_is_not_trained_on(folders: tuple[ImageFolder, ImageFolder]) -> None:
    (folders[0].path / "0000.png").write_bytes((folders[1].path / "0001.png").read_bytes())
    whole = Combined(parts=(Part(dataset=folders[0]), Part(dataset=folders[1], is_held_out=True)))
    assert whole.split(whole.scan())[0] == [1, 2, 3, 4]


def test_everything_that_training_sees_is_in_the_key(folders: tuple[ImageFolder, ImageFolder]) -> None:
    def key(share: float = 0.0, **changes: Any) -> str:
        return Combined(parts=(Part(dataset=folders[0], **changes), Part(dataset=folders[1])), held_out_share=share).key()

    keys = [key(), key(repeats=2), key(weight=2.0), key(captions=CaptionRules(prefix="x")), key(is_held_out=True), key(share=0.5)]
    keys.append(key(captions=CaptionRules(shuffle_tags=True)))  # captions without tags stay as they are
    assert len(set(keys)) == 6 and keys[-1] == keys[0]


def test_a_plain_part_is_encoded_from_what_is_there(folders: tuple[ImageFolder, ImageFolder], encoders: Any, tmp_path: Path) -> None:
    alone = encoders.encode(folders[0], tmp_path / "cache")
    encoders.encode(folders[1], tmp_path / "cache")
    done = encoders.pictures
    whole = encoders.encode(Combined(parts=tuple(Part(dataset=each) for each in folders)), tmp_path / "cache")
    assert whole.train_size == 8 and alone.train_size == 5 and done == 8


def test_another_framing_is_that_of_all_parts(folders: tuple[ImageFolder, ImageFolder]) -> None:
    framing = Framing(buckets=Buckets(min_px=16, max_px=64, step_px=16))
    whole = Combined(parts=(Part(dataset=Combined(parts=(Part(dataset=folders[0]),))), Part(dataset=folders[1])))
    changed = replace(whole, framing=framing)
    assert changed.framing == framing and whole.framing.is_plain and changed.key() != whole.key()
    assert replace(changed, held_out_share=0.5).framing == framing
    # Pictures of 40 x 32: of the sizes with about 1,024 pixels, 32 x 32 has the nearest proportions.
    assert {changed.framing.size(sample.size_px, SIDE_PX) for sample in changed.scan()} == {(32, 32)}
    with pytest.raises(InputError, match="buckets and views of the data sets"):
        Combined(parts=(Part(dataset=folders[0]), Part(dataset=replace(folders[1], framing=framing))))


def test_parts_that_do_not_go_together(folders: tuple[ImageFolder, ImageFolder], tmp_path: Path) -> None:
    first, second = folders
    for other, told in ((replace(second, resolution_px=64), "resolution"), (replace(second, hint=CannyRecipe.fixed(1, 2)), "hints")):
        with pytest.raises(InputError, match=rf"{told} of the data sets.*the same for all"):
            Combined(parts=(Part(dataset=first), Part(dataset=other)))
    with pytest.raises(InputError, match="at least one to train on"):
        Combined(parts=(Part(dataset=first, is_held_out=True),))
    for wrong in ({"repeats": 0}, {"weight": 0.0}, {"weight": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Part(dataset=first, **wrong)  # type: ignore[arg-type]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="expected pictures; found none"):
        Combined(parts=(Part(dataset=PictureSet(source=FolderTree(empty), resolution_px=32)),)).scan()

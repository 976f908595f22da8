"""A folder is read in order, everything wrong with it is said at once, and its key follows its content."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graft.training.data.canny import CannyRecipe
from graft.training.data.folder import CAPTION_LIMIT_BYTES, ImageFolder, split_held_out
from graft.training.data.picture_header import UnreadablePictureError
from graft.training.data.sources import place
from graft.training.errors import InputError
from PIL import Image

MakeFolder = Callable[..., Path]


def test_samples_come_in_the_order_of_their_names(make_folder: MakeFolder) -> None:
    samples = ImageFolder(make_folder(12)).scan()
    assert [sample.name for sample in samples] == [f"{number:04}.png" for number in range(12)]
    assert [sample.caption for sample in samples] == [f"picture {number}" for number in range(12)]


def test_a_second_scan_reads_only_what_has_changed(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = make_folder(3), []
    real = place.read_file
    monkeypatch.setattr(place, "read_file", lambda path: (read.append(path.name), real(path))[1])
    for path in folder.glob("*.png"):
        os.utime(path, (1e9, 1e9))  # written long ago
    first = ImageFolder(folder).scan()
    shutil.copyfile(folder / "0000.png", folder / "0002.png")
    (folder / "0001.txt").write_text("another caption", "utf-8")
    read.clear()
    second = ImageFolder(folder).scan()
    assert [name for name in read if name.endswith("png")] == ["0002.png"]
    assert [sample.digest for sample in second] == [first[0].digest, first[1].digest, first[0].digest]
    assert second[1].caption == "another caption"


def test_captions_are_utf_8_with_or_without_a_mark_and_on_one_line(make_folder: MakeFolder) -> None:
    folder = make_folder(2)
    (folder / "0000.txt").write_bytes(b"\xef\xbb\xbf  ein gr\xc3\xbcner Stern,\r\n auf Grau \n")
    (folder / "0001.txt").write_text("ein grüner Stern, auf Grau", "utf-8")
    first, second = ImageFolder(folder).scan()
    assert first.caption == second.caption == "ein grüner Stern, auf Grau"


def test_other_files_hidden_ones_and_folders_are_left_alone(make_folder: MakeFolder) -> None:
    folder = make_folder(1)
    (folder / "notes.md").write_text("x", "utf-8")
    (folder / "._0000.png").write_bytes(b"resource fork")
    (folder / "inner.png").mkdir()
    assert len(ImageFolder(folder).scan()) == 1


def test_captions_may_lie_in_caption_files_and_formats_that_are_not_read_are_problems(make_folder: MakeFolder) -> None:
    """As Picture Source and `graft data check` have it: all three say the same of a folder."""
    folder = make_folder(3)
    (folder / "0001.txt").rename(folder / "0001.caption")
    assert [sample.caption for sample in ImageFolder(folder).scan()] == ["picture 0", "picture 1", "picture 2"]
    (folder / "phone.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"1 problem: phone\.heic has the format HEIC"):
        ImageFolder(folder).scan()
    assert len(ImageFolder(folder, on_unreadable="skip").scan()) == 3


def test_a_table_beside_the_pictures_is_pointed_out(make_folder: MakeFolder) -> None:
    folder = make_folder(2)
    (folder / "0001.txt").unlink()
    (folder / "metadata.jsonl").write_text("{}", "utf-8")
    with pytest.raises(InputError, match=r"0001\.png has no caption file.*") as error:
        ImageFolder(folder).scan()
    assert "Picture Source reads its metadata.jsonl" in str(error.value)


def test_endings_may_be_capitals(make_folder: MakeFolder) -> None:
    folder = make_folder(1)
    (folder / "0000.png").rename(folder / "0000.PNG")
    (folder / "0000.txt").rename(folder / "0000.TXT")
    assert ImageFolder(folder).scan()[0].caption == "picture 0"


def test_all_problems_are_listed_at_once(make_folder: MakeFolder) -> None:
    folder = make_folder(6)
    (folder / "0000.png").write_bytes(b"")
    (folder / "0001.png").write_bytes((folder / "0001.png").read_bytes()[:-20])
    (folder / "0002.txt").unlink()
    (folder / "0003.txt").write_text(" \n", "utf-8")
    (folder / "0004.txt").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(InputError) as error:
        ImageFolder(folder).scan()
    text = str(error.value)
    for expected in ("5 problems", "0000.png is empty", "0001.png is truncated", "0002.png has no caption file",
                     "0003.png has an empty caption file", "0004.txt is not UTF-8", "set missing_captions to",
                     "set unreadable_pictures to"):  # fmt: skip
        assert expected in text
    assert "0005" not in text


def test_a_long_list_shows_twenty_and_the_count(make_folder: MakeFolder) -> None:
    folder = make_folder(25)
    for caption in folder.glob("*.txt"):
        caption.unlink()
    with pytest.raises(InputError) as error:
        ImageFolder(folder).scan()
    assert str(error.value).count("has no caption") == 20 and "25 problems" in str(error.value) and "5 more" in str(error.value)


def test_unreadable_files_are_skipped_only_when_told_to(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder(4)
    (folder / "0002.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        samples = ImageFolder(folder, on_unreadable="skip").scan()
    assert [sample.name for sample in samples] == ["0000.png", "0001.png", "0003.png"]
    assert "0002.png is empty" in caplog.text


def test_skipping_unreadable_files_does_not_excuse_missing_captions(make_folder: MakeFolder) -> None:
    folder = make_folder(3)
    (folder / "0001.txt").unlink()
    with pytest.raises(InputError, match=r"0001\.png has no caption"):
        ImageFolder(folder, on_unreadable="skip").scan()
    assert [sample.caption for sample in ImageFolder(folder, caption_missing="empty").scan()] == ["picture 0", "", "picture 2"]


def test_endless_captions_are_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(2)
    (folder / "0001.txt").write_text("word " * CAPTION_LIMIT_BYTES, "utf-8")
    with pytest.raises(InputError, match=r"0001\.txt has .* limit"):
        ImageFolder(folder).scan()


def test_a_folder_without_pictures_points_to_its_sub_folders(tmp_path: Path) -> None:
    (tmp_path / "10_cats").mkdir()
    with pytest.raises(InputError, match=r"none.*10_cats"):
        ImageFolder(tmp_path).scan()


@pytest.mark.parametrize("make_file", [False, True])
def test_a_path_that_is_no_folder(tmp_path: Path, make_file: bool) -> None:
    if make_file:
        (tmp_path / "x").write_text("x", "utf-8")
    with pytest.raises(InputError, match="a file" if make_file else "nothing there"):
        ImageFolder(tmp_path / "x").scan()


@pytest.mark.parametrize("setting", [
    {"resolution_px": 100}, {"resolution_px": 0}, {"resolution_px": -16}, {"held_out": -1}, {"on_unreadable": "ignore"},
    {"caption_missing": "guess"},
])  # fmt: skip
def test_absurd_settings_are_refused(tmp_path: Path, setting: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(setting)).split("_")[0]):
        ImageFolder(tmp_path, **setting)  # type: ignore[arg-type]


def test_a_path_may_be_text(make_folder: MakeFolder) -> None:
    assert len(ImageFolder(str(make_folder(1))).scan()) == 1  # type: ignore[arg-type]


def test_the_key_follows_content_order_and_settings(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(4)
    dataset = ImageFolder(folder, resolution_px=64)
    keys = [dataset.key()]
    assert dataset.key() == keys[0]
    keys += [dataclasses.replace(dataset, **change).key() for change in (
        {"resolution_px": 128}, {"held_out": 1}, {"hint": CannyRecipe.fixed(50, 200)},
    )]  # fmt: skip
    (folder / "0001.txt").write_text("another caption", "utf-8")
    keys.append(dataset.key())
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "0002.png")
    keys.append(dataset.key())
    (folder / "0003.png").rename(folder / "00005.png")
    (folder / "0003.txt").rename(folder / "00005.txt")
    keys.append(dataset.key())
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_follow_places_or_policies(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(3)
    shutil.copytree(folder, tmp_path / "copy")
    assert ImageFolder(folder).key() == ImageFolder(tmp_path / "copy", on_unreadable="skip", caption_missing="empty").key()


def test_a_picture_changed_after_the_scan_is_noticed(make_folder: MakeFolder) -> None:
    folder = make_folder(2)
    dataset = ImageFolder(folder, resolution_px=32)
    samples = dataset.scan()
    assert dataset.read(samples[0]).shape == (32, 32, 3)
    shutil.copy(folder / "0001.png", folder / "0000.png")
    with pytest.raises(UnreadablePictureError, match="changed"):
        dataset.read(samples[0])
    (folder / "0001.png").unlink()
    with pytest.raises(UnreadablePictureError, match="cannot be opened"):
        dataset.read(samples[1])


def test_holding_out_everything_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(3)
    with pytest.raises(InputError, match="held-out"):
        ImageFolder(folder, held_out=3).scan()
    assert len(ImageFolder(folder, held_out=2).scan()) == 3


def test_the_split_follows_content_and_hardly_moves_when_pictures_are_added() -> None:
    digests = [f"{number * 7919 % 1000:03}" for number in range(100)]
    train, held_out = split_held_out(digests, 10)
    assert sorted(train + held_out) == list(range(100))
    assert sorted(digests[position] for position in held_out) == sorted(digests)[:10]
    for added in ("9999", "0000"):
        _, moved = split_held_out([added, *digests], 10)
        before, after = {digests[position] for position in held_out}, {[added, *digests][position] for position in moved}
        assert len(before - after) <= 1 and (added != "9999" or before == after)


def test_copies_of_held_out_pictures_are_not_trained_on() -> None:
    train, held_out = split_held_out(["b", "a", "c", "a", "b"], 1)
    assert (train, held_out) == ([0, 2, 4], [1])
    with pytest.raises(InputError):
        split_held_out(["a", "a", "a"], 1)

"""The check against a folder whose faults were put there by hand, and the numbers computed by hand."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graft.training.data import policy
from graft.training.data.buckets import Buckets
from graft.training.data.check import FLUX_TEXT_BYTES, CheckReport, check_dataset, count_kinds
from graft.training.data.check_sheet import CELL_PX, contact_sheet, spread
from graft.training.data.check_text import report_text
from graft.training.data.combined import Combined, Part
from graft.training.data.dataset import Problem
from graft.training.data.folder import ImageFolder
from graft.training.data.framing import Framing
from graft.training.data.known import KnownFiles
from graft.training.data.masked import Masked
from graft.training.data.picture_set import PictureSet
from graft.training.data.sources.choose import Origin, open_source
from graft.training.data.sources.folder_tree import FolderTree
from graft.training.errors import InputError
from PIL import Image

MakeFolder = Callable[..., Path]
NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def save(picture: Image.Image, path: Path, kind: str = "PNG", **options: object) -> None:
    picture.save(path, kind, **options)
    path.with_suffix(".txt").write_text(path.stem, "utf-8")


def bomb() -> bytes:
    """A PNG whose header claims 60,000 x 60,000 pixels: 10.8 GB as RGB."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Every picture that people bring."""
    folder, picture = tmp_path / "zoo", Image.fromarray(NOISE)
    folder.mkdir()
    save(picture, folder / "plain.png")
    save(picture.convert("CMYK"), folder / "cmyk.jpg", "JPEG")
    save(picture.quantize(16), folder / "palette.png")
    save(Image.fromarray(np.arange(96 * 64, dtype=np.uint16).reshape(64, 96) * 10), folder / "sixteen.png")
    save(picture, folder / "animated.png", save_all=True, append_images=[picture.rotate(180)])
    save(picture, folder / "animated.webp", "WEBP", save_all=True, append_images=[picture.rotate(180)])
    save(picture, folder / "a jpeg really.png", "JPEG")
    (folder / "zero.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "text.png").write_bytes(b"<html>404</html>")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    (folder / "half.jpg").write_bytes(buffer.getvalue()[:600])
    save(picture.rotate(90, expand=True), folder / "essay.png")
    (folder / "essay.txt").write_text("word " * 20_000, "utf-8")
    save(picture.crop((0, 0, 90, 60)), folder / "mute.png")
    (folder / "mute.txt").unlink()
    return folder


def described(folder: Path, **settings: object) -> PictureSet:
    return PictureSet(source=FolderTree(folder), resolution_px=64, **settings)  # type: ignore[arg-type]


def checked(folder: Path, tmp_path: Path, **settings: object) -> CheckReport:
    return check_dataset(described(folder, **settings), "zoo", tmp_path / "cache", KnownFiles()).report


def test_every_fault_is_named_and_everything_else_is_usable(zoo: Path, tmp_path: Path) -> None:
    report = checked(zoo, tmp_path)
    told = {problem.name: problem.what for problem in report.problems}
    for name, word in {
        "zero.png": "empty (0 bytes)", "bomb.png": "60000 x 60000 pixels", "text.png": "whatever its name says", "half.jpg": "truncated",
        "essay.txt": "caption's limit", "mute.png": "has no caption file",
    }.items():  # fmt: skip
        assert word in told.pop(name), name
    assert not told and not report.is_sound
    assert report.pictures == report.trained == 7 and sum(report.problem_counts.values()) == 6


def test_what_is_usable_can_be_read(zoo: Path) -> None:
    dataset = described(zoo, on_unreadable="skip", caption_missing="empty")
    pictures = {sample.name: dataset.read(sample) for sample in dataset.scan()}
    assert len(pictures) == 8 and all(picture.shape == (64, 64, 3) for picture in pictures.values())
    assert np.array_equal(pictures["animated.png"], pictures["plain.png"])


def test_figures_are_those_computed_by_hand(zoo: Path, tmp_path: Path) -> None:
    report = checked(zoo, tmp_path, caption_missing="empty", on_unreadable="skip")
    assert (report.smallest_px, report.median_px, report.largest_px) == ((90, 60), (96, 64), (96, 64))
    assert report.proportions == {"3:2": 8} and [(each.width_px, each.height_px, each.pictures) for each in report.buckets] == [(64, 64, 8)]
    assert report.cropped_share == pytest.approx(1 / 3) and report.too_small == {"mute.png": 64 / 60}
    assert report.duplicates == ()
    # Both animated pictures share one text file.
    assert (report.captions, report.empty_captions, report.longest_caption_characters) == (6, 1, len("a jpeg really"))
    assert report.cache_bytes == 8 * 64 * 64 * (1 + 3 / 64 + 1 / 8) + 7 * FLUX_TEXT_BYTES and report.free_bytes > 0


@pytest.fixture
def loose(make_folder: MakeFolder) -> Path:
    """Of five pictures one has no caption file, one an empty one, one its text in capitals' ending; three caption files have no picture."""
    folder = make_folder(5, "2_cats")
    (folder / "0001.txt").unlink()
    (folder / "0002.txt").write_text(" \r\n\t", "utf-8")
    (folder / "0003.txt").rename(folder / "0003.TXT")
    (folder / "0004.txt").rename(folder / "0004.caption")
    for name in ("gone.txt", "inner/gone too.CAPTION", "inner/0000.txt"):  # 0000.png lies in another folder
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a text", "utf-8")
    (folder / "a film.gif").write_bytes(b"GIF89a")  # a picture to its owner: its text belongs to it
    (folder / "a film.txt").write_text("a text", "utf-8")
    (folder / ".hidden.txt").write_text("a text", "utf-8")
    return folder


LONE = ("2_cats/gone.txt", "2_cats/inner/0000.txt", "2_cats/inner/gone too.CAPTION")


def test_missing_empty_and_lone_captions_are_told_apart(loose: Path, tmp_path: Path) -> None:
    report = checked(tmp_path, tmp_path)
    assert (report.without_caption, report.empty_caption_files) == (("2_cats/0001.png",), ("2_cats/0002.png",))
    assert report.problem_counts["has no caption file"] == report.problem_counts["has an empty caption file"] == 1
    assert report.lone_captions == LONE and report.as_json()["lone_captions"] == LONE
    text = report_text(report)
    assert "3 caption files without a picture, which nothing reads:\n  2_cats/gone.txt\n" in text
    assert "came without a caption" not in text  # a problem already


@pytest.mark.parametrize("allowed", ["empty", "folder name"])
def test_captions_that_may_be_missing_are_told_apart_too(loose: Path, tmp_path: Path, allowed: str) -> None:
    (loose / "a film.gif").unlink()
    report = checked(tmp_path, tmp_path, caption_missing=allowed)
    assert (report.without_caption, report.empty_caption_files) == (("2_cats/0001.png",), ("2_cats/0002.png",))
    assert report.is_sound and report.empty_captions == (2 if allowed == "empty" else 0)
    text = report_text(report)
    assert "1 picture that came without a caption:\n  2_cats/0001.png\n1 picture with an empty caption file:\n  2_cats/0002.png\n" in text
    assert "4 caption files without a picture" in text  # the film's text among them


def test_lone_captions_are_found_through_what_data_sets_are_made_into(loose: Path, tmp_path: Path) -> None:
    tree = described(tmp_path, caption_missing="empty")
    both = Combined(parts=(Part(dataset=Masked(dataset=tree)), Part(dataset=ImageFolder(loose, 64, caption_missing="empty"))))
    names = list(both.lone_captions())
    assert [name.partition(": ")[2] or name for name in names] == [*LONE, "gone.txt"]
    assert len(set(names)) == 4


def test_pairs_are_looked_at_for_lone_captions_too(loose: Path, tmp_path: Path) -> None:
    (tmp_path / "hints").mkdir()
    source = open_source(Origin(path=loose, hints=tmp_path / "hints"))
    assert list(PictureSet(source=source).lone_captions()) == [name.removeprefix("2_cats/") for name in LONE]


def test_a_table_has_no_lone_captions(loose: Path, tmp_path: Path) -> None:
    (loose / "metadata.jsonl").write_text('{"file_name": "0000.png", "text": " "}\n{"file_name": "0004.png", "text": "x"}\n', "utf-8")
    dataset = PictureSet(source=open_source(Origin(path=loose)), resolution_px=64)
    report = check_dataset(dataset, "x", tmp_path / "cache", KnownFiles()).report
    assert report.lone_captions == () and report.without_caption == ("0000.png",) and report.problem_counts == {"has no caption": 1}


def test_buckets_and_what_is_cropped_away(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(1)
    for name, size in (("wide", (192, 96)), ("tall", (64, 100)), ("square", (128, 128))):
        save(Image.new("RGB", size, "red"), folder / f"{name}.png")
    dataset = ImageFolder(folder, 128, framing=Framing(buckets=Buckets(min_px=64, max_px=256, step_px=64)))
    report = check_dataset(dataset, "x", tmp_path).report
    sizes = {(each.width_px, each.height_px): each for each in report.buckets}
    # By the rule: ratios of the sizes are 1/4, 1/3, 1, 3, 4. Of 2, as near to 1 as to 3, the first is taken; 0.64 is nearest to 1/3.
    assert {size: each.pictures for size, each in sizes.items()} == {(128, 128): 3, (64, 192): 1}
    assert sizes[64, 192].cropped_share == pytest.approx(1 - 64 / 123)
    shares = [1 - 1 / 2, 1 - 64 / 123, 0, 1 - 128 / 160]
    assert report.cropped_share == pytest.approx(sum(shares) / 4) and report.most_cropped == "wide.png" and report.most_cropped_share == 0.5
    assert report.too_small == {"0000.png": 4.0, "tall.png": 123 / 64, "wide.png": 256 / 192}


def test_pictures_too_small_for_any_bucket_are_problems(tmp_path: Path, make_folder: MakeFolder) -> None:
    framing = Framing(buckets=Buckets(step_px=64, upscale=False))
    report = check_dataset(ImageFolder(make_folder(2), 256, framing=framing), "x", tmp_path).report
    assert [problem.name for problem in report.problems] == ["0000.png", "0001.png"] and report.pictures == 0 and not report.is_sound


def test_doubles_rates_and_splits(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(4, "3_cats")
    (folder / "copy.png").write_bytes((folder / "0001.png").read_bytes())
    (folder / "copy.txt").write_text("x", "utf-8")
    report = checked(tmp_path, tmp_path, held_out=1)
    assert report.duplicates == (("3_cats/0001.png", "3_cats/copy.png"),)
    assert report.trained + report.held_out in (4, 5) and report.pictures_per_epoch == 3 * report.trained and report.is_sound
    assert "3_cats/0001.png = 3_cats/copy.png" in report_text(report)
    everything = checked(tmp_path, tmp_path, held_out=4)
    assert "held-out pictures" in everything.split_problem and not everything.is_sound


def test_the_report_reads_well_and_is_json(zoo: Path, tmp_path: Path) -> None:
    report = checked(zoo, tmp_path)
    text = report_text(report)
    for expected in ("zoo: not ready to train on", "7 usable pictures", "6 problems:", "  1 x is empty", "half.jpg is truncated", "64 x 64: 7, 33%",
                     "Proportions (width:height): 3:2: 7", " free"):  # fmt: skip
        assert expected in text
    assert json.loads(json.dumps(report.as_json()))["problems"][0]["name"] == report.problems[0].name
    assert "nothing stands in the way" in report_text(replace(report, problems=(), problem_counts={}))


def test_kinds_do_not_differ_by_their_numbers() -> None:
    texts = ("has 3 x 4 pixels", "has 50 x 7 pixels", "cannot be opened (No such file)", "cannot be opened (Permission denied)", "is not UTF-8")
    counts = count_kinds([Problem("a", text) for text in texts])
    assert counts == {"has ... x ... pixels": 2, "cannot be opened": 2, "is not UTF-8": 1}


def test_the_sheet_shows_pictures_with_their_hints(zoo: Path, tmp_path: Path) -> None:
    dataset = described(zoo, on_unreadable="skip", caption_missing="empty")
    check = check_dataset(dataset, "x", tmp_path, KnownFiles())
    sheet, report = contact_sheet(dataset, check, 8)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3 and sheet.shape[0] > 4 * CELL_PX and sheet.shape[1] > 6 * CELL_PX
    assert report.preparing_seconds > 0 and "VAE and text encoder" in report_text(report)
    assert spread(list(range(100)), 4) == [0, 33, 66, 99] and spread([1, 2], 4) == [1, 2]  # type: ignore[arg-type, list-item]
    nothing, unchanged = contact_sheet(dataset, replace(check, samples=()))
    assert nothing.shape[2] == 3 and unchanged == check.report


def test_pictures_that_are_whole_and_yet_damaged_are_found_by_decoding(
    tmp_path: Path, make_folder: MakeFolder, spoil_png: Callable[[Path], None]
) -> None:
    """By all of them where that is wanted, and in any case by those that the sheet and the estimate of the time decode."""
    folder = make_folder(5)
    for number in (1, 3):
        spoil_png(folder / f"{number:04}.png")
    dataset = ImageFolder(folder, 32)
    check = check_dataset(dataset, "x", tmp_path, KnownFiles())
    assert check.report.is_sound and check.report.pictures == 5
    seen = contact_sheet(dataset, check)[1]
    assert [problem.name for problem in seen.problems] == ["0001.png", "0003.png"] and seen.pictures == 3 and not seen.is_sound
    assert "2 x is damaged" in report_text(seen)
    assert contact_sheet(dataset, check, 3)[1].is_sound, "the first, the third and the last are"
    decoded = check_dataset(dataset, "x", tmp_path, KnownFiles(), decode=True)
    assert decoded.report.problems == seen.problems and decoded.report.pictures == 3 and len(decoded.samples) == 3
    assert contact_sheet(dataset, decoded)[1].problems == seen.problems, "none is told twice"


def test_many_bad_pictures_in_a_row_stop_even_where_single_ones_are_skipped(
    tmp_path: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "RUN_LIMIT", 5)
    folder = make_folder(12)
    for number in (1, 3, 5, 7, 8, 9, 10):
        (folder / f"{number:04}.png").write_bytes(b"")
    assert len(ImageFolder(folder, 32, on_unreadable="skip").scan()) == 5
    (folder / "0011.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"5 in a row: 5 problems: 0007\.png is empty"):
        ImageFolder(folder, 32, on_unreadable="skip").scan()
    assert len(check_dataset(ImageFolder(folder, 32), "x", tmp_path).report.problems) == 8

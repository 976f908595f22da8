"""`graft data check` as a shell sees it: the report, the sheet, JSON, and an exit code that scripts can rely on."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graft.nodes.headless.cli import main
from graft.nodes.headless.cli_data import KIND_NAMES
from graft.training.data.sources.choose import KINDS
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures with captions in a folder of kohya's; the command starts in the folder above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "pictures" / "4_cats"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"katze {number} ü", "utf-8")
    return folder


def test_a_sound_folder_ends_with_0(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "pictures", "--resolution", "64", "--held-out", "1", "--sheet", "out/sheet.png"]) == 0
    text = capsys.readouterr().out
    for expected in ("pictures: nothing stands in the way of training", "3 usable pictures: 2 to train on, 8 per epoch", "64 x 64: 3, 40% cropped"):
        assert expected in text
    with Image.open("out/sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 3 * 192


@pytest.mark.parametrize(
    ("sheet", "told"), [("sheet.jpg", "a .png file"), ("-", "a .png file"), ("pictures/4_cats/0.png", "outside of the pictures' folder")]
)
def test_a_sheet_never_takes_the_place_of_a_picture(pictures: Path, capsys: pytest.CaptureFixture[str], sheet: str, told: str) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    assert main(["data", "check", "pictures", "--resolution", "64", "--sheet", sheet]) == 2
    assert told in capsys.readouterr().err and {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_a_table_of_pictures_keeps_its_folder_to_itself(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "metadata.jsonl").write_text("".join(f'{{"file_name": "{n}.png", "text": "x"}}\n' for n in range(3)), "utf-8")
    assert main(["data", "check", str(pictures / "metadata.jsonl"), "--resolution", "64", "--sheet", str(pictures / "new.png")]) == 2
    assert "outside of the pictures' folder" in capsys.readouterr().err and not (pictures / "new.png").exists()
    assert main(["data", "check", str(pictures / "metadata.jsonl"), "--resolution", "64", "--sheet", "new.png", "--sheet-pictures", "2"]) == 0
    assert "contact sheet: new.png" in capsys.readouterr().err
    with Image.open("new.png") as sheet:
        assert sheet.width < 3 * 192
    assert main(["data", "check", str(pictures / "metadata.jsonl"), "--sheet-pictures", "0"]) == 2


def test_damaged_pictures_are_found_where_all_are_decoded(
    pictures: Path, capsys: pytest.CaptureFixture[str], spoil_png: Callable[[Path], None]
) -> None:
    spoil_png(pictures / "1.png")
    assert main(["data", "check", "pictures", "--resolution", "64", "--decode"]) == 1
    assert "4_cats/1.png is damaged" in capsys.readouterr().out


def test_problems_end_with_1_and_are_all_in_the_json(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "0.png").write_bytes(b"")
    (pictures / "1.txt").unlink()
    (pictures / "0 old.txt").write_text("x", "utf-8")
    assert main(["data", "check", "pictures", "--json", "--resolution", "64", "--buckets", "64-128/64"]) == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert [(problem["name"], problem["what"]) for problem in report["problems"]] == [
        ("4_cats/0.png", "is empty (0 bytes)"), ("4_cats/1.png", "has no caption file"),
    ]  # fmt: skip
    assert report["without_caption"] == ["4_cats/1.png"] and report["lone_captions"] == ["4_cats/0 old.txt"]
    assert report["pictures"] == 1 and not report["is_sound"] and "found 2 problems" in said.err


def test_a_folder_without_pictures_was_looked_at(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "empty").mkdir()
    assert main(["data", "check", "pictures/4_cats/empty"]) == 1
    assert "found no pictures" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "told"), [
    (["nowhere"], "nothing there"), (["pictures", "--buckets", "wide"], "MIN-MAX/STEP"), (["pictures", "--buckets", "100-200/64"], "bucket sides"),
    (["pictures", "--hints", "none"], "folder of hints"), (["pictures", "--held-out-share", "2"], "held-out share"),
])  # fmt: skip
def test_what_cannot_be_looked_at(pictures: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert main(["data", "check", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_an_archive_with_hints(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (pictures / "0.png").read_bytes()
    with tarfile.open("a.tar", "w") as archive:
        for name in ("0.png", "0.hint.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert main(["data", "check", "a.tar", "--missing-captions", "empty", "--resolution", "64", "--forget"]) == 0
    assert "1 picture with none" in capsys.readouterr().out


def test_kinds_are_those_of_the_engine() -> None:
    assert KIND_NAMES == KINDS

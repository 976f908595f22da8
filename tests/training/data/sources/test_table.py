"""The imagefolder layout: tables as Hugging Face's datasets write them, and as nobody should."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graft.training.data.dataset import GivenHints
from graft.training.data.sources.choose import Origin, open_source
from graft.training.data.sources.columns import Columns
from graft.training.data.sources.names import LEAVES_THE_FOLDER
from graft.training.errors import InputError

Png, Write, Look = Callable[..., bytes], Callable[..., Path], Callable[..., Any]


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def test_fill50ks_columns_are_known(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    """As huggingface.co/datasets/fusing/fill50k has them: image, conditioning_image, text."""
    for number in (0, 1):
        write(f"images/{number}.png", png(number))
        write(f"conditioning_images/{number}.png", png(number + 10))
    write("train.jsonl", lines(*(
        {"text": f"kreis {number} ü", "image": f"images/{number}.png", "conditioning_image": f"conditioning_images/{number}.png"} for number in (0, 1)
    )))  # fmt: skip
    seen = look(open_source(Origin(path=tmp_path)), hint=GivenHints())
    assert seen.captions == {"images/0.png": "kreis 0 ü", "images/1.png": "kreis 1 ü"} and not seen.problems
    sample = seen.samples["images/1.png"]
    assert sample.hint_place.picture(sample.hint_digest).shape == (32, 40, 3) and sample.hint_digest != sample.digest


def test_csv_with_captions_of_several_lines(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a.png", png(1))
    text = io.StringIO()
    csv.writer(text).writerows([["file_name", "text"], ["a.png", 'says "hello",\ntwice']])
    write("metadata.csv", "\ufeff" + text.getvalue())
    assert look(open_source(Origin(path=tmp_path))).captions == {"a.png": 'says "hello", twice'}


def test_other_columns_by_name_and_missing_ones_are_told(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a.png", png(1))
    write("metadata.jsonl", lines({"file_name": "a.png", "text": "usual", "long text": "own"}))
    assert look(open_source(Origin(path=tmp_path, columns=Columns(caption="long text")))).captions == {"a.png": "own"}
    with pytest.raises(InputError, match=r"hint column.*expected depth; found file_name, text, long text"):
        look(open_source(Origin(path=tmp_path, columns=Columns(hint="depth"))))
    write("metadata.jsonl", lines({"url": "x"}))
    with pytest.raises(InputError, match=r"picture column.*found url"):
        look(open_source(Origin(path=tmp_path)))


@pytest.mark.parametrize(
    "row",
    ["../secret.png", "/etc/secret.png", "C:\\secret.png", "in/../../secret.png", "..\\secret.png"],
)
def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path, png: Png, write: Write, look: Look, row: str) -> None:
    write("secret.png", png(1))
    write("data/a.png", png(2))
    write("data/metadata.jsonl", lines({"file_name": "a.png", "text": "a"}, {"file_name": row, "text": "b"}))
    seen = look(open_source(Origin(path=tmp_path / "data")))
    assert list(seen.samples) == ["a.png"]
    assert seen.problems == {f"metadata.jsonl line 2: {row}": LEAVES_THE_FOLDER}


def test_every_bad_row_is_named_by_its_line(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a.png", png(1))
    good = {"file_name": "a.png", "text": "a"}
    bad = ["{broken", "[1]", json.dumps({"file_name": 3, "text": "x"}), json.dumps({"file_name": "a.png", "text": ["x"]}), json.dumps(good),
           json.dumps({"file_name": "gone.png", "text": "x"}), json.dumps({"file_name": "a.png", "text": "y" * 300_000})]  # fmt: skip
    write("metadata.jsonl", "\n".join([json.dumps(good), *bad, "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")]))
    seen = look(open_source(Origin(path=tmp_path)))
    assert seen.captions == {"a.png": "a"}
    told = {f"metadata.jsonl line {number}": word for number, word in (
        (2, "no JSON"), (3, "no JSON object"), (4, "names no picture"), (5, "no text"), (8, "more than"), (9, "no JSON"),
    )}  # fmt: skip
    for name, word in {**told, "a.png": "more than once", "gone.png": "cannot be opened"}.items():
        assert word in seen.problems.pop(name), name
    assert not seen.problems


def test_endless_lines_of_csv_are_told(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a.png", png(1))
    write("metadata.csv", f"file_name,text\na.png,{'x' * 300_000}\na.png,short\n")
    seen = look(open_source(Origin(path=tmp_path)))
    assert seen.captions == {"a.png": "short"} and "more than" in seen.problems["metadata.csv line 2"]


def test_rows_without_a_hint_are_named(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a.png", png(1, width=40, height=32))
    write("tall.png", png(2, width=24, height=48))
    hint = {"conditioning_image": "a.png", "text": "x"}
    write("metadata.jsonl", lines({"file_name": "a.png", **hint}, {"file_name": "tall.png", **hint}, {"file_name": "a.png", "text": "x"}))
    seen = look(open_source(Origin(path=tmp_path)), hint=GivenHints())
    assert "names no hint" in seen.problems["metadata.jsonl line 3"] and "other proportions, 40 x 32 px" in seen.problems["tall.png"]


def test_a_table_that_is_not_there(tmp_path: Path, look: Look) -> None:
    with pytest.raises(InputError, match="a table"):
        open_source(Origin(path=tmp_path, kind="table"))
    with pytest.raises(InputError, match="expected a file that can be read"):
        look(open_source(Origin(path=tmp_path / "x.jsonl", kind="table")))
    with pytest.raises(InputError, match="nothing there"):
        open_source(Origin(path=tmp_path / "x"))

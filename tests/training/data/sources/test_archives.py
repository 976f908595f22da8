"""WebDataset shards and parquet tables, paired folders, and archives that mean no good."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from graft.training.data.dataset import GivenHints
from graft.training.data.sources.choose import Origin, open_source
from graft.training.data.sources.columns import Columns
from graft.training.errors import InputError

Png, Write, Look = Callable[..., bytes], Callable[..., Path], Callable[..., Any]


def pack(path: Path, members: Mapping[str, bytes | str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            content = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_shards_are_read_in_place(tmp_path: Path, png: Png, look: Look) -> None:
    pack(tmp_path / "b-0001.tar", {"x/0003.jpg": png(3), "x/0003.json": json.dumps({"caption": "from json", "n": 1})})
    pack(tmp_path / "a-0000.tar", {"0001.png": png(1), "0001.txt": "one ü", "0002.PNG": png(2), "0002.cls": "7", "0002.txt": "two"})
    seen = look(open_source(Origin(path=tmp_path)))
    assert seen.captions == {"a-0000.tar/0001": "one ü", "a-0000.tar/0002": "two", "b-0001.tar/x/0003": "from json"}
    sample = seen.samples["b-0001.tar/x/0003"]
    assert sample.place.read() == png(3) and sample.size_px == (40, 32)
    assert not list(tmp_path.glob("**/*.png"))


def test_hints_in_shards(tmp_path: Path, png: Png, look: Look) -> None:
    pack(tmp_path / "a.tar", {"1.hint.png": png(11), "1.jpg": png(1), "1.txt": "one", "2.jpg": png(2), "2.txt": "two"})
    seen = look(open_source(Origin(path=tmp_path / "a.tar")), hint=GivenHints())
    assert seen.samples["a.tar/1"].hint_place.read() == png(11) and seen.problems == {"a.tar/2": "has no hint of its own"}
    by_name = look(open_source(Origin(path=tmp_path, columns=Columns(hint="hint.png", picture="jpg"))), hint=GivenHints())
    assert list(by_name.samples) == ["a.tar/1"] and by_name.problems == {"a.tar/2": "has no hint.png"}


def test_members_that_mean_no_good(tmp_path: Path, png: Png, look: Look) -> None:
    path = pack(tmp_path / "a.tar", {"../up.png": png(1), "/etc/b.png": png(2), "c.png": png(3), "d.txt": "alone", "e.png": png(5)})
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.FIFOTYPE, "pipe.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("c.png", "f.json", "f.png"):
            info = tarfile.TarInfo(name)
            data = b'{"caption": 3}' if name == "f.json" else png(3)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    seen = look(open_source(Origin(path=path)), caption_missing="empty")
    assert list(seen.samples) == ["a.tar/c", "a.tar/e"]
    told = {"a.tar/../up.png": "leads out", "a.tar//etc/b.png": "leads out", "a.tar/d": "no picture", "a.tar/link.png": "link",
            "a.tar/pipe.png": "special", "a.tar/c": "more than once", "a.tar/f.json": "no text"}  # fmt: skip
    assert {name: word for name, word in told.items() if word not in seen.problems.get(name, "")} == {}
    assert set(seen.problems) == set(told)


def test_archives_that_are_cut_off_compressed_or_none(tmp_path: Path, png: Png, look: Look) -> None:
    whole = pack(tmp_path / "a.tar", {f"{number}.png": png(number) for number in range(3)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 3])
    pack(tmp_path / "b.tar", {"1.png": png(1)}, "w:gz")
    (tmp_path / "c.tar").write_bytes(b"")
    (tmp_path / "d.tar").write_bytes(os.urandom(2000))
    seen = look(open_source(Origin(path=tmp_path)), caption_missing="empty")
    assert any(name.startswith("a.tar") for name in seen.problems)
    for name in ("b.tar", "c.tar", "d.tar"):
        assert "no tar archive that can be read to its end" in seen.problems[name]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected tar archives"):
        open_source(Origin(path=tmp_path / "empty", kind="tar"))


def test_paired_folders(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    for name in ("a", "in/b", "alone"):
        write(f"pictures/{name}.png", png(len(name)))
        write(f"pictures/{name}.txt", name)
    write("hints/a.png", png(21))
    write("hints/in/b.PNG", png(22))
    write("hints/stray.png", png(23))
    write("hints/a.bmp", png(24))
    seen = look(open_source(Origin(path=tmp_path / "pictures", hints=tmp_path / "hints")), hint=GivenHints())
    assert {name: sample.hint_place.read() for name, sample in seen.samples.items()} in (
        {"a.png": png(21), "in/b.png": png(22)}, {"a.png": png(24), "in/b.png": png(22)},
    )  # fmt: skip
    assert "has no partner in" in seen.problems["alone.png"] and "has no partner in" in seen.problems["stray"]
    assert [what for what in seen.problems.values() if "second hint" in what]
    with pytest.raises(InputError, match="folder of hints"):
        look(open_source(Origin(path=tmp_path / "pictures", hints=tmp_path / "none")))
    with pytest.raises(InputError, match="beside it"):
        open_source(Origin(path=tmp_path / "x.tar", hints=tmp_path / "hints"))


def test_parquet_tables(tmp_path: Path, png: Png, look: Look) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": png(number), "path": f"{number}.png"} for number in range(5)]
    hints = [{"bytes": png(number + 20), "path": None} for number in range(4)] + [{"bytes": None, "path": "x"}]
    table = pyarrow.table({"image": cells, "text": ["a", "b", "c", None, "e"], "conditioning_image": hints})
    parquet.write_table(table, tmp_path / "train-00000.parquet", row_group_size=2)
    (tmp_path / "train-00001.parquet").write_bytes(b"PAR1 not really")
    seen = look(open_source(Origin(path=tmp_path)), hint=GivenHints())
    assert seen.captions == {"train-00000.parquet row 0": "a", "train-00000.parquet row 1": "b", "train-00000.parquet row 2": "c"}
    sample = seen.samples["train-00000.parquet row 2"]
    assert sample.place.read() == png(2) and sample.hint_place.read() == png(22)
    assert seen.problems["train-00000.parquet row 3"] == "has no caption" and "no bytes" in seen.problems["train-00000.parquet row 4"]
    assert "no parquet table" in seen.problems["train-00001.parquet"]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="pip install pyarrow"):
        look(open_source(Origin(path=tmp_path)))

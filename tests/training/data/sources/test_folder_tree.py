"""A folder tree: kohya's repeats, captions by either ending, and everything that may lie around in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graft.training.data.known import KnownFiles
from graft.training.data.picture_set import PictureSet
from graft.training.data.sources.folder_tree import FolderTree
from graft.training.data.sources.listing import stamp_files
from graft.training.errors import InputError

Png, Write, Look = Callable[..., bytes], Callable[..., Path], Callable[..., Any]
without_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")


def test_kohyas_folders_repeat_and_name_their_pictures(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("10_sks dog/a.png", png(1))
    write("10_sks dog/inner/b.png", png(2))
    write("2_cats/inner/3_black/c.png", png(3))
    write("plain/d.png", png(4))
    seen = look(FolderTree(tmp_path), caption_missing="folder name")
    assert {name: (sample.repeats, sample.caption) for name, sample in seen.samples.items()} == {
        "10_sks dog/a.png": (10, "sks dog"), "10_sks dog/inner/b.png": (10, "sks dog"), "2_cats/inner/3_black/c.png": (3, "black"),
    }  # fmt: skip
    assert seen.problems == {"plain/d.png": "has no caption file"}


def test_captions_of_either_ending_and_the_text_file_wins(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    for name in ("a", "b", "c"):
        write(f"{name}.png", png(ord(name)))
    write("a.caption", "by caption")
    write("b.txt", "by txt")
    write("b.caption", "not this")
    write("c.CAPTION", "两只猫\r\n\r\n auf  der Mauer ")
    seen = look(FolderTree(tmp_path))
    assert seen.captions == {"a.png": "by caption", "b.png": "by txt", "c.png": "两只猫 auf der Mauer"}
    assert seen.samples["c.png"].lines == ("两只猫", "auf der Mauer") and seen.samples["a.png"].lines == ()


def test_sizes_are_upright_and_places_give_the_picture(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("猫/größe.png", png(1, width=40, height=24))
    sample = look(FolderTree(tmp_path), caption_missing="empty").samples["猫/größe.png"]
    assert sample.size_px == (40, 24) and sample.place.picture(sample.digest).shape == (24, 40, 3)


@pytest.mark.parametrize("name", ["0_none", "10001_many"])
def test_absurd_repeats_are_refused(tmp_path: Path, png: Png, write: Write, look: Look, name: str) -> None:
    write(f"{name}/a.png", png(1))
    with pytest.raises(InputError, match=rf"{name}.*repeats"):
        look(FolderTree(tmp_path))


def test_formats_that_are_not_read_are_named(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a.gif", b"GIF89a")
    write("b.HEIC", b"x")
    write("notes.md", b"x")
    write("c.png", b"GIF89a" + bytes(20))
    seen = look(FolderTree(tmp_path))
    assert set(seen.problems) == {"a.gif", "b.HEIC", "c.png"}
    assert "format GIF" in seen.problems["a.gif"] and "whatever its name says" in seen.problems["c.png"]


@without_links
def test_loops_of_links_end(tmp_path: Path, png: Png, write: Write, look: Look) -> None:
    write("a/one.png", png(1))
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    seen = look(FolderTree(tmp_path), caption_missing="empty")
    assert list(seen.samples) == ["a/one.png"]
    assert "same folder" in seen.problems["a/up"]
    assert "cannot be opened" in seen.problems["a/self.png"] and "cannot be opened" in seen.problems["gone.png"]


@without_links
def test_a_name_that_is_no_unicode_is_written_out(tmp_path: Path, png: Png, look: Look) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png(1))
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    assert list(look(FolderTree(tmp_path), caption_missing="empty").samples) == ["caf\\xe9.png"]


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, png: Png, write: Write, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.png", png(1))
    locked = write("locked/b.png", png(2)).parent
    real = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    seen = look(FolderTree(tmp_path), caption_missing="empty")
    assert list(seen.samples) == ["a.png"] and seen.problems == {"locked": "cannot be read (Permission denied)"}
    with pytest.raises(InputError, match="Permission denied"):
        look(FolderTree(locked))


def test_files_that_vanish_are_named(tmp_path: Path, png: Png, write: Write) -> None:
    write("a.png", png(1))
    write("b.png", png(2))
    dataset = PictureSet(source=FolderTree(tmp_path), resolution_px=32, caption_missing="empty")
    samples = dataset.scan()
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match="cannot be opened"):
        dataset.read(samples[1])
    with pytest.raises(InputError, match=r"nothing there|none"):
        PictureSet(source=FolderTree(tmp_path / "b"), resolution_px=32).scan()


def test_what_is_known_is_kept_between_processes(tmp_path: Path, png: Png, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process reads neither pictures nor captions that have not changed."""
    for number in range(3):
        write(f"in/{number}.png", png(number))
        write(f"in/{number}.txt", f"picture {number}")
    for path in (tmp_path / "in").iterdir():
        os.utime(path, (1e9, 1e9))
    dataset = PictureSet(source=FolderTree(tmp_path / "in"), resolution_px=32)
    cache = tmp_path / "cache"
    first = dataset.scan(KnownFiles(cache))
    write("in/1.txt", "changed")
    read: list[str] = []
    from graft.training.data.sources import place

    real = place.read_file
    monkeypatch.setattr(place, "read_file", lambda path: (read.append(path.name), real(path))[1])
    second = dataset.scan(KnownFiles(cache))
    assert read == ["1.txt"] and [sample.caption for sample in second] == ["picture 0", "changed", "picture 2"]
    assert [sample.digest for sample in second] == [sample.digest for sample in first]
    (kept,) = cache.iterdir()
    kept.write_bytes(b"{not json")
    assert dataset.scan(KnownFiles(cache)) == second


def test_the_stamp_follows_files_and_settings(tmp_path: Path, png: Png, write: Write) -> None:
    for name in ("a.png", "b.png", "a.txt"):
        os.utime(write(f"in/{name}", png(1)), (1e9, 1e9))
    dataset = PictureSet(source=FolderTree(tmp_path / "in"), resolution_px=32)
    stamps = [dataset.stamp(), dataset.stamp()]
    assert stamps[0] == stamps[1] != ""
    write("in/notes.md", "x")
    assert dataset.stamp() == stamps[0]
    stamps.append(PictureSet(source=FolderTree(tmp_path / "in"), resolution_px=64).stamp())
    os.utime(tmp_path / "in" / "a.txt", (2e9 - 1e9 + 1, 1e9 + 1))
    stamps.append(dataset.stamp())
    os.utime(write("in/a_0040x0032_flux.npz", b"latents that another trainer has cached"), (1e9, 1e9))
    stamps.append(dataset.stamp())
    assert len(set(stamps)) == 4
    (tmp_path / "in" / "a.txt").write_text("young", "utf-8")
    assert dataset.stamp() == "" == stamp_files([str(tmp_path / "gone")])

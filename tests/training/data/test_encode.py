"""What is encoded is right, made once, found again, continued after an interruption, and never larger in memory than a shard."""

from __future__ import annotations

import dataclasses
import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.canny import CannyRecipe
from graft.training.data.encode import LatentSpace, encode_dataset
from graft.training.data.encoded import Encoded
from graft.training.data.folder import ImageFolder, read_picture
from graft.training.data.framing import Framing
from graft.training.data.shards import rows_for
from graft.training.errors import InputError

MakeFolder = Callable[..., Path]
RESOLUTION_PX = 32


@pytest.fixture
def dataset(make_folder: MakeFolder) -> ImageFolder:
    return ImageFolder(make_folder(11), resolution_px=RESOLUTION_PX, held_out=3)


def contents(encoded: Encoded) -> list[torch.Tensor]:
    samples = [*encoded.train, *encoded.held_out]
    hints = encoded.hints(samples, 5, [2] * len(samples))
    return [encoded.latents(samples), *encoded.text(samples), *encoded.empty_text(), encoded.colours(samples), hints]  # type: ignore[list-item]


def test_what_comes_back_is_what_the_encoders_gave(dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    assert (encoded.train_size, encoded.held_out_size) == (8, 3)
    for sample in [*encoded.train, *encoded.held_out]:
        picture = read_picture(dataset.path / sample.name, RESOLUTION_PX)
        means = picture.reshape(4, 8, 4, 8, 3).astype(np.float64).mean(axis=(1, 3))
        assert np.abs(encoded.colours([sample])[0].numpy() - means).max() <= 0.5
        raw = encoders.images(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0]
        assert torch.equal(encoded.latents([sample])[0], (raw - 0.1159) * 0.3611)
        tokens, pooled = encoders.text([sample.caption])
        assert torch.equal(encoded.text([sample])[0], tokens) and torch.equal(encoded.text([sample])[1], pooled)
        assert encoded.text([sample])[0].dtype == torch.bfloat16
        edges = cv2.Canny(picture, 100, 200)
        assert np.array_equal(encoded.edges([sample], 0, [0])[0].numpy(), edges)
        hint = encoded.hints([sample], 0, [0])
        assert hint is not None and hint.shape == (1, 3, 32, 32) and torch.equal(hint[0, 1] > 0, torch.from_numpy(edges > 0))
        assert set(hint.unique().tolist()) <= {-1.0, 1.0}


def test_the_empty_caption_is_encoded(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    tokens, pooled = encoders.encode(dataset, tmp_path / "encoded").empty_text()
    expected = encoders.text([""])
    assert torch.equal(tokens, expected[0][0]) and torch.equal(pooled, expected[1][0])


def test_other_latent_spaces(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    flux = encoders.encode(dataset, tmp_path / "encoded")
    plain = encoders.encode(dataset, tmp_path / "encoded", latent_space=LatentSpace(0.0, 1.0))
    assert flux.key != plain.key
    assert torch.allclose((plain.latents(plain.train) - 0.1159) * 0.3611, flux.latents(flux.train), atol=1e-6)


def test_held_out_pictures_are_those_with_the_smallest_hashes(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    digests = sorted(sample.digest for sample in dataset.scan())
    assert sorted(sample.digest for sample in encoded.held_out) == digests[:3]
    assert not {sample.digest for sample in encoded.train} & set(digests[:3])


def test_an_index_of_another_form_is_made_anew_and_names_the_same_data(
    dataset: ImageFolder, encoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings are known by the data's key: they outlive it that an index looks different."""
    first = encoders.encode(dataset, tmp_path / "encoded")
    monkeypatch.setattr("graft.training.data.encode._INDEX_VERSION", 99)
    second = encoders.encode(dataset, tmp_path / "encoded")
    assert second.key == first.key and encoders.pictures == 11 and len(list((tmp_path / "encoded").glob("encoded-*"))) == 2


def test_a_second_call_encodes_nothing(dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    first = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 11
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "encoded").glob("*-*-*.safetensors")}  # the index tells its last use
    encoders.captions.clear()
    second = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 11 and encoders.captions == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "encoded").glob("*-*-*.safetensors")} == files and len(files) > 8
    assert second == first and all(torch.equal(a, b) for a, b in zip(contents(first), contents(second), strict=True))


def test_each_different_caption_is_encoded_once(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    for number in range(8):
        (dataset.path / f"{number:04}.txt").write_text("the same", "utf-8")
    encoders.encode(dataset, tmp_path / "encoded")
    assert sorted(encoders.captions) == ["", "picture 10", "picture 8", "picture 9", "the same"]


def test_an_edited_caption_encodes_text_alone(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    before = encoders.encode(dataset, tmp_path / "encoded")
    (dataset.path / "0004.txt").write_text("edited", "utf-8")
    after = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 11 and after.key != before.key
    assert [sample.digest for sample in after.held_out] == [sample.digest for sample in before.held_out]
    assert "edited" in {sample.caption for sample in [*after.train, *after.held_out]}


def test_an_interruption_keeps_finished_shards(make_folder: MakeFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    dataset = ImageFolder(make_folder(11), resolution_px=RESOLUTION_PX)
    encoders.fail_after_pictures = 8
    with pytest.raises(KeyboardInterrupt):
        encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 8
    assert not [path.name for path in (tmp_path / "encoded").iterdir() if path.name.startswith(".graft-part-")]
    encoders.fail_after_pictures = None
    resumed = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 11
    whole = encoders.encode(dataset, tmp_path / "elsewhere")
    assert whole.key == resumed.key and all(torch.equal(a, b) for a, b in zip(contents(whole), contents(resumed), strict=True))


def test_a_cut_off_shard_is_made_again(dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    first = encoders.encode(dataset, tmp_path / "encoded")
    expected = contents(first)
    shard = sorted((tmp_path / "encoded").glob("latents-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    second = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures in (11 + 4, 11 + 3)
    assert all(torch.equal(a, b) for a, b in zip(expected, contents(second), strict=True))


def test_what_a_killed_process_left_is_removed_once_it_is_old(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    (tmp_path / "encoded").mkdir()
    old, young = (tmp_path / "encoded" / f".graft-part-{name}.safetensors" for name in ("old", "young"))
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    encoders.encode(dataset, tmp_path / "encoded")
    assert not old.exists() and young.exists()


def test_a_removed_shard_is_made_again(dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    encoders.encode(dataset, tmp_path / "encoded")
    sorted((tmp_path / "encoded").glob("latents-*.safetensors"))[0].unlink()
    encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures in (11 + 4, 11 + 3)


@pytest.mark.parametrize(
    "content", [lambda whole: b"", lambda whole: b"{}", lambda whole: whole[:-3], lambda whole: whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]],
    ids=["empty", "no index", "cut off", "one bit"],
)  # fmt: skip
def test_a_damaged_index_is_made_again(dataset: ImageFolder, encoders: Any, tmp_path: Path, content: Callable[[bytes], bytes]) -> None:
    first = encoders.encode(dataset, tmp_path / "encoded")
    index = next((tmp_path / "encoded").glob("encoded-*.safetensors"))
    whole = index.read_bytes()
    index.write_bytes(content(whole))
    assert encoders.encode(dataset, tmp_path / "encoded") == first
    assert encoders.pictures == 11 and index.read_bytes() == whole


@pytest.mark.parametrize(("image_identity", "text_identity", "again"), [("another", "stand-in", (11, 0)), ("stand-in", "another", (0, 12))])
def test_another_encoder_makes_its_own_parts_anew_and_no_others(
    dataset: ImageFolder, encoders: Any, tmp_path: Path, image_identity: str, text_identity: str, again: tuple[int, int]
) -> None:
    """Eleven pictures; eleven captions and the empty one."""
    first = encoders.encode(dataset, tmp_path / "encoded")
    before = encoders.pictures, len(encoders.captions)
    second = encode_dataset(dataset, encoders.images, encoders.text, image_identity, text_identity, tmp_path / "encoded")
    assert first.key != second.key
    assert (encoders.pictures - before[0], len(encoders.captions) - before[1]) == again


def test_drawn_thresholds_make_hints_on_the_fly(dataset: ImageFolder, encoders: Any, tmp_path: Path, ranged: CannyRecipe) -> None:
    encoded = encoders.encode(dataclasses.replace(dataset, hint=ranged), tmp_path / "encoded")
    assert "edges" not in encoded.parts
    for sample in encoded.train:
        picture = read_picture(dataset.path / sample.name, RESOLUTION_PX)
        expected = cv2.Canny(picture, *ranged.thresholds(7, sample.digest, 3))
        assert np.array_equal(encoded.edges([sample], 7, [3])[0].numpy(), expected)


def test_latent_hints_are_encoded_edges_in_variants(dataset: ImageFolder, encoders: Any, tmp_path: Path, ranged: CannyRecipe) -> None:
    dataset = dataclasses.replace(dataset, hint=ranged)
    encoded = encoders.encode(dataset, tmp_path / "encoded", hint_form="latents", hint_variants=3)
    assert encoders.pictures == 11 * 4
    sample, epochs = encoded.train[0], list(range(20))
    picture = read_picture(dataset.path / sample.name, RESOLUTION_PX)
    edges = [torch.from_numpy(cv2.Canny(picture, *ranged.thresholds(0, sample.digest, variant))) for variant in range(3)]
    expected = [(encoders.images((edge / 255).repeat(1, 3, 1, 1)) - 0.1159) * 0.3611 for edge in edges]
    hints = encoded.hints([sample] * 20, 9, epochs)
    shown = encoded.edges([sample] * 20, 9, epochs)
    variants = [next(v for v in range(3) if torch.equal(shown[epoch], edges[v])) for epoch in epochs]
    assert all(torch.equal(hints[epoch], expected[variant][0]) for epoch, variant in zip(epochs, variants, strict=True))
    assert len(set(variants)) == 3


def test_the_autoencoder_is_never_given_more_pictures_at_once_than_fit(dataset: ImageFolder, encoders: Any, tmp_path: Path, monkeypatch: Any) -> None:
    sizes: list[int] = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return encoders.images(pixels)

    monkeypatch.setattr("graft.training.data.encode_latents.PIXELS_AT_ONCE", 3 * RESOLUTION_PX**2)
    dataset = dataclasses.replace(dataset, hint=CannyRecipe(low=(20, 120), high=(100, 240)), framing=Framing(flip=True))
    encode_dataset(dataset, encode, encoders.text, "x", "x", tmp_path / "encoded", hint_form="latents", hint_variants=6)
    assert max(sizes) == 3 and sum(sizes) == 11 * 2 * 7


def test_fixed_thresholds_need_one_latent_hint(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    encoded = encoders.encode(dataset, tmp_path / "encoded", hint_form="latents", hint_variants=4)
    assert encoders.pictures == 22 and encoded.hint_variants == 1


def test_latent_hints_are_added_to_what_is_encoded(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    pixels = encoders.encode(dataset, tmp_path / "encoded")
    encoders.pictures, encoders.captions = 0, []
    latents = encoders.encode(dataset, tmp_path / "encoded", hint_form="latents")
    assert encoders.pictures == 11 and encoders.captions == [] and latents.key != pixels.key
    none = encoders.encode(dataset, tmp_path / "encoded", hint_form="none")
    assert encoders.pictures == 11 and none.hints(none.train, 0, [0] * 8) is None


def test_pictures_that_cannot_be_decoded_are_all_listed_and_nothing_is_encoded_from_the_first_on(
    dataset: ImageFolder, encoders: Any, tmp_path: Path, small_shards: int, spoil_png: Callable[[Path], None]
) -> None:
    whole = {number: (dataset.path / f"{number:04}.png").read_bytes() for number in (1, 5, 9)}
    for number in (5, 9):
        spoil_png(dataset.path / f"{number:04}.png")
    with pytest.raises(InputError, match=r"2 problems: 0005\.png .*; 0009\.png"):
        encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 4 and encoders.captions == []  # the first shard is sound, and stays
    spoil_png(dataset.path / "0001.png")
    with pytest.raises(InputError, match=r"3 problems: 0001\.png .*; 0005\.png .*; 0009\.png"):
        encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 4
    for number, data in whole.items():
        (dataset.path / f"{number:04}.png").write_bytes(data)
    assert encoders.encode(dataset, tmp_path / "encoded").train_size == 8 and encoders.pictures == 11


def test_pictures_that_cannot_be_decoded_are_left_out_when_told_to(
    dataset: ImageFolder, encoders: Any, tmp_path: Path, spoil_png: Callable[[Path], None]
) -> None:
    whole = encoders.encode(dataset, tmp_path / "encoded")
    for number in (1, 9):
        spoil_png(dataset.path / f"{number:04}.png")
    tolerant = dataclasses.replace(dataset, on_unreadable="skip")
    encoded = encoders.encode(tolerant, tmp_path / "encoded")
    assert {sample.name for sample in [*encoded.train, *encoded.held_out]} == {f"{n:04}.png" for n in range(11) if n not in (1, 9)}
    assert encoded.held_out_size == 3 and [problem.name for problem in encoded.skipped] == ["0001.png", "0009.png"]
    assert encoders.encode(tolerant, tmp_path / "encoded") == encoded != whole
    with pytest.raises(InputError, match="2 problems"):
        encoders.encode(dataset, tmp_path / "encoded")


def test_non_finite_latents_stop_with_the_pictures_names(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    def overflows(pixels: torch.Tensor) -> torch.Tensor:
        latents = encoders.images(pixels)
        latents[2] = float("nan")
        return latents

    with pytest.raises(InputError, match=r"non-finite values for 0002\.png"):
        encode_dataset(dataset, overflows, encoders.text, "x", "x", tmp_path / "encoded")


def test_captions_of_another_length_stop(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    def grows(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled = encoders.text(captions)
        return tokens.repeat(1, 2 if any(captions) else 1, 1), pooled

    with pytest.raises(InputError, match="Shorten"):
        encode_dataset(dataset, encoders.images, grows, "x", "x", tmp_path / "encoded")


@pytest.mark.parametrize("broken", [lambda t: t[:1], lambda t: t[0], lambda t: t * float("inf")])
def test_encoders_of_the_wrong_kind_stop(dataset: ImageFolder, encoders: Any, tmp_path: Path, broken: Callable[..., Any]) -> None:
    def wrong_text(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled = encoders.text([*captions, "a"])
        return broken(tokens), pooled[:-1]

    with pytest.raises(InputError, match="autoencoder"):
        encode_dataset(dataset, lambda pixels: broken(encoders.images(pixels)), encoders.text, "x", "x", tmp_path / "a")
    with pytest.raises(InputError, match="text encoder"):
        encode_dataset(dataset, encoders.images, wrong_text, "x", "x", tmp_path / "b")


def test_a_full_disk_is_said_before_it_happens(
    dataset: ImageFolder, encoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: int
) -> None:
    # 11 times latents of 4 x 4 x 4 numbers, edges of 32 x 4 bytes and colours: the first shard alone would still fit.
    usage = type("Usage", (), {"free": 4_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="free"):
        encoders.encode(dataset, tmp_path / "encoded")
    assert not [path for path in (tmp_path / "encoded").glob("*") if path.is_file()]


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    dataset: ImageFolder, encoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="room on the disk"):
            encoders.encode(dataset, tmp_path / "encoded")
    assert not [path for path in (tmp_path / "encoded").iterdir() if path.is_file()]


def test_a_file_in_the_folders_place(dataset: ImageFolder, encoders: Any, tmp_path: Path) -> None:
    (tmp_path / "encoded").write_text("x", "utf-8")
    with pytest.raises(InputError, match="folder for encoded data"):
        encoders.encode(dataset, tmp_path / "encoded")


@pytest.mark.parametrize("options", [{"hint_form": "sound"}, {"hint_variants": 0}, {"hint_variants": 1000}])
def test_absurd_options_are_refused(dataset: ImageFolder, encoders: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="hint"):
        encoders.encode(dataset, tmp_path / "encoded", **options)


def test_rows_per_shard_bound_the_memory() -> None:
    assert rows_for(128 * 128 * 3) == 256 and rows_for(1024 * 1024 * 3) == 16 and rows_for(10**9) == 1
    assert all(rows_for(size) * size <= 64 * 2**20 or rows_for(size) == 1 for size in (1, 1000, 70_000, 5_000_000, 10**8))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures(
    make_folder: MakeFolder, encoders: Any, tmp_path: Path, small_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.training.data.pages.LARGE_BYTES", 1)

    class Watches:
        """What numpy, OpenCV and Python hold, and all pixels: tracemalloc sees them."""

        peak_bytes = 0

        def start(self, total: int, unit: str) -> None: ...
        def finish(self) -> None: ...
        def check_interrupt(self) -> None: ...

        def advance(self, done: int, **values: float) -> None:
            if done % (2 * small_shards) == 0:
                self.peak_bytes = max(self.peak_bytes, tracemalloc.get_traced_memory()[0])

    def peak_bytes(count: int) -> int:
        dataset = ImageFolder(make_folder(count, f"pictures {count}"), resolution_px=128)
        watcher = Watches()
        tracemalloc.start()
        try:
            encoders.encode(dataset, tmp_path / f"encoded {count}", progress=watcher)
        finally:
            tracemalloc.stop()
        return watcher.peak_bytes

    few, many = peak_bytes(24), peak_bytes(64)
    assert few > small_shards * 128 * 128 * 3
    assert many - few < 40 * 128 * 128 * 3 / 5

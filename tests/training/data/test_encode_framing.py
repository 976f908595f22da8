"""Buckets, views, drawn hints, several texts and kohya's latents, all the way from a folder to batches."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.batches import Batches, held_out_batches, load_batch
from graft.training.data.buckets import Buckets
from graft.training.data.canny import CannyRecipe
from graft.training.data.dataset import Sample
from graft.training.data.encode import encode_dataset
from graft.training.data.folder import ImageFolder
from graft.training.data.framing import Framing
from graft.training.data.hints import Blurred
from graft.training.data.kohya_latents import read_kohya_latents
from graft.training.errors import InputError
from graft.training.progress import NO_PROGRESS

BUCKETS = Buckets(min_px=16, max_px=64, step_px=16)
SHAPES = [(40, 32), (96, 36), (30, 60)]


@pytest.fixture
def mixed(tmp_path: Path, draw_picture: Callable[..., Any]) -> Path:
    """Fourteen pictures of three proportions."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(14):
        draw_picture(number, *SHAPES[number % 3]).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"picture {number}", "utf-8")
        os.utime(folder / f"{number:02}.png", (1e9, 1e9))  # written long ago
        os.utime(folder / f"{number:02}.txt", (1e9, 1e9))
    return folder


def test_every_picture_is_encoded_in_its_bucket_and_batches_have_one_size(mixed: Path, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    dataset = ImageFolder(mixed, resolution_px=32, held_out=4, framing=Framing(buckets=BUCKETS))
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    # By hand at 32 x 32: 1.25 is nearest to 32 x 32, 2.667 to 48 x 16 (3), 0.5 to 16 x 48 (0.333).
    assert encoded.sizes == ((16, 48), (32, 32), (48, 16))
    with Batches(encoded, seed=1, batch_size=2) as batches:
        drawn = [batches.batch(step) for step in range(20)]
        assert len({batch.latents.shape for batch in drawn}) == 3
        for batch in drawn:
            height, width = (8 * side for side in batch.latents.shape[-2:])
            assert batch.hint is not None and batch.hint.shape == (2, 3, height, width) and (width, height) in encoded.sizes
            for row, (position, _) in enumerate(batch.indices):
                sample = encoded.train[position]
                bgr = cv2.imread(str(mixed / sample.name))
                cut = dataset.framing.cut(np.ascontiguousarray(bgr[..., ::-1]), (bgr.shape[1], bgr.shape[0]), 32)
                raw = encoders.images(torch.from_numpy(cut).permute(2, 0, 1)[None] / 255)[0]
                assert torch.equal(batch.latents[row], (raw - 0.1159) * 0.3611)
                assert np.array_equal(batch.hint[row, 0].numpy() > 0, cv2.Canny(cut, 100, 200) > 0)
    positions = held_out_batches(encoded, 4, 2)
    assert sorted(place for batch in positions for place in batch) == [0, 1, 2, 3]
    assert all(len({encoded.groups("held out")[place] for place in batch}) == 1 for batch in positions)
    alike = encoded.alike("train", 3)
    assert len({int(encoded.groups("train")[place]) for place in alike}) == 1 and encoded.latents([encoded.train[place] for place in alike]).ndim == 4


def test_a_resumed_training_sees_exactly_the_remaining_pictures(mixed: Path, encoders: Any, tmp_path: Path) -> None:
    dataset = ImageFolder(mixed, resolution_px=32, framing=Framing(buckets=BUCKETS, flip=True))
    first, second = (encoders.encode(dataset, tmp_path / "encoded") for _ in range(2))

    def seen(encoded: Any, steps: range) -> list[Any]:
        with Batches(encoded, seed=1, batch_size=3) as batches:
            return [(batch.indices, batch.latents.sum().item(), batch.hint.sum().item()) for batch in map(batches.batch, steps)]

    assert seen(first, range(12)) == seen(first, range(5)) + seen(second, range(5, 12))


def test_pictures_too_small_for_a_bucket_are_listed_or_left_out(mixed: Path, draw_picture: Callable[..., Any], encoders: Any, tmp_path: Path) -> None:
    draw_picture(1, 60, 40).crop((0, 0, 60, 9)).save(mixed / "14.png")
    (mixed / "14.txt").write_text("flat", "utf-8")
    dataset = ImageFolder(mixed, resolution_px=32, framing=Framing(buckets=dataclasses.replace(BUCKETS, upscale=False)))
    with pytest.raises(InputError, match=r"14\.png has 60 x 9 pixels"):
        encoders.encode(dataset, tmp_path / "encoded")
    encoded = encoders.encode(dataclasses.replace(dataset, on_unreadable="skip"), tmp_path / "encoded")
    assert encoded.train_size == 14 and [problem.name for problem in encoded.skipped] == ["14.png"]


def every_view(encoded: Any) -> torch.Tensor:
    return encoded.pictures([dataclasses.replace(sample, row=sample.row + view) for sample in encoded.train for view in range(encoded.views)])


def test_crops_are_encoded_ahead_and_drawn_by_seed_sample_and_epoch(mixed: Path, encoders: Any, tmp_path: Path, ranged: CannyRecipe) -> None:
    framing = Framing(cropped_views=2)
    dataset = ImageFolder(mixed, resolution_px=32, framing=framing, hint=ranged)
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    assert encoded.views == 3 and encoders.pictures == len({row.numpy().tobytes() for row in every_view(encoded)}) > 14 * 2  # some crops are the same
    sample = encoded.train[1]  # 96 x 36: the square is 36 wide and has 60 pixels of room
    whole = np.ascontiguousarray(cv2.imread(str(mixed / sample.name))[..., ::-1])
    drawn: Counter[int] = Counter()
    for epoch in range(60):
        seen = encoded.seen(1, 7, epoch)
        view = seen.row - sample.row
        drawn[view] += 1
        cut = framing.cut(whole, (96, 36), 32, framing.view(view, sample.digest))
        assert np.array_equal(encoded.pictures([seen])[0].numpy(), cut)
        assert np.array_equal(encoded.edges([seen], 7, [epoch])[0].numpy(), cv2.Canny(cut, *ranged.thresholds(7, sample.digest, epoch)))
        assert encoded.seen(1, 7, epoch) == seen
    assert set(drawn) == {0, 1, 2} and min(drawn.values()) >= 10
    assert [encoded.seen(1, 8, epoch).row for epoch in range(60)] != [encoded.seen(1, 7, epoch).row for epoch in range(60)]


def test_mirrored_views_are_encoded_beside_the_plain_ones_which_stay(mixed: Path, encoders: Any, tmp_path: Path) -> None:
    plain = encoders.encode(ImageFolder(mixed, resolution_px=32), tmp_path / "encoded")
    dataset = ImageFolder(mixed, resolution_px=32, framing=Framing(flip=True))
    flipped = encoders.encode(dataset, tmp_path / "encoded")
    assert encoders.pictures == 28 and flipped.key != plain.key and flipped.views == 2
    sample = flipped.train[3]
    mirrored = dataclasses.replace(sample, row=sample.row + 1)
    assert torch.equal(flipped.colours([mirrored])[0], flipped.colours([sample])[0].flip(1))
    assert torch.allclose(flipped.latents([mirrored])[0], flipped.latents([sample])[0].flip(-1), atol=1e-6)  # averages mirror
    assert torch.equal(flipped.latents([sample]), plain.latents([plain.train[3]]))
    seen = dataset.framing.cut(np.ascontiguousarray(cv2.imread(str(mixed / sample.name))[..., ::-1]), (40, 32), 32)
    edges = cv2.Canny(np.ascontiguousarray(seen[:, ::-1]), 100, 200)
    assert np.array_equal(flipped.hints([mirrored], 0, [0])[0, 0].numpy() > 0, edges > 0)
    views = Counter(flipped.seen(3, 7, epoch).row - sample.row for epoch in range(60))
    assert set(views) == {0, 1} and min(views.values()) > 15
    batch = load_batch(flipped, [(3, epoch) for epoch in range(10)], 7)
    rows = [flipped.seen(3, 7, epoch) for epoch in range(10)]
    assert torch.equal(batch.latents, flipped.latents(rows)) and not torch.equal(batch.latents[0], batch.latents.mean(0))


@pytest.mark.parametrize("form", ["pixels", "latents"])
def test_drawn_hints_of_other_kinds(mixed: Path, encoders: Any, tmp_path: Path, form: Any) -> None:
    recipe = Blurred(sigma_px=(1.0, 4.0))
    encoded = encoders.encode(ImageFolder(mixed, resolution_px=32, hint=recipe), tmp_path / "encoded", hint_form=form, hint_variants=2)
    sample, draws = encoded.train[2], range(6)
    picture = encoded.pictures([sample])[0].numpy()
    hints = encoded.hints([sample] * 6, 5, draws)
    if form == "pixels":
        expected = [recipe.hint(picture, 5, sample.digest, epoch) for epoch in draws]
        assert torch.allclose((hints + 1) / 2 * 255, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).float(), atol=1e-3)
    else:
        pixels = [torch.from_numpy(recipe.hint(picture, 0, sample.digest, variant)).permute(2, 0, 1)[None] / 255 for variant in range(2)]
        known = [(encoders.images(each)[0] - 0.1159) * 0.3611 for each in pixels]
        assert all(any(torch.equal(hint, one) for one in known) for hint in hints)
    assert encoded.recipe == recipe and (encoded.edges([sample], 5, [0])[0].numpy() == cv2.Canny(picture, 100, 200)).all()


class Retold(ImageFolder):
    """Every picture has three texts, comes twice, and every third only in every second epoch."""

    def scan(self, known: Any = None, progress: Any = NO_PROGRESS) -> tuple[Sample, ...]:
        return tuple(
            dataclasses.replace(
                sample, captions=tuple(f"{sample.caption} told {way}" for way in range(3)), repeats=2, weight=1.0 if number % 3 else 0.25
            )
            for number, sample in enumerate(super().scan(known, progress))
        )  # fmt: skip


def test_each_epoch_draws_one_of_several_texts_and_rates_are_kept(mixed: Path, encoders: Any, tmp_path: Path) -> None:
    encoded = encoders.encode(Retold(mixed, resolution_px=32), tmp_path / "encoded")
    assert len(encoders.captions) == 1 + 14 * 3
    told = Counter(encoded.seen(4, 9, epoch).caption for epoch in range(90))
    assert set(told) == {f"picture 4 told {way}" for way in range(3)} and min(told.values()) > 15
    seen = encoded.seen(4, 9, 1)
    assert torch.equal(encoded.text([seen])[0][0], encoders.text([seen.caption])[0][0])
    assert encoded.rates is not None and encoded.rates.tolist() == [0.5 if number % 3 == 0 else 2.0 for number in range(14)]
    with Batches(encoded, seed=0, batch_size=3) as batches:
        times = Counter(sample for step in range(2 * (5 + 9 * 4) // 6) for sample, _ in batches.indices(step))
    assert times[1] in (3, 4) and times[0] <= 1


def test_an_unchanged_folder_is_not_even_scanned(mixed: Path, encoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ImageFolder(mixed, resolution_px=32)
    first = encoders.encode(dataset, tmp_path / "encoded")
    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "scan", lambda *_: pytest.fail("scanned"))
        assert encoders.encode(dataset, tmp_path / "encoded") == first
    (mixed / "03.txt").write_text("another", "utf-8")
    os.utime(mixed / "03.txt", (1e9 + 5, 1e9 + 5))
    encoders.captions.clear()
    assert encoders.encode(dataset, tmp_path / "encoded").key != first.key and encoders.captions == ["another"]


def test_memory_that_runs_out_makes_batches_smaller(mixed: Path, encoders: Any, tmp_path: Path) -> None:
    sizes: list[int] = []

    def small(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encoders.images(pixels)

    encoded = encode_dataset(ImageFolder(mixed, resolution_px=32), small, encoders.text, "x", "x", tmp_path / "encoded")
    whole = encoders.encode(ImageFolder(mixed, resolution_px=32), tmp_path / "elsewhere")
    assert torch.equal(encoded.latents(list(encoded.train)), whole.latents(list(whole.train)))
    assert sizes == [14, 7, 3, 3, 3, 3, 2]

    def never(pixels: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        encode_dataset(ImageFolder(mixed, resolution_px=32), never, encoders.text, "y", "x", tmp_path / "encoded")


def kohya_cache(picture: Path, size: tuple[int, int], latents: np.ndarray, **more: np.ndarray) -> Path:
    """As sd-scripts' FLUX strategy saves them."""
    path = picture.with_name(f"{picture.stem}_{size[0]:04d}x{size[1]:04d}_flux.npz")
    suffix = f"_{latents.shape[1]}x{latents.shape[2]}"
    np.savez(path, **{f"latents{suffix}": latents, f"original_size{suffix}": np.array(size), f"crop_ltrb{suffix}": np.zeros(4)}, **more)
    return path


def test_latents_that_kohyas_trainers_cached_are_taken_as_they_are(mixed: Path, encoders: Any, tmp_path: Path) -> None:
    known = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    kohya_cache(mixed / "00.png", (40, 32), known)
    kohya_cache(mixed / "01.png", (96, 36), known[:, :2])  # of another size than the square
    dataset = ImageFolder(mixed, resolution_px=32)
    encoded = encoders.encode(dataset, tmp_path / "encoded", kohya_latents=True)
    assert encoders.pictures == 13 and torch.equal(encoded.latents([encoded.train[0]])[0], torch.from_numpy(known))
    plain = encoders.encode(dataset, tmp_path / "encoded")
    assert plain.key != encoded.key and not torch.equal(plain.latents([plain.train[0]]), encoded.latents([encoded.train[0]]))
    assert torch.equal(plain.latents([plain.train[1]]), encoded.latents([encoded.train[1]]))


def test_cached_latents_of_another_autoencoder_are_named(mixed: Path, encoders: Any, tmp_path: Path) -> None:
    kohya_cache(mixed / "00.png", (40, 32), np.ones((16, 4, 4), np.float32))
    with pytest.raises(InputError, match="expected cached latents with as many channels as the VAE gives; found 4 and 16"):
        encoders.encode(ImageFolder(mixed, resolution_px=32), tmp_path / "encoded", kohya_latents=True)


def test_damaged_or_pickled_caches_are_not_taken(tmp_path: Path) -> None:
    good = np.ones((16, 4, 8), np.float32)
    path = kohya_cache(tmp_path / "a.png", (64, 32), good, latents_flipped_4x8=good * 2)
    assert torch.equal(read_kohya_latents(path, (64, 32)), torch.ones(16, 4, 8))
    assert torch.equal(read_kohya_latents(path, (64, 32), mirrored=True), torch.full((16, 4, 8), 2.0))
    assert read_kohya_latents(path, (32, 32)) is None and read_kohya_latents(tmp_path / "none.npz", (64, 32)) is None
    np.savez(tmp_path / "nan.npz", latents=good * np.nan)
    np.savez(tmp_path / "object.npz", latents=np.array([object()]))
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:100])
    assert all(read_kohya_latents(tmp_path / f"{name}.npz", (64, 32)) is None for name in ("nan", "object", "cut"))

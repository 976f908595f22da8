"""Pictures out of a graph are the same data as the same pictures in a folder, with hints of their own if they bring them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.batches import load_batch
from graft.training.data.canny import CannyRecipe
from graft.training.data.dataset import GivenHints
from graft.training.data.folder import ImageFolder
from graft.training.data.image_batch import ImageBatch, store_image_batch
from graft.training.errors import InputError
from PIL import Image
from torch import Tensor

MakeFolder = Callable[..., Path]
SIDE_PX = 32
TEXTS = [f"picture {number}" for number in range(6)]


def as_images(folder: Path) -> Tensor:
    """What Load Image gives for a folder's pictures: [B, H, W, 3] in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])).float() / 255


@pytest.fixture
def images(make_folder: MakeFolder) -> Tensor:
    return as_images(make_folder(6, "drawn"))


def store(images: Any, folder: Path, **changes: Any) -> ImageBatch:
    given = {"captions": TEXTS, "resolution_px": SIDE_PX, "hint": CannyRecipe(), "held_out": 2, **changes}
    return store_image_batch([images] if isinstance(images, Tensor) else images, given.pop("captions"), folder, **given)


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_batch_is_encoded_as_a_folder_of_its_pictures(make_folder: MakeFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    folder = make_folder(6)
    from_files = encoders.encode(ImageFolder(folder, SIDE_PX, CannyRecipe(), 0), tmp_path / "a")
    from_graph = encoders.encode(store(as_images(folder), tmp_path / "b", held_out=0), tmp_path / "b")
    ours, theirs = (
        [encoded.latents(encoded.train), encoded.colours(encoded.train), *encoded.text(encoded.train), *encoded.empty_text()]
        for encoded in (from_graph, from_files)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    hints = [encoded.hints(encoded.train, 0, [0] * 6) for encoded in (from_graph, from_files)]
    assert torch.equal(*hints) and [sample.caption for sample in from_graph.train] == TEXTS


def test_encoding_finds_the_pictures_and_a_second_time_everything(images: Tensor, encoders: Any, tmp_path: Path) -> None:
    stored = store(images, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pictures-*")}
    encoded = encoders.encode(stored, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("pictures-*")} and len(before) == 1
    assert encoders.encode(store(images.clone(), tmp_path), tmp_path) == encoded and encoders.pictures == 6
    assert (encoded.train_size, encoded.held_out_size) == (4, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"captions": ["other", *TEXTS[1:]]}, {"resolution_px": 48}, {"held_out": 1}, {"hint": CannyRecipe.fixed(50, 100)},
        {"hints": [random_images(6, 32, 40, 3)]}, {"hints": [random_images(6, 32, 40, 3, seed=1)]},
    ],
)  # fmt: skip
def test_everything_that_training_sees_is_in_the_key(images: Tensor, tmp_path: Path, changes: dict[str, Any]) -> None:
    keys = {store(images, tmp_path).key(), store(images, tmp_path, hints=[random_images(6, 32, 40, 3, seed=2)]).key()}
    assert len(keys) == 2 and store(images, tmp_path, **changes).key() not in keys
    changed = images.clone()
    changed[3, 0, 0, 0] = 1 - changed[3, 0, 0, 0].round()
    assert store(changed, tmp_path).key() not in keys
    assert store(images + 0.1 / 255, tmp_path).key() in keys  # rounds to the same eight bits


def test_given_hints_are_scaled_and_cropped_with_their_picture(encoders: Any, tmp_path: Path) -> None:
    """The same ramp as picture and as hint, the hint in half the size: what training sees of both is the same."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 192), indexing="ij")
    ramps = torch.stack([torch.stack([rows, columns * (1 - shade), rows * columns], dim=-1) for shade in (0.0, 0.5)])
    small = torch.from_numpy(np.stack([cv2.resize(ramp.numpy(), (96, 64), interpolation=cv2.INTER_AREA) for ramp in ramps]))
    stored = store(ramps, tmp_path, captions=["a"], hints=[small], held_out=0)
    encoded = encoders.encode(stored, tmp_path)
    hints = encoded.hints(encoded.train, 0, [0, 0])
    assert hints.shape == (2, 3, SIDE_PX, SIDE_PX) and hints.min() < -0.95
    pictures = torch.from_numpy(np.stack([stored.read(sample) for sample in stored.scan()])).permute(0, 3, 1, 2).float() / 255
    assert (hints - (pictures * 2 - 1)).abs().max() < 0.02
    assert encoded.recipe == GivenHints() and encoded.recipe.describe() == "given as pictures"
    assert torch.equal(load_batch(encoded, [(1, 7), (0, 3)], seed=5).hint, hints.flip(0))
    assert torch.equal(encoded.hint_pictures(encoded.train, 0, [0, 0]) * 2 - 1, hints)


def test_given_hints_as_latents(images: Tensor, encoders: Any, tmp_path: Path) -> None:
    hints = random_images(6, 32, 40, 3)
    encoded = encoders.encode(store(images, tmp_path, hints=[hints]), tmp_path, hint_form="latents", hint_variants=4)
    assert encoders.pictures == 12 and encoded.hint_variants == 1
    cropped = (hints[:, :, 4:36] * 255).round() / 255
    expected = (encoders.images(cropped.permute(0, 3, 1, 2)) - 0.1159) * 0.3611
    for sample in encoded.train:
        assert torch.allclose(encoded.hints([sample], 3, [9])[0], expected[sample.row], atol=1e-6)
    assert encoders.encode(store(images, tmp_path, hints=[hints]), tmp_path, hint_form="latents", hint_variants=2) == encoded


def test_other_hints_encode_hints_alone(images: Tensor, encoders: Any, tmp_path: Path) -> None:
    for seed, expected in ((0, 12), (1, 18), (0, 18)):
        encoders.encode(store(images, tmp_path, hints=[random_images(6, 32, 40, 3, seed=seed)]), tmp_path, hint_form="latents")
        assert encoders.pictures == expected
    assert sorted(encoders.captions) == ["", *TEXTS]


def test_edges_to_measure_by_are_those_of_the_pictures(images: Tensor, encoders: Any, tmp_path: Path) -> None:
    stored = store(images, tmp_path, hints=[images])
    encoded = encoders.encode(stored, tmp_path)
    picture = next(stored.read(sample) for sample in stored.scan() if sample.digest == encoded.held_out[1].digest)
    assert np.array_equal(encoded.edges(encoded.held_out, 0, [0, 0])[1].numpy(), cv2.Canny(picture, 100, 200))


def test_batches_of_different_sizes_follow_one_another(encoders: Any, tmp_path: Path) -> None:
    batches = [random_images(2, 40, 64, 3), random_images(1, 32, 32, 3, seed=1), random_images(3, 90, 50, 3, seed=2)]
    stored = store(batches, tmp_path, hints=[torch.cat([batch]) for batch in batches], captions=TEXTS)
    assert [sample.caption for sample in stored.scan()] == TEXTS
    third = (batches[1][0] * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(stored.read(stored.scan()[2]), third) and np.array_equal(stored.read_hint(stored.scan()[2]), third)


def test_an_interruption_keeps_what_is_stored(images: Tensor, tmp_path: Path, small_shards: int) -> None:
    class Cancels:
        units: list[str]

        def __init__(self, limit: int) -> None:
            self.left, self.units = limit, []

        def start(self, total: int, unit: str) -> None:
            self.units.append(f"{total} {unit}")

        def advance(self, done: int, **values: float) -> None: ...
        def finish(self) -> None: ...

        def check_interrupt(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(images, tmp_path, progress=Cancels(11))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    listener = Cancels(99)
    store(images, tmp_path, hints=[images], progress=listener)
    assert listener.units == ["6 picture", "6 hint", "2 picture", "6 hint"]
    with pytest.raises(KeyboardInterrupt):
        store(images, tmp_path, progress=Cancels(3))


def test_pictures_that_were_removed_are_named(images: Tensor, encoders: Any, tmp_path: Path) -> None:
    stored = store(images, tmp_path / "a", hints=[images])
    assert encoders.encode(stored, tmp_path / "elsewhere").train_size == 4
    for kind, named in (("hint-pictures", "1 problem: the hint of picture 1"), ("pictures", "6 problems: picture 1 is no longer on disk")):
        for path in (tmp_path / "a").glob(f"{kind}-*"):
            path.unlink()
        with pytest.raises(InputError, match=f"image batch: .*found {named}.*queue again"):
            encoders.encode(stored, tmp_path / f"without {kind}")


def with_value(images: Tensor, value: float) -> Tensor:
    changed = images.clone()
    changed[1, 2, 3, 0] = value
    return changed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda images: images[:0], "images: expected at least one picture; found an empty batch"),
        (lambda images: [], "images: expected at least one picture"),
        (lambda images: images[:, :0], "found pictures of 40 x 0 px"),
        (lambda images: images[..., :1], r"found pictures with one channel \(grey\)"),
        (lambda images: torch.cat([images, images[..., :1]], dim=-1), r"found pictures with four channels \(RGB and alpha\)"),
        (lambda images: images[..., 0], "found a MASK or a single picture"),
        (lambda images: images.movedim(-1, 1), r"found a tensor \[6, 3, 32, 40\]"),
        (lambda images: [None], "found a NoneType"),
        (lambda images: (images * 255).to(torch.uint8), "found values of dtype uint8. Divide"),
        (lambda images: with_value(images, float("nan")), "images: expected finite values.*found 1 problem: picture 2 holds NaN"),
        (lambda images: with_value(images, float("inf")), "picture 2 holds infinite values"),
        (lambda images: images * 255, "found 6 problems: picture 1 has values from .* to 2"),
        (lambda images: images * 2 - 1, "picture 1 has values from -"),
    ],
)
def test_bad_pictures(images: Tensor, tmp_path: Path, change: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        store(change(images), tmp_path)
    with pytest.raises(InputError, match=told.replace("images:", "hints:").replace("picture 1 has", "hint 1 has").replace("picture 2", "hint 2")):
        changed = change(images)
        store(images, tmp_path, hints=[changed] if isinstance(changed, Tensor) else changed)


def test_a_little_overshoot_is_cut_off(images: Tensor, tmp_path: Path) -> None:
    stored = store(with_value(images, 1.2), tmp_path)
    assert stored.read(stored.scan()[1]).max() == 255 and stored.key() == store(with_value(images, 1.0), tmp_path).key()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hints": [random_images(5, 32, 40, 3)]}, "hints: expected as many as pictures, 6; found 5"),
        ({"hints": [random_images(6, 40, 32, 3)]}, "hint 1: expected the proportions of its picture, 40 x 32 px; found 32 x 40 px"),
        ({"hints": [random_images(6, 32, 42, 3)]}, "hint 1: expected the proportions"),
        ({"captions": TEXTS[:5]}, "captions: expected one text for all, or 6: one for each picture; found 5 texts"),
        ({"held_out": 6}, "held-out pictures: expected fewer than there are pictures; found 6 different usable pictures, of which 6"),
        ({"held_out": -1}, "held-out pictures: expected 0 or more"),
        ({"resolution_px": 40}, "resolution: expected a multiple of 16; found 40"),
    ],
)
def test_what_does_not_go_together(images: Tensor, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        store(images, tmp_path, **changes)
    assert not list(tmp_path.glob("*.safetensors"))


def test_copies_of_a_held_out_picture_are_not_trained_on(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 1 different usable pictures, of which 1"):
        store(images[:1].repeat(6, 1, 1, 1), tmp_path, held_out=1)


def test_a_handle_holds_no_pictures(images: Tensor, tmp_path: Path) -> None:
    stored = store(images, tmp_path, hints=[images])
    assert not any(isinstance(value, (Tensor, np.ndarray)) for value in vars(stored).values())
    assert dataclasses.replace(stored, held_out=1).key() != stored.key()

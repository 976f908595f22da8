"""Pictures that go away between the scan and the moment they are decoded: named, counted, and never kept as black rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graft.training.data.batches import Batches
from graft.training.data.dataset import Sample
from graft.training.data.folder import ImageFolder
from graft.training.errors import InputError
from graft.training.progress import NO_PROGRESS

MakeFolder = Callable[..., Path]


class Unplugged(ImageFolder):
    """Its first pictures are gone as soon as it was scanned."""

    def scan(self, known: Any = None, progress: Any = NO_PROGRESS) -> tuple[Sample, ...]:
        samples = super().scan(known, progress)
        for sample in samples[:2]:
            (self.path / sample.name).rename(self.path / f"{sample.name}.away")
        (self.path / samples[2].name).write_bytes((self.path / samples[3].name).read_bytes())
        return samples


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_all_that_vanished_are_listed(make_folder: MakeFolder, encoders: Any, tmp_path: Path, policy: Any, small_shards: int) -> None:
    dataset = Unplugged(make_folder(9), 32, on_unreadable=policy)
    with pytest.raises(InputError) as error:
        encoders.encode(dataset, tmp_path / "encoded")
    for told in ("3 problems", "0000.png cannot be opened", "0001.png cannot be opened", "0002.png was changed"):
        assert told in str(error.value)
    assert encoders.pictures == 0


def test_they_are_decoded_once_they_are_back(make_folder: MakeFolder, encoders: Any, tmp_path: Path, small_shards: int) -> None:
    """A row lies under its content's key: a black one would be found again for ever."""
    folder = make_folder(9)
    kept = (folder / "0002.png").read_bytes()
    with pytest.raises(InputError, match="pictures that were scanned"):
        encoders.encode(Unplugged(folder, 32, on_unreadable="skip"), tmp_path / "encoded")
    for away in folder.glob("*.away"):
        away.rename(away.with_suffix(""))
    (folder / "0002.png").write_bytes(kept)
    encoded = encoders.encode(ImageFolder(folder, 32, on_unreadable="skip"), tmp_path / "encoded")
    assert encoded.train_size == 9 and not encoded.skipped


@pytest.mark.parametrize("pattern", ["latents-*", "text-*", "edges-*", "encoded-*"])
def test_encoded_data_that_vanish_while_training_are_named_and_made_again(
    make_folder: MakeFolder, encoders: Any, tmp_path: Path, pattern: str
) -> None:
    """The cache was emptied, or its disk is gone; headers of the files are remembered by then."""
    dataset = ImageFolder(make_folder(4), 32)
    encoded = encoders.encode(dataset, tmp_path / "encoded")
    with Batches(encoded, seed=0, batch_size=2, workers=1) as batches:
        first = batches.batch(0)
        for path in (tmp_path / "encoded").glob(f"{pattern}.safetensors"):
            path.unlink()
        with pytest.raises(InputError, match=f"{pattern[:-2]}-.*Queue again"):
            for step in range(1, 9):
                batches.batch(step)
    with Batches(encoders.encode(dataset, tmp_path / "encoded"), seed=0, batch_size=2) as batches:
        assert batches.batch(0).indices == first.indices and torch.equal(batches.batch(0).latents, first.latents)

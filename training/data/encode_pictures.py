"""What the rows of an encoded data set are: views of its pictures, how each is read and by what it is known; and what masks make of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from ..errors import InputError
from .buckets import Size
from .dataset import Dataset, Problem, Sample, list_problems
from .framing import View
from .keys import KeyPart
from .mask import require_usable_masks, whole_picture
from .picture_header import UnreadablePictureError, VanishedPictureError
from .shards import Report, Rows, Shard, ShardPlan, rows_for
from .shelf import Shelf

# The seed of thresholds that do not belong to one training: variants encoded ahead, and hints of held-out pictures.
SHARED_SEED = 0
MOST_WORKERS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class PictureParts:
    """The rows: row `sample * views + view` is one view of one sample."""

    dataset: Dataset
    samples: Sequence[Sample]
    shelf: Shelf

    def mask_parts(self, left_out: Collection[str]) -> dict[str, Rows]:
        """How much each cell of the latents counts, fp32 rows [H/8, W/8]; nothing where no picture has a mask.

        Args:
            left_out: names of pictures that are not used, whatever their masks are.

        Raises:
            InputError: masks cannot be read any more, or leave nothing of their picture; all are listed.
        """
        if not any(sample.mask_digest for sample in self.samples):
            return {}
        unusable: list[Problem] = []

        def make(plan: ShardPlan, report: Report) -> Shard | None:
            with workers("mask") as pool:
                found = list(_reported(pool.map(lambda row: self._try_weights(row, left_out), plan.rows), report))
            unusable.extend(entry for entry in found if isinstance(entry, Problem))
            weights = [entry for entry in found if isinstance(entry, np.ndarray)]
            return ({"loss weights": torch.from_numpy(np.stack(weights))}, {}) if len(weights) == len(found) else None

        base = self.dataset.resolution_px
        rows = self.shelf.rows("loss-weights", self.mask_contents, self.rows_per_shard, make, "mask", base, groups=self.groups)
        require_usable_masks(unusable)
        return {"loss weights": rows}

    @property
    def mask_contents(self) -> list[KeyPart]:
        """What the rows of masks are known by: cut as their pictures are, of which only the size matters where there is no mask."""
        owners = [sample for sample in self.samples for _ in range(self.views)]
        return [
            [sample.mask_digest, content] if sample.mask_digest else list(self.size_of(row))
            for row, (sample, content) in enumerate(zip(owners, self.contents, strict=True))
        ]

    @property
    def views(self) -> int:
        """Rows of each sample."""
        return self.dataset.framing.views

    @property
    def contents(self) -> list[KeyPart]:
        """What the rows' pixels are known by."""
        framing, resolution_px = self.dataset.framing, self.dataset.resolution_px
        if framing.is_plain:
            return [sample.digest for sample in self.samples]
        return [framing.view_key(view, sample.digest, sample.size_px, resolution_px) for sample in self.samples for view in range(self.views)]

    @property
    def hint_contents(self) -> list[KeyPart]:
        """What given hints are known by: turned as the picture that they belong to."""
        framing = self.dataset.framing
        if framing.is_plain:
            return [sample.hint_digest for sample in self.samples]
        owners = [sample for sample in self.samples for _ in range(self.views)]
        return [[sample.hint_digest, content] for sample, content in zip(owners, self.contents, strict=True)]

    @property
    def groups(self) -> list[Size] | None:
        """Width and height of each row; None where all are the same square."""
        framing, resolution_px = self.dataset.framing, self.dataset.resolution_px
        if framing.buckets is None:
            return None
        return [framing.size(sample.size_px, resolution_px) for sample in self.samples for _ in range(self.views)]

    def size_of(self, row: int) -> Size:
        """Width and height of a row."""
        return self.dataset.framing.size(self.samples[row // self.views].size_px, self.dataset.resolution_px)

    @property
    def rows_per_shard(self) -> int:
        """The same for pictures and for everything that is made of them."""
        return rows_for(self.dataset.resolution_px**2 * 3)

    def sample_of(self, row: int) -> Sample:
        """The sample that a row shows."""
        return self.samples[row // self.views]

    def view_of(self, row: int) -> View:
        """How a row shows it."""
        return self.dataset.framing.view(row % self.views, self.sample_of(row).digest)

    def cut(self, picture: np.ndarray, row: int) -> np.ndarray:
        """A whole picture, or a hint or mask of it, as a row shows it."""
        return self.dataset.framing.cut(picture, self.sample_of(row).size_px, self.dataset.resolution_px, self.view_of(row))

    def name_of(self, row: int) -> str:
        """What the user knows its picture by."""
        return self.sample_of(row).name

    def _try_weights(self, row: int, left_out: Collection[str]) -> np.ndarray | Problem:
        sample = self.sample_of(row)
        if sample.mask is None or sample.name in left_out:
            width, height = self.size_of(row)
            return whole_picture(width, height)
        try:
            return sample.mask.weights(lambda mask: self.cut(mask, row))
        except UnreadablePictureError as error:
            return Problem(f"the mask of {sample.name}", str(error))


@dataclass(frozen=True)
class PictureSource(PictureParts):
    """The pictures, for encode_pass. `problems` fills up while they are decoded."""

    problems: dict[Problem, None] = field(default_factory=dict)

    def read(self, rows: Sequence[int]) -> list[np.ndarray] | Problem:
        """Rows of one sample, uint8 [H, W, 3] each, decoded once; or why it cannot be used."""
        sample = self.sample_of(rows[0])
        try:
            if self.dataset.framing.is_plain:
                return [self.dataset.read(sample)]
            whole = self.dataset.read_whole(sample)
        except VanishedPictureError as error:
            return _Vanished(sample.name, str(error))
        except UnreadablePictureError as error:
            return Problem(sample.name, str(error))
        return [self.cut(whole, row) for row in rows]

    def note(self, problems: Sequence[Problem]) -> bool:
        """Pictures that vanished spoil everything even where bad ones are skipped: rows are kept under the content's key, and a black one would
        stay when the file is back."""
        self.problems.update(dict.fromkeys(problems))
        return self.dataset.on_unreadable == "stop" or any(isinstance(problem, _Vanished) for problem in problems)

    def refuse(self) -> None:
        """Raises:
        InputError: pictures cannot be decoded and the user did not choose to skip them, or they have gone since they were scanned; all are listed.
        """
        if self.dataset.on_unreadable == "skip":
            _require_all_there([problem for problem in self.problems if isinstance(problem, _Vanished)])
        self.dataset.refuse_or_skip(list(self.problems))


@dataclass(frozen=True)
class HintSource(PictureParts):
    """Hints that come as pictures, cut like their pictures; reading raises InputError where they cannot be read any more."""

    def read(self, rows: Sequence[int]) -> list[np.ndarray] | Problem:
        """Rows of one hint, uint8 [H, W, 3] each."""
        sample = self.sample_of(rows[0])
        if self.dataset.framing.is_plain:
            return [self.dataset.read_hint(sample)]
        whole = self.dataset.read_whole_hint(sample)
        return [self.cut(whole, row) for row in rows]

    def note(self, problems: Sequence[Problem]) -> bool:
        """There are none."""
        return False


class _Vanished(Problem):
    """A picture that was there when the data set was scanned."""


def _require_all_there(vanished: Sequence[Problem]) -> None:
    """Raises:
    InputError: pictures have gone or changed since the data set was scanned; all are listed.
    """
    if vanished:
        expected, remedy = "the pictures that were scanned", "Is the disk still there? Queue again: the pictures are then looked at anew."
        raise InputError("pictures of the data set", expected=expected, found=list_problems(vanished), remedy=remedy)


def worker_count() -> int:
    """Threads that decode and draw; OpenCV, hashes and the disk let several run at once."""
    return max(2, min(os.cpu_count() or 2, MOST_WORKERS))


@contextmanager
def workers(name: str) -> Iterator[ThreadPoolExecutor]:
    """As many threads; what has not begun by the end is not begun."""
    with ThreadPoolExecutor(worker_count(), thread_name_prefix=f"graft-{name}") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _reported(results: Iterable[T], report: Report) -> Iterator[T]:
    for done, result in enumerate(results, start=1):
        yield result
        report(done)

"""The first part of an encoded data set: every picture decoded, scaled and cropped once in each of its views; and what is drawn from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from ..errors import InputError
from .buckets import Size
from .canny import CannyRecipe, canny_edges
from .dataset import Dataset, GivenHints, Problem, Sample, list_problems
from .hints import HINT_PARTS_VERSION, hint_key
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
    """Makes what needs no encoder. Row `sample * views + view` is one view of one sample. `unreadable` fills up while pictures are decoded."""

    dataset: Dataset
    samples: Sequence[Sample]
    shelf: Shelf
    unreadable: list[Problem] = field(default_factory=list)
    buffers: ShardBuffers = field(default_factory=lambda: ShardBuffers())

    def pictures(self) -> Rows:
        """All pictures as uint8 rows; a row that cannot be decoded is black.

        Raises:
            InputError: pictures cannot be decoded and the user did not choose to skip them, or they have gone since they were scanned; all
                are listed.
        """
        rows = self._rows("pictures", self.contents, self._decode, "picture")
        self.buffers.clear()
        if self.dataset.on_unreadable == "skip":
            _require_all_there([problem for problem in self.unreadable if isinstance(problem, _Vanished)])
        self.dataset.refuse_or_skip(self.unreadable)
        return rows

    def skipped(self, pictures: Rows) -> list[Problem]:
        """The pictures whose rows are black, as their shards say."""
        black: dict[tuple[int, int], str] = {}
        for shard in range(len(pictures.names)):
            entries = json.loads(pictures.header(shard).metadata.get("unreadable", "[]"))
            black |= {(shard, place): what for place, what in entries}
        if not black:
            return []
        plain = range(0, len(pictures), self.views)
        return [Problem(self.samples[row // self.views].name, black[pictures.place_of(row)]) for row in plain if pictures.place_of(row) in black]

    def fixed_edges(self, pictures: Rows) -> Rows:
        """Edges of all pictures with the recipe's fixed thresholds, eight pixels to a byte: uint8 rows [H, W/8]."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            with workers("hint") as run:
                edges = list(_reported(run(packed, plan.rows), report))
            return {"edges": torch.from_numpy(np.stack(edges))}, {}

        def packed(row: int) -> np.ndarray:
            return np.packbits(canny_edges(pictures.read("pictures", row).numpy(), recipe.low[0], recipe.high[0]), axis=-1)

        recipe = self._canny()
        return self._rows("edges", self.contents, make, "hint", recipe.low, recipe.high)

    def drawn_hints(self, pictures: Rows, rows: Sequence[int], variant: int) -> np.ndarray:
        """Hints of some rows by the data set's recipe, as pictures: uint8 [len(rows), H, W, 3]."""
        recipe = self.dataset.hint
        assert not isinstance(recipe, GivenHints), "given hints are not drawn"

        def drawn(row: int) -> np.ndarray:
            return recipe.hint(pictures.read("pictures", row).numpy(), SHARED_SEED, self._digest(row), variant)

        with workers("hint") as run:
            return np.stack(list(run(drawn, rows)))

    def given_hints(self) -> Rows:
        """Hints that come as pictures, cut like their pictures: uint8 rows [H, W, 3].

        Raises:
            InputError: they cannot be read any more.
        """

        def make(plan: ShardPlan, report: Report) -> Shard:
            with workers("hint") as run:
                hints = list(_reported(run(self._given_hint, plan.rows), report))
            return {"hint pictures": torch.from_numpy(np.stack(hints))}, {}

        return self._rows("hint-pictures", self.hint_contents, make, "hint picture")

    def mask_parts(self) -> dict[str, Rows]:
        """How much each cell of the latents counts, fp32 rows [H/8, W/8]; nothing where no picture has a mask.

        Raises:
            InputError: masks cannot be read any more, or leave nothing of their picture; all are listed.
        """
        if not any(sample.mask_digest for sample in self.samples):
            return {}
        unusable: list[Problem] = []

        def make(plan: ShardPlan, report: Report) -> Shard | None:
            with workers("mask") as run:
                found = list(_reported(run(self._try_weights, plan.rows), report))
            unusable.extend(entry for entry in found if isinstance(entry, Problem))
            weights = [entry for entry in found if isinstance(entry, np.ndarray)]
            return ({"loss weights": torch.from_numpy(np.stack(weights))}, {}) if len(weights) == len(found) else None

        rows = self._rows("loss-weights", self.mask_contents, make, "mask")
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
        return [
            framing.view_key(view, sample.digest, sample.size_px, resolution_px) for sample in self.samples for view in range(self.views)
        ]

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

    def hint_setup(self) -> list[KeyPart]:
        """What drawn hints depend on beside the picture."""
        recipe = self.dataset.hint
        return [recipe.low, recipe.high] if isinstance(recipe, CannyRecipe) else [HINT_PARTS_VERSION, *hint_key(recipe)]

    def _rows(self, kind: str, contents: Sequence[KeyPart], make: Callable[[ShardPlan, Report], Shard | None], unit: str, *setup: KeyPart) -> Rows:
        base = (self.dataset.resolution_px, *setup)
        return self.shelf.rows(kind, contents, self.rows_per_shard, make, unit, *base, groups=self.groups)

    def _digest(self, row: int) -> str:
        return self.samples[row // self.views].digest

    def _canny(self) -> CannyRecipe:
        recipe = self.dataset.hint
        assert isinstance(recipe, CannyRecipe), "these hints are no edges"
        return recipe

    def _decode(self, plan: ShardPlan, report: Report) -> Shard | None:
        problems: list[tuple[int, Problem]] = []
        pictures: np.ndarray | None = None
        with workers("decode") as run:
            for place, result in enumerate(_reported(run(self._try_read, plan.rows), report)):
                if isinstance(result, Problem):
                    problems.append((place, result))
                    continue
                if pictures is None:
                    pictures = self.buffers.rows(len(plan.rows), *result.shape)
                pictures[place] = result
        # Rows are kept under the content's key: a black one would stay when the file is back.
        if problems and (self.dataset.on_unreadable == "stop" or any(isinstance(problem, _Vanished) for _, problem in problems)):
            self.unreadable.extend(problem for _, problem in problems)
            return None
        if pictures is None:
            width, height = self.size_of(plan.rows[0])
            pictures = self.buffers.rows(len(plan.rows), height, width, 3)
        pictures[[place for place, _ in problems]] = 0
        self.buffers.keep()
        return {"pictures": torch.from_numpy(pictures)}, _unreadable_fields(problems)

    def _try_read(self, row: int) -> np.ndarray | Problem:
        sample, framing = self.samples[row // self.views], self.dataset.framing
        try:
            if framing.is_plain:
                return self.dataset.read(sample)
            whole, view = self.dataset.read_whole(sample), framing.view(row % self.views, sample.digest)
        except VanishedPictureError as error:
            return _Vanished(sample.name, str(error))
        except UnreadablePictureError as error:
            return Problem(sample.name, str(error))
        return framing.cut(whole, sample.size_px, self.dataset.resolution_px, view)

    def _try_weights(self, row: int) -> np.ndarray | Problem:
        sample, framing = self.samples[row // self.views], self.dataset.framing
        if sample.mask is None:
            width, height = self.size_of(row)
            return whole_picture(width, height)
        try:
            view = framing.view(row % self.views, sample.digest)
            return sample.mask.weights(lambda mask: framing.cut(mask, sample.size_px, self.dataset.resolution_px, view))
        except UnreadablePictureError as error:
            return Problem(f"the mask of {sample.name}", str(error))

    def _given_hint(self, row: int) -> np.ndarray:
        sample, framing = self.samples[row // self.views], self.dataset.framing
        if framing.is_plain:
            return self.dataset.read_hint(sample)
        view = framing.view(row % self.views, sample.digest)
        return framing.cut(self.dataset.read_whole_hint(sample), sample.size_px, self.dataset.resolution_px, view)


class ShardBuffers:
    """Memory for two shards in turn: one is written (shelf.py) while the next is made. Fresh memory costs as much as writing to it twice."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Gives the memory back."""
        self._pieces = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def rows(self, *shape: int) -> np.ndarray:
        """uint8 of this shape with anything in it; the same memory each time until `keep` is called."""
        if self._pieces[0].size < math.prod(shape):
            self._pieces[0] = np.empty(math.prod(shape), np.uint8)
        return self._pieces[0][: math.prod(shape)].reshape(shape)

    def keep(self) -> None:
        """What `rows` gave last is to be written: it holds until `keep` has been called once more."""
        self._pieces.append(self._pieces.pop(0))


class _Vanished(Problem):
    """A picture that was there when the data set was scanned."""


def _require_all_there(vanished: Sequence[Problem]) -> None:
    """Raises:
    InputError: pictures have gone or changed since the data set was scanned; all are listed.
    """
    if vanished:
        expected, remedy = "the pictures that were scanned", "Is the disk still there? Queue again: the pictures are then looked at anew."
        raise InputError("pictures of the data set", expected=expected, found=list_problems(vanished), remedy=remedy)


def _unreadable_fields(problems: Sequence[tuple[int, Problem]]) -> dict[str, str]:
    return {"unreadable": json.dumps([[place, problem.what] for place, problem in problems])} if problems else {}


@contextmanager
def workers(name: str) -> Iterator[Callable[[Callable[[int], T], Sequence[int]], Iterator[T]]]:
    """Threads that do a job for each of some rows, in their order; OpenCV, hashes and the disk let several run at once."""
    with ThreadPoolExecutor(max(2, min(os.cpu_count() or 2, MOST_WORKERS)), thread_name_prefix=f"graft-{name}") as pool:
        try:
            yield lambda job, rows: pool.map(job, rows)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _reported(results: Iterable[T], report: Report) -> Iterator[T]:
    for done, result in enumerate(results, start=1):
        yield result
        report(done)

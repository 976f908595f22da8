"""The first part of an encoded data set: every picture decoded, scaled and cropped once; and edges with fixed thresholds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from .canny import CannyRecipe, canny_edges
from .dataset import Dataset, Problem, Sample
from .picture_header import UnreadablePictureError
from .shards import Report, Rows, Shard, ShardPlan, Shelf, batches_of, rows_for

# The seed of thresholds that do not belong to one training: variants encoded ahead, and hints of held-out pictures.
SHARED_SEED = 0
_DECODERS = 2


@dataclass(frozen=True)
class PictureParts:
    """Makes what needs no encoder. `unreadable` fills up while pictures are decoded."""

    dataset: Dataset
    samples: Sequence[Sample]
    shelf: Shelf
    unreadable: list[Problem] = field(default_factory=list)

    def pictures(self) -> Rows:
        """All pictures as uint8 rows; a row that cannot be decoded is black.

        Raises:
            InputError: pictures cannot be decoded and the user did not choose to skip them; all are listed.
        """
        with ThreadPoolExecutor(_DECODERS, thread_name_prefix="graft-decode") as decoders:
            rows = self.shelf.rows(
                "pictures", self.digests, self.rows_per_shard, lambda plan, report: self._decode(decoders, plan, report),
                "picture", self.dataset.resolution_px,
            )  # fmt: skip
        self.dataset.refuse_or_skip(self.unreadable)
        return rows

    def skipped(self, pictures: Rows) -> list[Problem]:
        """The pictures whose rows are black, as their shards say."""
        problems = []
        for shard in range(len(pictures.names)):
            entries = json.loads(pictures.header(shard).metadata.get("unreadable", "[]"))
            problems += [Problem(self.samples[shard * pictures.rows_per_shard + place].name, what) for place, what in entries]
        return problems

    def fixed_edges(self, pictures: Rows) -> Rows:
        """Edges of all pictures with the recipe's fixed thresholds, eight pixels to a byte: uint8 rows [H, W/8]."""

        def make(plan: ShardPlan, report: Report) -> Shard:
            packed = [np.packbits(self.edges(pictures, rows, 0) > 0, axis=-1) for rows in batches_of(plan, report)]
            return {"edges": torch.from_numpy(np.concatenate(packed))}, {}

        recipe = self._canny()
        return self.shelf.rows(
            "edges", self.digests, self.rows_per_shard, make, "hint", self.dataset.resolution_px, recipe.low, recipe.high
        )

    def edges(self, pictures: Rows, rows: Sequence[int], variant: int) -> np.ndarray:
        """Edges of some rows with the thresholds of one variant: uint8 [len(rows), H, W] in {0, 255}."""
        pairs = [self._canny().thresholds(SHARED_SEED, self.samples[row].digest, variant) for row in rows]
        return np.stack([canny_edges(pictures.read("pictures", row).numpy(), *pair) for row, pair in zip(rows, pairs, strict=True)])

    def given_hints(self) -> Rows:
        """Hints that come as pictures: uint8 rows [H, W, 3].

        Raises:
            InputError: they cannot be read any more.
        """

        def make(plan: ShardPlan, report: Report) -> Shard:
            hints = [torch.from_numpy(self.dataset.read_hint(self.samples[row])) for rows in batches_of(plan, report) for row in rows]
            return {"hint pictures": torch.stack(hints)}, {}

        return self.shelf.rows("hint-pictures", self.hint_digests, self.rows_per_shard, make, "hint picture", self.dataset.resolution_px)

    @property
    def hint_digests(self) -> list[str]:
        """What given hints are known by."""
        return [sample.hint_digest for sample in self.samples]

    @property
    def digests(self) -> list[str]:
        """What the rows' contents are known by."""
        return [sample.digest for sample in self.samples]

    @property
    def rows_per_shard(self) -> int:
        """The same for pictures and for everything that is made of them."""
        return rows_for(self.dataset.resolution_px**2 * 3)

    def _canny(self) -> CannyRecipe:
        recipe = self.dataset.hint
        assert isinstance(recipe, CannyRecipe), "given hints are not drawn"
        return recipe

    def _decode(self, decoders: ThreadPoolExecutor, plan: ShardPlan, report: Report) -> Shard | None:
        side = self.dataset.resolution_px
        pictures = np.zeros((len(plan.rows), side, side, 3), np.uint8)
        problems: list[tuple[int, str]] = []
        for place, result in enumerate(decoders.map(self._try_read, [self.samples[row] for row in plan.rows])):
            if isinstance(result, Problem):
                problems.append((place, result.what))
            else:
                pictures[place] = result
            report(place + 1)
        if problems and self.dataset.on_unreadable == "stop":
            self.unreadable.extend(Problem(self.samples[plan.first_row + place].name, what) for place, what in problems)
            return None
        return {"pictures": torch.from_numpy(pictures)}, {"unreadable": json.dumps(problems)} if problems else {}

    def _try_read(self, sample: Sample) -> np.ndarray | Problem:
        try:
            return self.dataset.read(sample)
        except UnreadablePictureError as error:
            return Problem(sample.name, str(error))

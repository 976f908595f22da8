"""One pass over the pictures of a data set: each is read and decoded once, and whatever is kept of it is made while it is at hand.

Threads do this some batches ahead of the autoencoder, which the calling thread runs; another thread writes behind it (shelf.py). So the autoencoder
does not wait where it is the slower part, and memory holds a few batches, however many pictures there are.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..opencv import cv2
from .buckets import Size
from .dataset import Problem
from .encode_latents import Autoencoder
from .encode_pictures import worker_count, workers
from .pages import PIECES, fresh
from .shards import Report, Rows, Shard, ShardPlan
from .shelf import Kind, Shelf

AHEAD_BYTES = 2**29
"""Pixels that wait for the autoencoder, at most; what is encoded of one row always may."""
_SHARES_OF_255 = np.arange(256, dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class Drawn:
    """What is drawn from a picture and kept as it is."""

    kind: Kind
    tensor: str
    draw: Callable[[int, np.ndarray], np.ndarray]
    """(row, its picture uint8 [H, W, 3]) -> what is kept, of one shape for pictures of one size. Threads call it."""

    def shard(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """The rows of a file."""
        return {self.tensor: _stacked(drawn)}


@dataclass(frozen=True)
class Latents:
    """What the autoencoder makes of a picture, or of something that is drawn from it: fp32 rows [C, H/8, W/8]."""

    kind: Kind
    tensor: str
    draw: Callable[[int, np.ndarray, int], np.ndarray] = lambda _, picture, __: picture
    """(row, its picture uint8 [H, W, 3], variant) -> what is encoded, uint8 of the same shape. Threads call it."""
    variants: int | None = None
    """Where it is set, rows are [variants, C, H/8, W/8]."""
    known: Callable[[int], Tensor | None] = lambda _: None
    """A row's latents if they need not be made; only without variants."""

    def shard(self, latents: Sequence[Tensor]) -> dict[str, Tensor]:
        """The rows of a file, of their latents in turn.

        Raises:
            InputError: latents that were known and those that were made have different numbers of channels.
        """
        channels = sorted({len(latent) for latent in latents})
        if len(channels) > 1:
            expected = "cached latents with as many channels as the VAE gives"
            remedy = "Switch kohya_latents off, or connect the VAE of those."
            raise InputError("kohya_latents", expected=expected, found=" and ".join(map(str, channels)), remedy=remedy)
        stacked = _stacked(latents)
        return {self.tensor: stacked if self.variants is None else stacked.unflatten(0, (-1, self.variants))}


class Source(Protocol):
    """Where rows of pictures come from."""

    @property
    def views(self) -> int:
        """Rows of each picture, which follow one another."""

    def size_of(self, row: int) -> Size:
        """Width and height of a row."""

    def read(self, rows: Sequence[int]) -> list[np.ndarray] | Problem:
        """Rows of one picture, uint8 [H, W, 3] each, or what is wrong with it. Threads call it."""

    def note(self, problems: Sequence[Problem]) -> bool:
        """Hears what is wrong with pictures, and says whether the others are only to be looked at because none will be used."""

    def name_of(self, row: int) -> str:
        """What the user knows its picture by."""


@dataclass(frozen=True)
class _Seen:
    """A row as the threads leave it."""

    problem: Problem | None
    drawn: dict[str, np.ndarray]
    known: dict[str, Tensor]


@dataclass(frozen=True)
class _Batch:
    """Rows that go to the autoencoder together."""

    plan: ShardPlan
    rows: Sequence[int]
    jobs: Sequence[tuple[str, int]]
    """(kind, variant) of everything that is encoded of each row."""
    pixels: Tensor
    """fp32 [rows, jobs, 3, H, W] in 0..1."""
    coming: list[Future[list[_Seen]]] = field(default_factory=list)

    def ahead(self) -> int:
        """How many batches like this one are under way beside it: as many as keep every thread at work, if they are not too large."""
        wanted = 1 + math.ceil(worker_count() / len(self.coming))
        return max(1, min(wanted, AHEAD_BYTES // max(self.pixels.nbytes, 1)))


class PicturePass:
    """Makes rows of pictures.

    Args:
        source: the pictures.
        outputs: what is wanted of them.
        autoencoder: makes latents.
    """

    def __init__(self, source: Source, outputs: Sequence[Drawn | Latents], autoencoder: Autoencoder) -> None:
        self._source, self._outputs, self._autoencoder = source, {output.kind.name: output for output in outputs}, autoencoder
        self._is_vain = False

    def rows(self, shelf: Shelf, rows_per_shard: int, unit: str, groups: Sequence[Size] | None) -> dict[str, Rows]:
        """What is wanted of all rows, by the names of the kinds; what is on the shelf is not made again."""
        try:
            return shelf.together([output.kind for output in self._outputs.values()], rows_per_shard, self._shards, unit, groups)
        finally:
            PIECES.release()

    def _shards(self, plans: Sequence[ShardPlan], report: Report) -> Generator[Mapping[str, Shard] | None, None, None]:
        with workers("pictures") as pool:
            for plan, batches in groupby(self._started(plans, pool), key=lambda batch: batch.plan):
                yield self._whole(plan, batches, report)

    def _started(self, plans: Sequence[ShardPlan], pool: ThreadPoolExecutor) -> Iterator[_Batch]:
        """All batches of all plans in turn; further ones are always under way."""
        waiting: deque[_Batch] = deque()
        for batch in (batch for plan in plans for batch in self._batches(plan)):
            places = groupby(range(len(batch.rows)), key=lambda place, rows=batch.rows: rows[place] // self._source.views)  # type: ignore[misc]
            batch.coming.extend([pool.submit(self._see, batch, tuple(some)) for _, some in places])
            waiting.append(batch)
            while len(waiting) > batch.ahead():
                yield waiting.popleft()
        yield from waiting

    def _batches(self, plan: ShardPlan) -> Iterator[_Batch]:
        encoded = [output for kind in plan.kinds if isinstance(output := self._outputs[kind], Latents)]
        jobs = [(output.kind.name, variant) for output in encoded for variant in range(output.variants or 1)]
        width, height = self._source.size_of(plan.rows[0])
        size = self._rows_at_once(width, height, len(jobs))
        for first in range(0, len(plan.rows), size):
            rows = plan.rows[first : first + size]
            yield _Batch(plan, rows, jobs, fresh((len(rows), len(jobs), 3, height, width), torch.float32))

    def _rows_at_once(self, width: int, height: int, jobs: int) -> int:
        """About what the autoencoder takes at once, in whole pictures with all their views, if these are not too large together."""
        size, views = self._autoencoder.at_once(width, height) // max(jobs, 1), self._source.views
        fitting = AHEAD_BYTES // (4 * 3 * width * height * max(jobs, 1))
        return max(1, min(max(size - size % views, views), fitting))

    def _see(self, batch: _Batch, places: Sequence[int]) -> list[_Seen]:
        """Reads the rows of one picture and makes of them what needs no autoencoder; in a thread."""
        pictures = self._source.read([batch.rows[place] for place in places])
        if isinstance(pictures, Problem):
            black = np.zeros((*batch.pixels.shape[-2:], 3), np.uint8)
            return [self._made_of(batch, place, black, pictures) for place in places]
        return [self._made_of(batch, place, picture) for place, picture in zip(places, pictures, strict=True)]

    def _made_of(self, batch: _Batch, place: int, picture: np.ndarray, problem: Problem | None = None) -> _Seen:
        row, drawn, known = batch.rows[place], dict[str, np.ndarray](), dict[str, Tensor]()
        if self._is_vain:
            return _Seen(problem, drawn, known)
        for output in (self._outputs[kind] for kind in batch.plan.kinds):
            if isinstance(output, Drawn):
                drawn[output.kind.name] = output.draw(row, picture)
            elif (latent := output.known(row)) is not None:
                known[output.kind.name] = latent
        for pixels, (kind, variant) in zip(batch.pixels[place].numpy(), batch.jobs, strict=True):
            output = self._outputs[kind]
            if kind not in known and isinstance(output, Latents):
                to_pixels(output.draw(row, picture, variant), pixels)
        return _Seen(problem, drawn, known)

    def _whole(self, plan: ShardPlan, batches: Iterable[_Batch], report: Report) -> dict[str, Shard] | None:
        """The files of one plan, or None: pictures cannot be used without which there is no use for the rest."""
        rows: list[_Seen] = []
        made: dict[str, list[Tensor]] = {kind: [] for kind in plan.kinds}
        for batch in batches:
            seen = [one for coming in batch.coming for one in coming.result()]
            problems = [one.problem for one in seen if one.problem is not None]
            self._is_vain = (bool(problems) and self._source.note(problems)) or self._is_vain
            for kind, tensor in () if self._is_vain else (*_drawn(seen), *self._encode(batch, seen)):
                made[kind].append(tensor)
            rows += seen
            report(len(rows))
        if self._is_vain:
            return None
        unreadable = [[place, one.problem.what] for place, one in enumerate(rows) if one.problem is not None]
        metadata = {"unreadable": json.dumps(unreadable)} if unreadable else {}
        return {kind: (self._outputs[kind].shard(tensors), metadata) for kind, tensors in made.items()}

    def _encode(self, batch: _Batch, seen: Sequence[_Seen]) -> list[tuple[str, Tensor]]:
        """(kind, latents) of everything that is encoded of each row, in the order of the rows."""
        known = [(kind, one.known.get(kind)) for one in seen for kind, _ in batch.jobs]
        missing = [number for number, (_, latents) in enumerate(known) if latents is None]
        pixels = batch.pixels.flatten(0, 1)
        names = [self._source.name_of(batch.rows[number // len(batch.jobs)]) for number in missing]
        made = iter(self._autoencoder.latents(pixels if len(missing) == len(pixels) else pixels[missing], names))
        return [(kind, next(made) if latents is None else latents) for kind, latents in known]


def to_pixels(picture: np.ndarray, target: np.ndarray) -> None:
    """uint8 [H, W, 3] -> fp32 [3, H, W] in 0..1, into memory that is there."""
    assert picture.shape == (*target.shape[1:], 3), f"{picture.shape} does not fill {target.shape}"  # OpenCV would put it elsewhere
    # OpenCV takes the channels apart and looks values up several times as fast as numpy or torch convert and divide.
    for plane, channel in zip(target, cv2.split(picture), strict=True):
        cv2.LUT(channel, _SHARES_OF_255, dst=plane)


def unreadable_rows(rows: Rows) -> dict[tuple[int, int], str]:
    """What is wrong with the pictures of some rows, which are black therefore, by (file, place in it)."""
    entries = ((shard, entry) for shard in range(len(rows.names)) for entry in json.loads(rows.header(shard).metadata.get("unreadable", "[]")))
    return {(shard, place): what for shard, (place, what) in entries}


def _drawn(seen: Sequence[_Seen]) -> Iterator[tuple[str, Tensor]]:
    for one in seen:
        for kind, array in one.drawn.items():
            yield kind, torch.from_numpy(array)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors), out=fresh((len(tensors), *tensors[0].shape), tensors[0].dtype))

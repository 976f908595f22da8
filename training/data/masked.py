"""A data set whose pictures have masks: files beside them, or their own transparency."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .dataset import Dataset, HintRecipe, Problem, Sample
from .framing import Framing
from .image_check import same_proportions
from .keys import content_key
from .known import IN_MEMORY, KnownFiles
from .mask import Mask, require_background
from .picture_header import UnreadablePictureError
from .policy import OnUnreadable
from .sources.folder_tree import MASK_ENDING, FolderTree
from .sources.place import BytesPlace, FilePlace
from .sources.scan import LOOKED_AT_TOGETHER, look_at

MaskKind: TypeAlias = Literal["files", "transparency"]
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
# Part of every key: raise it when the same masks would count otherwise.
_MASKED_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Another data set with masks for its pictures (dataset.Dataset); a picture without one counts as a whole.

    Raises:
        InputError: a background weight outside 0..1.
    """

    dataset: Dataset
    kind: MaskKind = "files"
    """files: `cat-masklabel.png` beside `cat.jpg`; transparency: opaque pixels count."""
    background: float = 0.0
    """How much counts what is black in a mask."""
    framing: Framing = None  # type: ignore[assignment]
    """The data set's own unless another is given; masks are cut as the pictures are."""

    def __post_init__(self) -> None:
        require_background(self.background)
        if self.framing is None:
            object.__setattr__(self, "framing", self.dataset.framing)
        elif self.framing != self.dataset.framing:
            inner: Any = self.dataset
            object.__setattr__(self, "dataset", replace(inner, framing=self.framing))
        if self.kind not in MASK_KINDS:
            raise InputError("masks", expected=" or ".join(MASK_KINDS), found=self.kind, remedy="Choose files.")

    @property
    def resolution_px(self) -> int:
        return self.dataset.resolution_px

    @property
    def hint(self) -> HintRecipe:
        return self.dataset.hint

    @property
    def held_out(self) -> int:
        return self.dataset.held_out

    @property
    def on_unreadable(self) -> OnUnreadable:
        return self.dataset.on_unreadable

    def scan(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> tuple[Sample, ...]:
        """Raises:
        InputError: as the data set's own scan; masks that cannot be read or have other proportions than their pictures, all listed; no mask at all.
        """
        found = list(self._all_masked(self.dataset.scan(known, progress), known, progress))
        self.dataset.refuse_or_skip(entry for entry in found if isinstance(entry, Problem))
        samples = tuple(entry for entry in found if isinstance(entry, Sample))
        if not any(sample.mask_digest for sample in samples):
            expected = f"a file name{MASK_ENDING}.png beside at least one picture" if self.kind == "files" else "pictures that are files of their own"
            raise InputError("masks", expected=expected, found="none", remedy="Put masks beside the pictures, or choose the other kind.")
        self.split(samples)
        return samples

    def look(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> Iterator[Sample | Problem]:
        for entry in self.dataset.look(known, progress):
            yield entry if isinstance(entry, Problem) else self._masked(entry, known)

    def lone_captions(self) -> Iterator[str]:
        return self.dataset.lone_captions()

    def stamp(self) -> str:
        """A folder's own stamp is of all its files, masks included; where masks lie beside pictures that a table names it cannot be told."""
        inner = self.dataset.stamp()
        told = self.kind == "transparency" or isinstance(getattr(self.dataset, "source", None), FolderTree)
        return content_key("masked", _MASKED_VERSION, inner, self.kind, self.background) if inner and told else ""

    def split(self, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
        return self.dataset.split(samples)

    def read(self, sample: Sample) -> np.ndarray:
        return self.dataset.read(sample)

    def read_whole(self, sample: Sample) -> np.ndarray:
        return self.dataset.read_whole(sample)

    def read_hint(self, sample: Sample) -> np.ndarray:
        return self.dataset.read_hint(sample)

    def read_whole_hint(self, sample: Sample) -> np.ndarray:
        return self.dataset.read_whole_hint(sample)

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        samples = self.scan() if samples is None else samples
        return content_key("masked", _MASKED_VERSION, self.dataset.key(samples), [sample.mask_digest for sample in samples])

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        self.dataset.refuse_or_skip(problems)

    def _all_masked(self, samples: Sequence[Sample], known: KnownFiles | None, progress: Progress) -> Iterator[Sample | Problem]:
        """As `_masked`, of all; what is learnt of masks is kept, also where this is interrupted."""
        progress.start(len(samples), "mask")
        try:
            for done, sample in enumerate(samples, start=1):
                yield self._masked(sample, known)
                if done % LOOKED_AT_TOGETHER == 0 or done == len(samples):
                    progress.check_interrupt()
                    progress.advance(done)
        finally:
            progress.finish()
            if known is not None:
                known.save()

    def _masked(self, sample: Sample, known: KnownFiles | None) -> Sample | Problem:
        if not isinstance(sample.place, BytesPlace):
            return sample
        if self.kind == "transparency":
            return _with(sample, Mask(sample.place, sample.digest, True, self.background))
        path = mask_path(sample.place)
        if path is None:
            return sample
        try:
            place = FilePlace(path)
            digest, width, height = (IN_MEMORY if known is None else known).or_learn(place.stamp(), lambda: look_at(place.read()))
        except (UnreadablePictureError, OSError) as error:
            return Problem(sample.name, f"has a mask, {os.path.basename(path)}, that {error}")
        if not same_proportions((sample.size_px[1], sample.size_px[0]), (height, width)):
            return Problem(sample.name, f"has a mask of other proportions: {width} x {height} px for {sample.size_px[0]} x {sample.size_px[1]} px")
        return _with(sample, Mask(place, digest, False, self.background))


def mask_path(place: BytesPlace) -> str | None:
    """The file that would be a picture's mask, if it is there."""
    path = f"{os.path.splitext(place.path)[0]}{MASK_ENDING}.png" if isinstance(place, FilePlace) else ""
    return path if path and os.path.isfile(path) else None


def _with(sample: Sample, mask: Mask) -> Sample:
    return replace(sample, mask_digest=mask.key(), mask=mask)

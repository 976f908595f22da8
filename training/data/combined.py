"""Several data sets as one, each with its own share and its own rules for captions, and a data set to validate with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .caption_rules import PLAIN_CAPTIONS, CaptionRules
from .dataset import Dataset, HintRecipe, Problem, Sample
from .framing import Framing
from .held_out import require_share, split
from .keys import KeyPart, content_key
from .known import KnownFiles
from .picture_set import content_of, recipe_key
from .placed import PlacedPictures
from .policy import OnUnreadable, Policy

REPEATS_LIMIT = 10_000
WEIGHT_LIMITS = (0.001, 1000.0)
# Part of every key: raise it when the same parts would make another data set.
_COMBINED_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the data sets, and how it comes in.

    Raises:
        InputError: values out of range.
    """

    dataset: Dataset
    repeats: int = 1
    """How often each of its pictures comes in an epoch; multiplies what its folders' names say."""
    weight: float = 1.0
    """How often for each repeat: 0.5 every second epoch, 2 like two repeats."""
    captions: CaptionRules = PLAIN_CAPTIONS
    is_held_out: bool = False
    """Whether all of it is for validation."""

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= REPEATS_LIMIT:
            raise InputError("repeats", expected=f"1 to {REPEATS_LIMIT:,}", found=self.repeats, remedy="1 takes each picture once an epoch.")
        if not WEIGHT_LIMITS[0] <= self.weight <= WEIGHT_LIMITS[1]:
            expected = f"{WEIGHT_LIMITS[0]:g} to {WEIGHT_LIMITS[1]:g}"
            raise InputError("weight", expected=expected, found=self.weight, remedy="1 takes each picture as often as its repeats say.")

    def changed(self, sample: Sample) -> Sample:
        """A sample of it as the whole has it."""
        texts = (sample.caption,) if self.captions.is_plain else self.captions.texts(sample)
        captions = sample.captions if self.captions.is_plain else (texts if len(texts) > 1 else ())
        return replace(
            sample, caption=texts[0], captions=captions, repeats=sample.repeats * self.repeats, weight=sample.weight * self.weight,
            is_held_out=sample.is_held_out or self.is_held_out,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Combined(PlacedPictures):
    """Data sets that agree in resolution and hints (dataset.Dataset). Their samples follow one another.

    Raises:
        InputError: no data sets, or some that do not agree, or nothing but validation.
    """

    parts: tuple[Part, ...]
    held_out_share: float = 0.0
    """Share of all pictures that are held out besides those that the parts hold out."""
    framing: Framing = field(default=None)  # type: ignore[assignment]
    """How the pictures of all parts are cut; None takes their own, which then has to be the same."""
    on_unreadable: OnUnreadable = field(init=False)

    def __post_init__(self) -> None:
        if not any(not part.is_held_out for part in self.parts):
            raise InputError("data sets", expected="at least one to train on", found="none", remedy="Connect one.")
        require_share(self.held_out_share)
        if self.framing is not None:
            object.__setattr__(self, "parts", tuple(_reframed(part, self.framing) for part in self.parts))
        self._require_same("resolution", lambda dataset: dataset.resolution_px)
        self._require_same("buckets and views", lambda dataset: dataset.framing.describe())
        self._require_same("hints", lambda dataset: dataset.hint.describe())
        strict = any(part.dataset.on_unreadable == "stop" for part in self.parts)
        object.__setattr__(self, "on_unreadable", "stop" if strict else "skip")
        object.__setattr__(self, "framing", self.parts[0].dataset.framing)

    @property
    def resolution_px(self) -> int:
        return self.parts[0].dataset.resolution_px

    @property
    def hint(self) -> HintRecipe:
        return self.parts[0].dataset.hint

    @property
    def held_out(self) -> int:
        """What the parts hold out is marked when they are scanned."""
        return 0

    def scan(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> tuple[Sample, ...]:
        """Raises:
        InputError: as the parts' own scan.
        """
        samples = [sample for number, part in enumerate(self.parts) for sample in self._scanned(number, part, known, progress)]
        self.split(samples)
        return tuple(samples)

    def look(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> Iterator[Sample | Problem]:
        for number, part in enumerate(self.parts):
            found = list(part.dataset.look(known, progress))
            samples = [entry for entry in found if isinstance(entry, Sample)]
            marked = dict(self._marked(part, samples))
            for entry in found:
                yield replace(marked[entry.name] if isinstance(entry, Sample) else entry, name=self._name(number, entry.name))

    def lone_captions(self) -> Iterator[str]:
        return (self._name(number, name) for number, part in enumerate(self.parts) for name in part.dataset.lone_captions())

    def stamp(self) -> str:
        stamps = [part.dataset.stamp() for part in self.parts]
        rules: list[KeyPart] = [[part.repeats, part.weight, part.captions.key(), part.is_held_out] for part in self.parts]
        return content_key("combined", _COMBINED_VERSION, stamps, rules, self.held_out_share) if all(stamps) else ""

    def split(self, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
        return split(samples, 0, self.held_out_share)

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        contents = [content_of(sample) for sample in (self.scan() if samples is None else samples)]
        setup = (self.resolution_px, recipe_key(self.hint), self.held_out_share, *self.framing.key())
        return content_key("combined", _COMBINED_VERSION, contents, *setup)

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        Policy(f"{len(self.parts)} data sets", self.on_unreadable).refuse_or_skip(problems)

    def _scanned(self, number: int, part: Part, known: KnownFiles | None, progress: Progress) -> Iterator[Sample]:
        dataset = part.dataset
        samples = _all_for_validation(dataset, known, progress) if part.is_held_out else dataset.scan(known, progress)
        return (replace(sample, name=self._name(number, name)) for name, sample in self._marked(part, samples))

    def _marked(self, part: Part, samples: Sequence[Sample]) -> Iterator[tuple[str, Sample]]:
        """The samples as the whole has them."""
        held_out: set[int] = set()
        if not part.is_held_out:
            with suppress(InputError):  # said by the part's own scan
                held_out = set(part.dataset.split(samples)[1])
        for place, sample in enumerate(samples):
            yield sample.name, part.changed(replace(sample, is_held_out=sample.is_held_out or place in held_out))

    def _name(self, number: int, name: str) -> str:
        """Pictures of different parts may have the same name."""
        return name if len(self.parts) == 1 else f"{number + 1}: {name}"

    def _require_same(self, subject: str, of: Callable[[Dataset], Any]) -> None:
        said = [str(of(part.dataset)) for part in self.parts]
        other = next((text for text in said if text != said[0]), None)
        if other is not None:
            remedy = "Set them alike in the nodes that describe the data sets."
            raise InputError(f"{subject} of the data sets", expected=f"the same for all: {said[0]}", found=other, remedy=remedy)


def _reframed(part: Part, framing: Framing) -> Part:
    dataset: Any = part.dataset
    return part if dataset.framing == framing else replace(part, dataset=replace(dataset, framing=framing))


def _all_for_validation(dataset: Dataset, known: KnownFiles | None, progress: Progress) -> Sequence[Sample]:
    """A data set's samples, however many it would hold out itself."""
    found = list(dataset.look(known, progress))
    dataset.refuse_or_skip(entry for entry in found if isinstance(entry, Problem))
    samples = [entry for entry in found if isinstance(entry, Sample)]
    if not samples:
        raise InputError("data set for validation", expected="pictures", found="none", remedy="Put some into it, or disconnect it.")
    return samples

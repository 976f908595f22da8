"""Pictures of any source as a data set: what ImageFolder is for one folder, for tables, archives, pairs and folders of folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .canny import CannyRecipe
from .dataset import GivenHints, HintRecipe, Problem, Sample, require_held_out, require_resolution
from .framing import PLAIN, Framing
from .held_out import require_share, split
from .hints import hint_key
from .keys import KeyPart, content_key
from .known import IN_MEMORY, KnownFiles
from .placed import PlacedPictures
from .policy import OnUnreadable, Policy
from .sources.choose import lone_captions
from .sources.record import Source
from .sources.scan import MissingCaptions, Scanner

# Part of every key: raise it when the same files would give other pictures or captions.
_SET_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PictureSet(PlacedPictures):
    """A description of a source's pictures and of what to make of them (dataset.Dataset). Nothing is loaded.

    Raises:
        InputError: settings out of range.
    """

    source: Source
    resolution_px: int = 512
    """Side of the square to which pictures are cropped, or whose area the buckets have; a multiple of 16."""
    hint: HintRecipe = field(default_factory=CannyRecipe)
    """How hints are made from the pictures, or GivenHints: the source's own are used."""
    held_out: int = 0
    """How many pictures are kept for validation and never trained on."""
    held_out_share: float = 0.0
    """The same as a share of all pictures: a picture that is held out stays so when others are added."""
    on_unreadable: OnUnreadable = "stop"
    """What to do about pictures or captions that cannot be read: list them and stop, or leave them out."""
    caption_missing: MissingCaptions = "stop"
    """What to do about pictures without a caption: list them and stop, the empty caption, or the name of their kohya folder."""
    framing: Framing = PLAIN
    """Buckets, mirrored and turned views; the default is the square."""

    def __post_init__(self) -> None:
        require_resolution(self.resolution_px)
        require_held_out(self.held_out)
        require_share(self.held_out_share)
        if self.framing.buckets is not None:
            self.framing.buckets.require_resolution(self.resolution_px)

    @property
    def policy(self) -> Policy:
        """How strict it is."""
        return Policy(self.source.subject, self.on_unreadable)

    def scan(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> tuple[Sample, ...]:
        """Raises:
        InputError: nothing there; or unreadable files, missing captions or missing hints, all listed; too few pictures to hold some out.
        """
        samples = self.policy.sort_out(self.look(known, progress))
        if not samples:
            raise InputError(self.source.subject, expected="pictures", found="none", remedy="Check the path, and the names of columns.")
        self.split(samples)
        return samples

    def look(self, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS) -> Iterator[Sample | Problem]:
        scanner = Scanner(self.caption_missing, IN_MEMORY if known is None else known, progress)
        return (self._hinted(entry) for entry in scanner.samples(self.source.entries()))

    def lone_captions(self) -> Iterator[str]:
        return lone_captions(self.source)

    def stamp(self) -> str:
        files = self.source.stamp()
        return content_key("picture set", _SET_VERSION, files, str(self)) if files else ""

    def split(self, samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
        return split(samples, self.held_out, self.held_out_share)

    def key(self, samples: Sequence[Sample] | None = None) -> str:
        """A hash of everything that training sees, in the order of the samples."""
        contents = [content_of(sample) for sample in (self.scan() if samples is None else samples)]
        setup = (self.resolution_px, recipe_key(self.hint), self.held_out, self.held_out_share, *self.framing.key())
        return content_key("picture set", _SET_VERSION, contents, *setup)

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        self.policy.refuse_or_skip(problems)

    def _hinted(self, entry: Sample | Problem) -> Sample | Problem:
        """With given hints a picture without one is a problem."""
        if isinstance(entry, Sample) and isinstance(self.hint, GivenHints) and not entry.hint_digest:
            return Problem(entry.name, "has no hint of its own")
        return entry


def content_of(sample: Sample) -> list[KeyPart]:
    """What training sees of a sample, for keys."""
    mask = [sample.mask_digest] if sample.mask_digest else []
    texts, times = [sample.caption, list(sample.captions)], [sample.repeats, sample.weight]
    return [sample.digest, sample.hint_digest, *texts, *times, sample.is_held_out, *mask]


def recipe_key(recipe: HintRecipe) -> list[KeyPart]:
    """A recipe, for keys."""
    return ["given"] if isinstance(recipe, GivenHints) else hint_key(recipe)

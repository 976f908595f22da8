"""A look at a data set before anything is trained: what is there, what is wrong with it, what becomes of it, and what it will cost."""

from __future__ import annotations

import re
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..progress import NO_PROGRESS, Progress
from .dataset import Dataset, GivenHints, Problem, Sample
from .encode_outputs import fixed_thresholds
from .encode_pictures import workers
from .known import KnownFiles
from .picture_header import UnreadablePictureError
from .sources.scan import EMPTY_CAPTION_FILE, MISSING_CAPTION, MISSING_CAPTION_FILE

ENLARGED_LIMIT = 1.05
"""A picture that is enlarged by more than this is called too small."""
PROPORTIONS = {"3:1 and wider": 2.5, "2:1": 1.875, "16:9": 1.64, "3:2": 1.415, "4:3": 1.165, "1:1": 0.86, "3:4": 0.705, "2:3": 0.61, "9:16": 0.53,
               "1:2": 0.4, "1:3 and narrower": 0.0}  # fmt: skip
"""Names of proportions (width:height) and where each begins."""
LATENT_BYTES_PER_PX, COLOUR_BYTES_PER_PX, PICTURE_BYTES_PER_PX, EDGE_BYTES_PER_PX = 1.0, 3 / 64, 3.0, 0.125
"""On disk: sixteen numbers of four bytes for 64 pixels; RGB for 64; RGB; one bit."""
FLUX_TEXT_BYTES = (256 * 4096 + 768) * 4
"""One caption as FLUX.1's text encoders give it."""
_NUMBER = re.compile(r"(?<![\w-])\d[\d,.]*")  # not the 8 of UTF-8


@dataclass(frozen=True)
class Bucket:
    """Pictures that are trained in one size."""

    width_px: int
    height_px: int
    pictures: int
    cropped_share: float
    """Of the scaled pictures' area, on average."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was found. Names of pictures are the source's own."""

    subject: str
    pictures: int
    """Usable ones."""
    trained: int
    held_out: int
    pictures_per_epoch: float
    """With repeats and weights."""
    problems: tuple[Problem, ...]
    problem_counts: Mapping[str, int]
    """How many of each kind, the most frequent first."""
    smallest_px: tuple[int, int] = (0, 0)
    median_px: tuple[int, int] = (0, 0)
    largest_px: tuple[int, int] = (0, 0)
    proportions: Mapping[str, int] = field(default_factory=dict)
    buckets: tuple[Bucket, ...] = ()
    cropped_share: float = 0.0
    most_cropped: str = ""
    most_cropped_share: float = 0.0
    too_small: Mapping[str, float] = field(default_factory=dict)
    """Pictures that have to be enlarged, and by how much."""
    duplicates: tuple[tuple[str, ...], ...] = ()
    """Pictures of the same content."""
    captions: int = 0
    """Different ones that are not empty, variants included."""
    empty_captions: int = 0
    """Usable pictures that are trained without a text."""
    without_caption: tuple[str, ...] = ()
    """Pictures, usable or not, that have none: no file beside them, nothing in their table or archive."""
    empty_caption_files: tuple[str, ...] = ()
    """Pictures, usable or not, whose caption file is there but holds no text."""
    lone_captions: tuple[str, ...] = ()
    """Caption files that belong to no picture. Nothing reads them, so they are a note, not a problem."""
    longest_caption_characters: int = 0
    cache_bytes: int = 0
    """What encoding for FLUX.1 will keep on disk, about."""
    free_bytes: int = 0
    seconds: float = 0.0
    """How long this look took."""
    preparing_seconds: float = 0.0
    """How long decoding, scaling and drawing hints will take, about; 0 if it was not tried. VAE and text encoder come on top."""
    split_problem: str = ""
    """Why the pictures cannot be split into training and validation."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing stands in the way of training."""
        return not self.problems and self.pictures > 0 and not self.split_problem

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "is_sound": self.is_sound}


@dataclass(frozen=True)
class Check:
    """The report and the samples that it is about."""

    report: CheckReport
    samples: tuple[Sample, ...] = field(repr=False)


def check_dataset(
    dataset: Dataset, subject: str, cache_folder: str | Path, known: KnownFiles | None = None, progress: Progress = NO_PROGRESS,
    *, decode: bool = False,
) -> Check:  # fmt: skip
    """Reads every file once, by several workers, unless it is known already, and stops at nothing.

    Args:
        dataset: what to look at.
        subject: what the report calls it.
        cache_folder: where it would be encoded to; need not exist.
        known: what is known of files already; what is learnt now is kept there, and encoding need not read it again.
        progress: hears of pictures.
        decode: whether every picture is decoded too, as encoding will: files that are whole and yet damaged inside are found by nothing else.

    Raises:
        InputError: there is nothing to look at, such as a folder that does not exist.
    """
    began = time.perf_counter()
    samples, problems = _look(dataset, known, progress)
    if decode:
        samples, damaged = _decoded(dataset, samples, progress)
        problems += damaged
    framed = _framed(dataset, samples)
    problems += framed.problems
    usable = framed.samples
    trained, held_out, split_problem = _split(dataset, usable)
    report = CheckReport(
        subject=subject, pictures=len(usable), trained=len(trained), held_out=held_out, split_problem=split_problem,
        pictures_per_epoch=sum(usable[place].repeats * usable[place].weight for place in trained),
        problems=tuple(problems), problem_counts=count_kinds(problems), **_sizes(usable), **framed.figures, **_captions(usable),
        **_caption_faults(samples, problems), lone_captions=tuple(dataset.lone_captions()), duplicates=_duplicates(usable),
        cache_bytes=_cache_bytes(dataset, usable), free_bytes=_free_bytes(Path(cache_folder)),
        seconds=time.perf_counter() - began,
    )  # fmt: skip
    return Check(report, tuple(usable))


def count_kinds(problems: Sequence[Problem]) -> dict[str, int]:
    """How many problems of each kind there are: of the same words, whatever the numbers in them; the most frequent first."""
    first: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    for problem in problems:
        # What stands in brackets or behind a colon belongs to the single picture.
        kind = _NUMBER.sub("...", re.split(r" \(|: ", problem.what)[0])
        kinds[first.setdefault(kind, kind)] += 1
    return dict(kinds.most_common())


def _look(dataset: Dataset, known: KnownFiles | None, progress: Progress) -> tuple[list[Sample], list[Problem]]:
    samples: list[Sample] = []
    problems: list[Problem] = []
    for entry in dataset.look(known, progress):
        (samples if isinstance(entry, Sample) else problems).append(entry)  # type: ignore[arg-type]
    return samples, problems


def with_problems(report: CheckReport, problems: Sequence[Problem]) -> CheckReport:
    """The report with problems that were found later, of pictures that it had taken for usable."""
    every = (*report.problems, *problems)
    return replace(report, problems=every, problem_counts=count_kinds(every), pictures=report.pictures - len(problems))


def what_fails(dataset: Dataset, sample: Sample) -> Problem | None:
    """Why a picture, or its given hint, cannot be decoded."""
    try:
        dataset.read_whole(sample)
        if isinstance(dataset.hint, GivenHints):
            dataset.read_whole_hint(sample)
    except (UnreadablePictureError, InputError) as error:
        return Problem(sample.name, str(error))
    return None


def _decoded(dataset: Dataset, samples: Sequence[Sample], progress: Progress) -> tuple[list[Sample], list[Problem]]:
    sound, problems = list[Sample](), list[Problem]()
    progress.start(len(samples), "picture")
    try:
        with workers("decode") as pool:
            for sample, problem in zip(samples, pool.map(lambda sample: what_fails(dataset, sample), samples), strict=True):
                progress.check_interrupt()
                if problem is None:
                    sound.append(sample)
                else:
                    problems.append(problem)
                progress.advance(len(sound) + len(problems))
    finally:
        progress.finish()
    return sound, problems


@dataclass
class _Framed:
    """What becomes of pictures in the sizes that are trained in."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def _framed(dataset: Dataset, samples: Sequence[Sample]) -> _Framed:
    framed, cropped, enlarged = _Framed(), dict[tuple[int, int], list[float]](), dict[str, float]()
    worst = (0.0, "")
    for sample in samples:
        try:
            size, share, scale = fate(dataset, sample.size_px)
        except UnreadablePictureError as error:
            framed.problems.append(Problem(sample.name, str(error)))
            continue
        framed.samples.append(sample)
        cropped.setdefault(size, []).append(share)
        worst = max(worst, (share, sample.name))
        if scale > ENLARGED_LIMIT:
            enlarged[sample.name] = scale
    buckets = [Bucket(*size, len(shares), statistics.fmean(shares)) for size, shares in cropped.items()]
    shares = [share for some in cropped.values() for share in some]
    framed.figures = {
        "buckets": tuple(sorted(buckets, key=lambda bucket: -bucket.pictures)), "cropped_share": statistics.fmean(shares) if shares else 0.0,
        "most_cropped": worst[1], "most_cropped_share": worst[0], "too_small": enlarged,
    }  # fmt: skip
    return framed


def fate(dataset: Dataset, size_px: tuple[int, int]) -> tuple[tuple[int, int], float, float]:
    """What becomes of a picture: the size it is trained in, the share that is cropped away, and by how much it is enlarged (or below 1, shrunk).

    Raises:
        UnreadablePictureError: it is too small for any bucket.
    """
    (width, height), side = size_px, dataset.resolution_px
    if dataset.framing.buckets is None:
        shorter = max(min(width, height), 1)
        return (side, side), 1 - shorter / max(width, height, 1), side / shorter
    frame = dataset.framing.frame(size_px, side)
    return frame.size_px, frame.cropped_share, frame.scaled_px[0] / width


def _split(dataset: Dataset, samples: Sequence[Sample]) -> tuple[list[int], int, str]:
    if not samples:
        return [], 0, ""
    try:
        trained, held_out = dataset.split(samples)
    except InputError as error:
        return [], 0, str(error)
    return trained, len(held_out), ""


def _sizes(samples: Sequence[Sample]) -> dict[str, Any]:
    sizes = sorted((sample.size_px for sample in samples), key=lambda size: size[0] * size[1])
    if not sizes:
        return {}
    counts = Counter(_proportions(*size) for size in sizes)
    return {
        "smallest_px": sizes[0], "median_px": sizes[len(sizes) // 2], "largest_px": sizes[-1],
        "proportions": {name: counts[name] for name in PROPORTIONS if counts[name]},
    }  # fmt: skip


def _proportions(width: int, height: int) -> str:
    return next(name for name, begins in PROPORTIONS.items() if width / max(height, 1) >= begins)


def _captions(samples: Sequence[Sample]) -> dict[str, Any]:
    texts = {text for sample in samples for text in (sample.captions or (sample.caption,))}
    longest = max((len(text) for text in texts), default=0)
    return {"captions": len(texts - {""}), "empty_captions": sum(not sample.caption for sample in samples), "longest_caption_characters": longest}


def _caption_faults(samples: Sequence[Sample], problems: Sequence[Problem]) -> dict[str, Any]:
    faults = [(sample.name, sample.caption_fault) for sample in samples] + [(problem.name, problem.what) for problem in problems]
    without = tuple(name for name, fault in faults if fault in (MISSING_CAPTION, MISSING_CAPTION_FILE))
    return {"without_caption": without, "empty_caption_files": tuple(name for name, fault in faults if fault == EMPTY_CAPTION_FILE)}


def _duplicates(samples: Sequence[Sample]) -> tuple[tuple[str, ...], ...]:
    named: dict[str, list[str]] = {}
    for sample in samples:
        named.setdefault(sample.digest, []).append(sample.name)
    return tuple(tuple(names) for names in named.values() if len(names) > 1)


def _cache_bytes(dataset: Dataset, samples: Sequence[Sample]) -> int:
    # As encode_outputs.py has it, for hints as pixels; given ones may be encoded too.
    hint = EDGE_BYTES_PER_PX if fixed_thresholds(dataset.hint) else PICTURE_BYTES_PER_PX
    given = PICTURE_BYTES_PER_PX + LATENT_BYTES_PER_PX if isinstance(dataset.hint, GivenHints) else 0
    per_px = (LATENT_BYTES_PER_PX + COLOUR_BYTES_PER_PX + hint + given) * dataset.framing.views
    pixels = sum(width * height for width, height in (fate(dataset, sample.size_px)[0] for sample in samples))
    return round(pixels * per_px + (_captions(samples)["captions"] + 1) * FLUX_TEXT_BYTES)


def _free_bytes(folder: Path) -> int:
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free

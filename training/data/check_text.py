"""The report of a check in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..byte_sizes import shown_size
from .check import CheckReport
from .dataset import Problem

PROBLEMS_LISTED, NAMES_LISTED, BUCKETS_LISTED = 100, 8, 20


def report_text(report: CheckReport) -> str:
    """A page of text: counts first, then problems, then what becomes of the pictures and what it costs."""
    parts = (_counts, _problems, _sizes, _buckets, _captions, _doubtful, _costs)
    return "\n".join(line for part in parts for line in part(report))


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """One line each."""
    return [f"  {problem.name} {problem.what}" for problem in problems]


def _counts(report: CheckReport) -> list[str]:
    verdict = "nothing stands in the way of training" if report.is_sound else "not ready to train on"
    per_epoch = f", {report.pictures_per_epoch:,.6g} per epoch with repeats and weights" if report.pictures_per_epoch != report.trained else ""
    split = [f"  {report.split_problem}"] if report.split_problem else []
    counts = f"{report.pictures:,} usable pictures: {report.trained:,} to train on{per_epoch}, {report.held_out:,} held out"
    return [f"{report.subject}: {verdict}", counts, *split]


def _problems(report: CheckReport) -> list[str]:
    problems = report.problems
    if not problems:
        return ["No problems."] if report.is_sound else []
    kinds = [f"  {count:,} x {kind}" for kind, count in report.problem_counts.items()]
    one_by_one = [*problem_lines(problems[:PROBLEMS_LISTED]), *_more(len(problems), PROBLEMS_LISTED)]
    return [f"{counted(len(problems), 'problem')}:", *kinds, "One by one:", *one_by_one]


def _sizes(report: CheckReport) -> list[str]:
    if not report.pictures:
        return []
    low, middle, high = (f"{width} x {height}" for width, height in (report.smallest_px, report.median_px, report.largest_px))
    proportions = ", ".join(f"{name}: {count:,}" for name, count in report.proportions.items())
    sizes = f"all {low} px" if low == high else f"{low} to {high} px, half of them above {middle}"
    return [f"Sizes: {sizes}", f"Proportions (width:height): {proportions}"]


def _buckets(report: CheckReport) -> list[str]:
    if not report.buckets:
        return []
    shown = report.buckets[:BUCKETS_LISTED]
    lines = [f"  {each.width_px} x {each.height_px}: {each.pictures:,}, {each.cropped_share:.0%} cropped away" for each in shown]
    rest = len(report.buckets) - BUCKETS_LISTED
    worst = f"; most of {report.most_cropped}, {report.most_cropped_share:.0%}" if report.most_cropped_share > 0 else ""
    more = [f"  and {rest} more sizes"] if rest > 0 else []
    return [f"Trained in (on average {report.cropped_share:.1%} cropped away{worst}):", *lines, *more]


def _captions(report: CheckReport) -> list[str]:
    if not report.pictures:
        return []
    empty = f", {counted(report.empty_captions, 'picture')} with none" if report.empty_captions else ""
    counts = f"Captions: {report.captions:,} different{empty}, the longest has {report.longest_caption_characters:,} characters"
    told = {problem.name for problem in report.problems}  # with their reasons, above
    without = [name for name in report.without_caption if name not in told]
    blank = [name for name in report.empty_caption_files if name not in told]
    return [counts, *_named(without, "{} that came without a caption:"), *_named(blank, "{} with an empty caption file:")]


def _doubtful(report: CheckReport) -> list[str]:
    """What does not stand in the way, but should be known."""
    copies = [f"  {' = '.join(names[:NAMES_LISTED])}" for names in report.duplicates[:NAMES_LISTED]]
    small = [f"  {name}: {scale:.2f} times" for name, scale in sorted(report.too_small.items(), key=lambda entry: -entry[1])[:NAMES_LISTED]]
    lines = [f"{counted(len(report.duplicates), 'picture')} there more than once:", *copies, *_more(len(report.duplicates))] if copies else []
    enlarged = f"{counted(len(report.too_small), 'picture')} smaller than what is trained in, to be enlarged:"
    lines += _named(report.lone_captions, "{} without a picture, which nothing reads:", "caption file")
    return [*lines, enlarged, *small, *_more(len(report.too_small))] if small else lines


def _named(names: Sequence[str], heading: str, noun: str = "picture") -> list[str]:
    """A heading with their number, and the first of them; nothing where there are none."""
    listed = [f"  {name}" for name in names[:NAMES_LISTED]]
    return [heading.format(counted(len(names), noun)), *listed, *_more(len(names))] if names else []


def _more(count: int, listed: int = NAMES_LISTED) -> list[str]:
    return [f"  and {count - listed:,} more; --json lists all"] if count > listed else []


def counted(count: int, noun: str) -> str:
    """ "1 picture", "2 pictures" """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _costs(report: CheckReport) -> list[str]:
    if not report.pictures:
        return []
    enough = "" if report.cache_bytes < report.free_bytes else ": NOT ENOUGH"
    preparing = f"Decoding, scaling and hints: about {_duration(report.preparing_seconds)}; VAE and text encoder come on top."
    disk = f"Encoded for FLUX.1: about {shown_size(report.cache_bytes)} on disk, {shown_size(report.free_bytes)} free{enough}"
    return [disk, *([preparing] if report.preparing_seconds else []), f"Looked at in {_duration(report.seconds)}."]


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

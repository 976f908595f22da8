"""What becomes of pictures that cannot be used: they are listed and stop the run, or are left out and logged; many in a row always stop it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import InputError
from .dataset import Problem, Sample, list_problems
from .sources.pairs import NO_PARTNER
from .sources.scan import CAPTION_FAULTS

RUN_LIMIT = 64
"""So many bad pictures in a row are no accident: a disk that went away, a folder of something else."""

OnUnreadable: TypeAlias = Literal["stop", "skip"]
Found: TypeAlias = "Sample | Problem"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """How strict a data set is."""

    subject: str
    """What messages call the data set."""
    on_unreadable: OnUnreadable = "stop"
    expected: str = "readable pictures, each with a caption"

    def sort_out(self, found: Iterable[Found]) -> tuple[Sample, ...]:
        """The samples; problems stop or are logged.

        Raises:
            InputError: problems, all listed, or RUN_LIMIT of them in a row, those listed.
        """
        problems: list[Problem] = []
        samples = []
        for entry in self._no_run(found):
            if isinstance(entry, Sample):
                samples.append(entry)
            else:
                problems.append(entry)
        self.refuse_or_skip(problems)
        return tuple(samples)

    def refuse_or_skip(self, problems: Iterable[Problem]) -> None:
        """Stops with a list of all problems, or logs them where the user chose to skip. Missing captions are never skipped.

        Raises:
            InputError: there are problems and the user did not choose to skip them.
        """
        problems = list(problems)
        if not problems:
            return
        if self.on_unreadable == "skip" and all(problem.what not in CAPTION_FAULTS for problem in problems):
            logger.warning("left out of %s: %s", self.subject, list_problems(problems))
            return
        raise InputError(self.subject, expected=self.expected, found=list_problems(problems), remedy=remedy_for(problems))

    def _no_run(self, found: Iterable[Found]) -> Iterator[Found]:
        run: list[Problem] = []
        for entry in found:
            if isinstance(entry, Problem) and entry.what not in CAPTION_FAULTS:
                run.append(entry)
            else:
                run.clear()
            if len(run) >= RUN_LIMIT and self.on_unreadable == "skip":
                remedy = "Look at the first of them: a disk that is gone, or a folder of something else? `graft data check` lists everything."
                raise InputError(self.subject, expected="single bad pictures", found=f"{RUN_LIMIT} in a row: {list_problems(run)}", remedy=remedy)
            yield entry


def remedy_for(problems: Sequence[Problem]) -> str:
    """What to do about a list of problems."""
    missing = sum(problem.what in CAPTION_FAULTS for problem in problems)
    alone = sum(NO_PARTNER in problem.what for problem in problems)
    advice = ["Write the missing captions, or set missing_captions to 'empty'."] if missing else []
    advice += ["Add the missing partners, or move the others away."] if alone else []
    if missing + alone < len(problems):
        advice.append("Replace or remove the unreadable files, or set unreadable_pictures to 'skip'.")
    return " ".join(advice)

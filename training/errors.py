"""The errors that a user meets. Bad input, or a bar that was missed: what was expected, what was found, what to do. A training that stopped: why."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    Args:
        subject: the input that is wrong, in the user's words ("controlnet depth", a file's name).
        expected: what would have been right.
        found: what was there instead.
        remedy: what the user can do now.
    """

    def __init__(self, subject: str, *, expected: str, found: object, remedy: str) -> None:
        self.subject, self.expected, self.found, self.remedy = subject, expected, str(found), remedy
        super().__init__(f"{subject}: expected {expected}; found {found}{_stop(self.found)}{remedy}")

    def within(self, place: str) -> InputError:
        """The same, told with where it was met."""
        kind = NotPassedError if isinstance(self, NotPassedError) else InputError
        return kind(f"{place}: {self.subject}", expected=self.expected, found=self.found, remedy=self.remedy)


class NotPassedError(InputError):
    """A check or an exam has come to its end and found less than was asked for. All that was to be made is there, to see why."""


def _stop(found: str) -> str:
    """What ends the sentence; a list over several lines ends itself."""
    return "" if found.endswith("\n") else ". "


class StoppedTraining(RuntimeError):  # noqa: N818 (it is no fault of the program)
    """A training cannot go on; the text says why, what is kept and what to do."""

"""The one error that bad input raises: which input, what was expected, what was found, what to do."""

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
        super().__init__(f"{subject}: expected {expected}; found {found}. {remedy}")

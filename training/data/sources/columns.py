"""Which columns of a table, or parts of an archive's samples, hold picture, caption and hint: told by the user, or known by usual names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import InputError

PICTURE_COLUMNS = ("file_name", "image", "image_file_name", "jpg", "png", "webp", "image_path", "path")
CAPTION_COLUMNS = ("text", "caption", "prompt", "txt", "captions", "description")
HINT_COLUMNS = (
    "conditioning_image", "conditioning_image_file_name", "conditioning", "control_image", "control_image_file_name", "hint", "hint_file_name",
    "control",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns; an empty one stands for the first usual name that is there."""

    picture: str = ""
    caption: str = ""
    hint: str = ""

    def found_in(self, names: Iterable[str], subject: str) -> Columns:
        """The names that a table with these columns has for the three; empty where it has none.

        Raises:
            InputError: no column of pictures, or one that the user named is not there.
        """
        known = list(names)
        found = Columns(
            picture=_chosen("picture column", self.picture, PICTURE_COLUMNS, known, subject),
            caption=_chosen("caption column", self.caption, CAPTION_COLUMNS, known, subject),
            hint=_chosen("hint column", self.hint, HINT_COLUMNS, known, subject),
        )
        if not found.picture:
            raise _missing("picture column", f"one named {' or '.join(PICTURE_COLUMNS[:3])}", known, subject)
        return found


def _chosen(input_name: str, wanted: str, usual: Sequence[str], known: Sequence[str], subject: str) -> str:
    if wanted and wanted not in known:
        raise _missing(input_name, wanted, known, subject)
    return wanted or next((name for name in usual if name in known), "")


def _missing(input_name: str, expected: str, known: Sequence[str], subject: str) -> InputError:
    return InputError(f"{input_name} of {subject}", expected=expected, found=", ".join(known) or "no columns", remedy="Name one that is there.")

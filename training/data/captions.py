"""Captions that come as text out of a graph: one for all pictures, one per line, or one per entry of a list."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .dataset import Problem, list_problems

_REMEDY = "Give one line for all pictures, one line for each, or a list with one text for each."


def captions_of(texts: Sequence[str], count: int, missing: str) -> list[str]:
    """A caption for each of `count` pictures, every run of white space as one space.

    A single text with one line is everybody's; with several lines, blank ones left out, it holds one caption a line. Several texts are one
    for each picture, and may have line breaks.

    Args:
        texts: what the user gave.
        count: pictures.
        missing: 'stop' lists empty captions and stops, 'empty' trains pictures without a caption.

    Raises:
        InputError: something that is no text; as many captions as pictures are not there; captions are empty and `missing` is 'stop'.
    """
    _require_choice(missing)
    odd = next((text for text in texts if not isinstance(text, str)), None)
    if odd is not None:
        raise InputError("captions", expected="text", found=f"a {type(odd).__name__}", remedy="Connect STRING outputs.")
    captions = [" ".join(text.split()) for text in _split(texts, count)]
    empty = [Problem(f"picture {number}", "has no caption") for number, caption in enumerate(captions, start=1) if not caption]
    if empty and missing == "stop":
        raise _none(list_problems(empty))
    return captions


def require_some_text(text: str, missing: str) -> None:
    """What can be told of a typed text before the pictures are there.

    Raises:
        InputError: it is blank, and `missing` is 'stop'.
    """
    _require_choice(missing)
    if not text.strip() and missing == "stop":
        raise _none("an empty text")


def _require_choice(missing: str) -> None:
    if missing not in ("stop", "empty"):
        raise InputError("missing captions", expected="stop or empty", found=missing, remedy="Choose stop.")


def _none(found: str) -> InputError:
    return InputError("captions", expected="a caption for each picture", found=found, remedy="Write them, or set missing_captions to 'empty'.")


def _split(texts: Sequence[str], count: int) -> list[str]:
    if len(texts) > 1:
        return _as_many(list(texts), count, "texts")
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    return (lines or [""]) * count if len(lines) < 2 else _as_many(lines, count, "lines")


def _as_many(captions: list[str], count: int, unit: str) -> list[str]:
    if len(captions) != count:
        raise InputError("captions", expected=f"one text for all, or {count}: one for each picture", found=f"{len(captions)} {unit}", remedy=_REMEDY)
    return captions

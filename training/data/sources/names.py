"""Names of files that come out of tables and archives: none may lead out of the folder that it belongs to."""

from __future__ import annotations

import re

_DRIVE = re.compile(r"[A-Za-z]:")
LEAVES_THE_FOLDER = "has a name that leads out of its folder; such names are not followed"


def inner_name(name: str) -> str:
    """A relative name with `/` between folders, as it was meant.

    Raises:
        ValueError: it is empty, absolute, goes upwards (`..`) or holds a zero byte; the text fits behind the name.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        raise ValueError("is no file's name")
    if name.startswith(("/", "\\")) or _DRIVE.match(name) or ".." in parts or "\0" in name:
        raise ValueError(LEAVES_THE_FOLDER)
    return "/".join(parts)


def shown(name: object) -> str:
    """Something from a file that is not trusted, fit for a line of a message."""
    text = name if isinstance(name, str) else repr(name)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:120]) + ("..." if len(text) > 120 else "")

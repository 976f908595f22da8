"""Sizes in bytes as people write and read them: powers of 1000, as disks are sold."""

from __future__ import annotations

import re

from .errors import InputError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SHOWN_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]B|)")


def parsed_size(text: str, subject: str) -> int:
    """Bytes from "500GB" or "1.5 TB"; only 0 needs no unit.

    Raises:
        InputError: it is no size; it names `subject`.
    """
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None or (not found[2] and float(found[1])):  # "50" would be 50 bytes, and everything would go
        raise InputError(subject, expected="a size such as 500GB, 1.5TB or 800MB", found=text, remedy="Give a number and its unit.")
    return round(float(found[1]) * _UNITS[found[2]])


def shown_size(size_bytes: float) -> str:
    """Three significant digits in the unit that fits: "9.13 GB", "50.0 MB", "1 byte"."""
    # A unit begins where three digits of the one below it would be rounded to 1000.
    name, unit = next(((name, unit) for name, unit in _SHOWN_UNITS if size_bytes >= 0.9995 * unit), ("", 1))
    if not name:
        count = round(size_bytes)
        return f"{count} byte" if count == 1 else f"{count} bytes"
    value = size_bytes / unit
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {name}"

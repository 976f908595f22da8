"""Keys of content: the same parts give the same key on every machine, and numbers drawn from it have no generator to save."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TypeAlias

KeyPart: TypeAlias = "str | int | float | bool | Sequence[KeyPart] | None"


def content_key(*parts: KeyPart) -> str:
    """64 hexadecimal digits (SHA-256) that stand for `parts`; any change to a part, or to their order, gives others."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def drawn_number(first: int, last: int, *parts: KeyPart) -> int:
    """A whole number from `first` to `last`, both included, that depends on `parts` alone and is spread evenly over them."""
    assert first <= last, f"an empty range from {first} to {last}"
    return first + int(content_key(*parts), 16) % (last - first + 1)

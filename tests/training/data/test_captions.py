"""One text for all, one a line, or a list: who gets which caption."""

from __future__ import annotations

from typing import Any

import pytest
from graft.training.data.captions import captions_of
from graft.training.errors import InputError


@pytest.mark.parametrize(
    ("texts", "count", "expected"),
    [
        (["a  red\tcircle "], 3, ["a red circle"] * 3),
        (["one\ntwo\nthree"], 3, ["one", "two", "three"]),
        (["one\r\n\r\n two\n\n"], 2, ["one", "two"]),
        (["one", "two\nlines", "three"], 3, ["one", "two lines", "three"]),
        (["\n only one line \n"], 2, ["only one line"] * 2),
    ],
)
def test_who_gets_which(texts: list[str], count: int, expected: list[str]) -> None:
    assert captions_of(texts, count, "stop") == expected


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["one\ntwo"], "expected one text for all, or 3: one for each picture; found 2 lines"),
        (["a"] * 4, "found 4 texts"),
        ([" "], "found 3 problems: picture 1 has no caption"),
        ([], "found 3 problems: picture 1 has no caption"),
        (["a", "", "b"], "found 1 problem: picture 2 has no caption. Write them, or set missing_captions"),
        (["a", 3, "b"], "expected text; found a int"),
    ],
)
def test_what_is_no_caption(texts: list[Any], told: str) -> None:
    with pytest.raises(InputError, match=f"captions: .*{told}"):
        captions_of(texts, 3, "stop")


def test_pictures_may_do_without() -> None:
    assert captions_of([""], 2, "empty") == ["", ""] and captions_of(["a", " "], 2, "empty") == ["a", ""]
    with pytest.raises(InputError, match="missing captions: expected stop or empty; found skip"):
        captions_of(["a"], 1, "skip")

"""Captions as they are trained: each rule against texts written by hand, draws spread evenly and always the same."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from graft.training.data.caption_rules import CaptionRules
from graft.training.data.dataset import Sample
from graft.training.errors import InputError


def sample(caption: str, number: int = 0, lines: tuple[str, ...] = ()) -> Sample:
    return Sample("a.png", caption, f"{number:064x}", lines=lines)


@pytest.mark.parametrize(("rules", "caption", "text"), [
    ({}, "a cat, black", "a cat, black"),
    ({"prefix": "a photo of "}, "a cat", "a photo of a cat"),
    ({"trigger_word": "sks"}, "a cat", "sks, a cat"),
    ({"trigger_word": "sks"}, "a SKS cat", "a SKS cat"),
    ({"trigger_word": "sks"}, "an sksy cat", "sks, an sksy cat"),
    ({"trigger_word": "sks"}, "a [trigger] cat, [trigger]", "a sks cat, sks"),
    ({"trigger_word": "sks", "prefix": "best,"}, "", "best, sks"),
    ({"trigger_word": "猫娘"}, "", "猫娘"),
    ({"wildcards": True}, "a {{real}} brace", "a {real} brace"),
    ({"wildcards": True}, "a {single} option", "a single option"),
    ({"shuffle_tags": True}, "one sentence without tags", "one sentence without tags"),
    ({"prefix": "x"}, "kept ||| rest", "x kept , rest"),
    ({}, "{a|b}", "{a|b}"),
])  # fmt: skip
def test_a_text_is_what_the_rule_says(rules: dict[str, Any], caption: str, text: str) -> None:
    assert CaptionRules(**rules).texts(sample(caption)) == (text,)


def test_tags_are_shuffled_behind_the_kept_ones() -> None:
    rules = CaptionRules(shuffle_tags=True, keep_tags=2, variants=64)
    texts = rules.texts(sample("1girl, solo ,a,b, c"))
    assert set(texts) == {", ".join(["1girl", "solo", *rest]) for rest in permutations("abc")}
    assert rules.texts(sample("1girl, solo ,a,b, c")) == texts != rules.texts(sample("1girl, solo ,a,b, c", 1))


def test_orders_are_equally_likely() -> None:
    rules = CaptionRules(shuffle_tags=True, variants=1)
    counts = Counter(rules.texts(sample("a,b,c", number))[0] for number in range(1200))
    assert len(counts) == 6 and all(150 < count < 250 for count in counts.values())


def test_the_mark_keeps_what_stands_before_it() -> None:
    texts = CaptionRules(shuffle_tags=True, keep_tags=5, separator=";", variants=16).texts(sample("x; y ||| b; a"))
    assert set(texts) == {"x; y; b; a", "x; y; a; b"}


def test_alternatives_and_lines() -> None:
    rules = CaptionRules(wildcards=True, variants=32)
    assert set(rules.texts(sample("a {red|green|{light|dark} blue} cat"))) == {
        "a red cat", "a green cat", "a light blue cat", "a dark blue cat",
    }  # fmt: skip
    assert set(rules.texts(sample("one two", lines=("one", "two")))) == {"one", "two"}
    assert CaptionRules(wildcards=True, variants=3).texts(sample("x", lines=("one", "two", "three"))) == ("one", "two", "three")
    assert CaptionRules().texts(sample("one two", lines=("one", "two"))) == ("one two",)


@pytest.mark.parametrize(("rules", "told"), [
    ({"keep_tags": -1}, "kept tags"), ({"separator": " "}, "tag separator"), ({"variants": 0}, "caption variants"), ({"variants": 65}, "variants"),
])  # fmt: skip
def test_absurd_rules_are_refused(rules: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        CaptionRules(**rules)


def test_rules_say_what_they_are() -> None:
    assert CaptionRules().is_plain and CaptionRules().describe() == ""
    said = CaptionRules(prefix="p", trigger_word="t", shuffle_tags=True, keep_tags=1, wildcards=True).describe()
    assert said == "prefix 'p', trigger word 't', tags shuffled, the first 1 kept, wildcards, 8 variants"
    assert CaptionRules(variants=9).key() != CaptionRules().key()

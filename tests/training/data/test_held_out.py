"""The split follows content: what is held out stays so when pictures are added, renamed or given other captions."""

from __future__ import annotations

import hashlib

import pytest
from graft.training.data.dataset import Sample, split_held_out
from graft.training.data.held_out import chosen_by_share, require_share, split
from graft.training.errors import InputError


def samples(*numbers: int, **fields: object) -> list[Sample]:
    return [Sample(f"{number}.png", "", hashlib.sha256(b"%d" % number).hexdigest(), **fields) for number in numbers]  # type: ignore[arg-type]


def held(given: list[Sample], **settings: float) -> set[str]:
    return {given[place].digest for place in split(given, **settings)[1]}  # type: ignore[arg-type]


def test_a_share_never_moves_when_pictures_are_added_or_renamed() -> None:
    few, more = samples(*range(500)), samples(*range(2000))
    first, second = held(few, share=0.1), held(more, share=0.1)
    assert 30 < len(first) < 75 and 150 < len(second) < 250
    assert first == {digest for digest in second if digest in {sample.digest for sample in few}}
    assert held([*reversed(few)], share=0.1) == first and first < held(few, share=0.2)


def test_a_share_of_a_few_pictures_holds_out_one() -> None:
    few = [sample for sample in samples(*range(40)) if not chosen_by_share(sample.digest, 0.02)][:10]
    assert held(few, share=0.02) == {min(sample.digest for sample in few)}


def test_marked_samples_are_held_out_and_their_copies_not_trained_on() -> None:
    given = [*samples(1, 2, 3), *samples(4, 2, is_held_out=True)]
    assert split(given) == ([0, 2], [1, 3])
    assert split(given, held_out=1) in (([0], [1, 2, 3]), ([2], [0, 1, 3]))


def test_counts_split_as_ever() -> None:
    given = samples(*range(20))
    assert split(given, held_out=3) == split_held_out([sample.digest for sample in given], 3)


def test_something_must_be_left() -> None:
    with pytest.raises(InputError, match="held-out"):
        split(samples(1, 2, is_held_out=True))
    for share in (-0.1, 1.0):
        with pytest.raises(InputError, match="share"):
            require_share(share)

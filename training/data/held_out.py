"""Which pictures are kept for validation: told by their content, never by their place, so that pictures that are added move hardly any."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .dataset import Sample, split_held_out

_DIGITS = 13
"""Of a digest, in hexadecimal: 52 bits, as many as a float holds exactly."""


def require_share(share: float) -> None:
    """Raises:
    InputError: no share that leaves something to train on.
    """
    if not 0 <= share < 1:
        raise InputError("held-out share", expected="0 to less than 1", found=share, remedy="0.02 holds out every fiftieth picture.")


def chosen_by_share(digest: str, share: float) -> bool:
    """Whether a picture belongs to the held-out share: its digest, read as a number from 0 to 1, is below it."""
    return int(digest[:_DIGITS], 16) < share * 16**_DIGITS


def split(samples: Sequence[Sample], held_out: int = 0, share: float = 0.0) -> tuple[list[int], list[int]]:
    """Splits samples into those to train on and those to validate with.

    Held out are samples that their source has marked, those in the share, and of the rest the `held_out` ones with the smallest digests (with
    a share alone at least one). Copies of a held-out picture are in neither part.

    Returns:
        Positions of both, in the samples' own order.

    Raises:
        InputError: nothing would be left to train on.
    """
    if not share and not any(sample.is_held_out for sample in samples):
        return split_held_out([sample.digest for sample in samples], held_out)
    chosen = {sample.digest for sample in samples if sample.is_held_out or chosen_by_share(sample.digest, share)}
    rest = sorted({sample.digest for sample in samples} - chosen)
    chosen |= set(rest[: held_out or int(not chosen)])
    train = [place for place, sample in enumerate(samples) if sample.digest not in chosen]
    if not train:
        found = f"{len(chosen)} of {len(chosen)} different usable pictures to be held out"
        raise InputError("held-out pictures", expected="fewer than there are pictures", found=found, remedy="Hold out fewer, or add some.")
    first = {sample.digest: place for place, sample in reversed(list(enumerate(samples)))}
    return train, sorted(first[digest] for digest in chosen)

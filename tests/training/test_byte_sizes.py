"""Sizes in words: read strictly, shown with three digits in the unit that fits."""

from __future__ import annotations

import pytest
from graft.training.byte_sizes import parsed_size, shown_size
from graft.training.errors import InputError


@pytest.mark.parametrize(("size", "shown"), [
    (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.00 kB"), (1234, "1.23 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"),
    (99_960, "100 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"), (50_000_000, "50.0 MB"), (9_130_000_000, "9.13 GB"),
    (23_802_932_552, "23.8 GB"), (999_600_000_000, "1.00 TB"), (1_234_000_000_000_000, "1,234 TB"),
])  # fmt: skip
def test_three_digits_in_the_unit_that_fits(size: int, shown: str) -> None:
    assert shown_size(size) == shown


@pytest.mark.parametrize(("text", "size"), [
    ("500GB", 5 * 10**11), ("1.5 tb", 15 * 10**11), ("800MB", 8 * 10**8), ("12.3 kB", 12_300), ("0", 0), ("0.0", 0),
])  # fmt: skip
def test_sizes_are_read(text: str, size: int) -> None:
    assert parsed_size(text, "--prune") == size


@pytest.mark.parametrize("text", ["", "50", "much", "-5GB", "5 GiB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="--prune: expected a size such as"):
        parsed_size(text, "--prune")

"""The residual rules: which depths are of use, and where other programs differ."""

from __future__ import annotations

import pytest
from graft.training.errors import InputError
from graft.training.models.control_residuals import (
    comfyui_schedule,
    compatibility_notes,
    require_depths,
    require_layout,
    schedule,
    valid_counts,
)


def test_interval_depths_of_flux_are_those_of_the_facts() -> None:
    """Worked out by hand for 19 blocks: at 6 the sixth residual would begin at block 20."""
    assert valid_counts("interval", 19) == (1, 2, 3, 4, 5, 7, 10, 19)
    assert valid_counts("modulo", 19) == tuple(range(1, 20))
    assert valid_counts("interval", 0) == ()


def test_schedules() -> None:
    assert schedule("interval", 2, 5) == (0, 0, 0, 1, 1)
    assert schedule("modulo", 2, 5) == (0, 1, 0, 1, 0)
    # ComfyUI builds lists of 19 (38) entries, each residual repeated ceil(19 / n) times in turn, or the whole row repeated.
    for count in range(1, 20):
        repeat = -(-19 // count)
        in_turn = [index for index in range(count) for _ in range(repeat)][:19]
        rows = (list(range(count)) * repeat)[:19]
        assert list(comfyui_schedule("interval", "double", count, 21)) == [*in_turn, None, None]
        assert list(comfyui_schedule("modulo", "double", count, 21)) == [*rows, None, None]


@pytest.mark.parametrize(
    ("layout", "double", "single", "nearest"),
    [
        ("instantx", 6, 0, "5 or 7"),
        ("instantx", 0, 0, "1"),
        ("instantx", 20, 0, "19"),
        ("instantx", 1, 11, "10 or 13"),
        ("xlabs", 20, 0, "19"),
        ("xlabs", 2, 39, "38"),
    ],
)
def test_a_block_that_is_never_used_is_refused_with_the_nearest_depths(layout, double, single, nearest) -> None:
    with pytest.raises(InputError, match="depth") as caught:
        require_depths(layout, double, single, 19, 38)
    assert caught.value.remedy.endswith(f": {nearest}.")


@pytest.mark.parametrize(("layout", "double", "single"), [("instantx", 4, 10), ("instantx", 5, 0), ("xlabs", 2, 0), ("xlabs", 6, 3)])
def test_depths_of_which_each_block_is_used_are_accepted(layout, double, single) -> None:
    require_depths(layout, double, single, 19, 38)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(InputError, match="xlabs or instantx"):
        require_layout("mistoline")


@pytest.mark.parametrize(
    ("layout", "double", "single", "base_double", "base_single", "said"),
    [
        ("instantx", 4, 10, 19, 38, []),
        ("xlabs", 2, 0, 19, 38, []),
        ("instantx", 1, 1, 2, 4, []),
        ("instantx", 1, 0, 2, 4, []),
        ("xlabs", 2, 0, 2, 4, []),
        ("instantx", 2, 0, 2, 4, ["ComfyUI assigns", "control block 1 is never used there"]),
        ("instantx", 1, 2, 2, 4, ["38 single", "never used there"]),
        ("instantx", 4, 0, 8, 38, ["19 double", "control block 2, 3 is never used there"]),
        ("xlabs", 4, 0, 24, 38, ["ComfyUI assigns", "the residuals enter at other blocks", "x-flux"]),
        ("xlabs", 3, 0, 19, 38, ["x-flux"]),
        ("xlabs", 2, 2, 19, 38, ["interval rule also for XLabs", "x-flux"]),
        ("xlabs", 2, 1, 19, 38, ["x-flux"]),
    ],
)
def test_notes_say_where_other_programs_differ(layout, double, single, base_double, base_single, said) -> None:
    notes = " ".join(compatibility_notes(layout, double, single, base_double, base_single))
    assert bool(notes) == bool(said)
    assert all(text in notes for text in said)
    assert ("x-flux" in notes) == ("x-flux" in said)

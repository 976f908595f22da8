"""The earlier states of a training whose checkpoints are still there: step 200 or step 400?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .checkpoint import list_checkpoints
from .errors import InputError
from .state import State

ALL_STEPS = "all"


def kept_steps(state: State) -> list[int]:
    """The steps up to the state's own whose checkpoints look whole, rising, through all the runs that it came from."""
    return sorted(_kept(state))


def at_step(state: State, step: int) -> State:
    """The same training after `step` steps; what is chosen is kept for good from then on.

    Raises:
        InputError: no such checkpoint is kept; it names those that are.
    """
    found = _kept(state).get(step)
    if found is None:
        kept = ", ".join(map(str, kept_steps(state))) or "none"
        raise InputError(
            "stored step", expected=f"a step that is kept ({kept})", found=step,
            remedy="Choose one of these, or train with a smaller checkpoint_every and a larger keep_checkpoints in Training Settings.",
        )  # fmt: skip
    found.checkpoint.pin()
    return found


def chosen_steps(state: State, text: str) -> list[State]:
    """The states that a list such as "200, 400" names; "all": every one that is kept; nothing: the state itself.

    Raises:
        InputError: no list of steps, or one that is not kept.
    """
    if not text.strip():
        return [state]
    if text.strip() == ALL_STEPS:
        return [at_step(state, step) for step in kept_steps(state)]
    return [at_step(state, step) for step in whole_numbers(text, "stored steps")]


def whole_numbers(text: str, subject: str) -> list[int]:
    """Different whole numbers, separated by commas, in the order in which they stand.

    Raises:
        InputError: anything else.
    """
    parts = _parts(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(subject, expected=f'whole numbers such as 200, 400, or "{ALL_STEPS}"', found=repr(text), remedy="Separate them by commas.")
    return list(dict.fromkeys(map(int, parts)))


def numbers(text: str, subject: str) -> list[float]:
    """Different numbers, separated by commas, in the order in which they stand.

    Raises:
        InputError: anything else.
    """
    try:
        found = list(dict.fromkeys(float(part) for part in _parts(text)))
    except ValueError:
        found = []
    if not found or not all(abs(value) < float("inf") for value in found):
        raise InputError(subject, expected="numbers such as 0.5, 1", found=repr(text), remedy="Separate them by commas.")
    return found


def _parts(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _kept(state: State) -> dict[int, State]:
    """{step: state}; where a run began from another, the steps before its own are the other's."""
    earlier = _kept(state.parent) if state.parent else {}
    first = state.parent.step if state.parent else 0
    own = [checkpoint.step for checkpoint in list_checkpoints(state.folder) if first < checkpoint.step <= state.step and checkpoint.looks_whole()]
    return earlier | {step: state if step == state.step else replace(state, step=step, partial=False) for step in own}

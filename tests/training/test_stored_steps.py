"""Earlier states: those whose checkpoints are kept, through all runs; the others are named as missing."""

from __future__ import annotations

import pytest
from graft.training.checkpoint import list_checkpoints
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.lora_grid import grid_rows, lora_grid, require_strengths
from graft.training.stored_steps import at_step, chosen_steps, kept_steps, numbers, whole_numbers
from numpy import full, uint8


def test_kept_steps_can_be_chosen_and_others_are_named(tiny_train, tiny_settings):
    state = tiny_train(5, tiny_settings(checkpoint_every=1, keep_checkpoints=3))
    kept = [checkpoint.step for checkpoint in list_checkpoints(state.folder)]
    assert kept_steps(state) == kept == [3, 4, 5]
    earlier = at_step(state, 4)
    assert earlier.checkpoint.pinned and not earlier.partial and earlier.run_key == state.run_key
    assert fingerprint(earlier.weights()) == fingerprint(tiny_train(4, tiny_settings(checkpoint_every=1, keep_checkpoints=3)).weights())
    assert fingerprint(earlier.weights()) != fingerprint(state.weights())
    with pytest.raises(InputError, match=r"a step that is kept \(3, 4, 5\); found 2.*checkpoint_every"):
        at_step(state, 2)
    assert kept_steps(earlier) == [3, 4], "what came after it is not its past"


def test_steps_of_the_runs_before_are_there_too(tiny_train, tiny_settings):
    first = tiny_train(2, tiny_settings(checkpoint_every=1))
    other = tiny_settings(checkpoint_every=1, learning_rate=1e-4)
    second = tiny_train(2, other, previous=first)
    assert kept_steps(second) == [1, 2, 3, 4]
    assert at_step(second, 1).run_key == first.run_key and at_step(second, 2) == first and at_step(second, 4) == second
    (at_step(second, 3).checkpoint.path / "weights.safetensors").unlink()
    assert kept_steps(second) == [1, 2, 4], "a damaged one cannot be chosen"


def test_lists_are_read(tiny_train, tiny_settings):
    state = tiny_train(3, tiny_settings(checkpoint_every=1))
    assert [chosen.step for chosen in chosen_steps(state, "3, 2 ,3")] == [3, 2]
    assert [chosen.step for chosen in chosen_steps(state, "all")] == kept_steps(state)
    assert chosen_steps(state, "  ") == [state]
    assert numbers("0, 0.5,1e0,-2", "strengths") == [0.0, 0.5, 1.0, -2.0]
    for text in ("1.5", "last", "-1", ","):
        with pytest.raises(InputError, match="whole numbers"):
            whole_numbers(text, "steps")
    for text in ("", "a", "inf", "1; 2", "nan"):
        with pytest.raises(InputError, match="strengths"):
            numbers(text, "strengths")


def test_rows_are_steps_and_strengths_and_the_base_once(tiny_train, tiny_settings):
    state = tiny_train(2, tiny_settings(checkpoint_every=1))
    rows = grid_rows(chosen_steps(state, "1, 2"), [0.5, 0.0, 1.0])
    labels = [row.label for row in rows]
    assert labels == ["without LoRA", "step 1, strength 0.5", "step 1, strength 1", "step 2, strength 0.5", "step 2, strength 1"]
    asked = []

    def draw(chosen, strength):
        asked.append((chosen and chosen.step, strength))
        return full((2, 16, 16, 3), 10, uint8)

    picture = lora_grid(rows, ["a", "b"], draw)
    assert asked == [(None, 0.0), (1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)] and picture.dtype == uint8 and picture.shape[2] == 3
    with pytest.raises(InputError, match="strengths"):
        require_strengths([1.0, 21.0])

"""Several LoRAs in one pass: other learning rates, ranks or seeds on the same data, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ..training.axis import SCALES
from ..training.catalogue import keep_workflow
from ..training.clean_up import Stores, keep_within
from ..training.data.encoded import Encoded
from ..training.errors import InputError
from ..training.settings import Settings
from ..training.state import State
from ..training.store import RunStore
from ..training.store_size import limit_from_environment
from ..training.sweep import Outcome, members_of, train_sweep
from ..training.sweep_plot import Curve, best_of, sweep_plot, sweep_table
from ..training.trainable.base import Recipe
from .data import encoded_folder
from .host import current_host
from .result import as_image
from .train import GraphBase, workflow_of
from .types import ENCODED, SETTINGS, STATE, TRAINABLE, Inputs, choice, link, said_early, whole

Value = TypeVar("Value", int, float)
ALPHAS = ("with the rank", "as it is")
LARGEST_SWEEP = 64


class TrainSweep:
    """So many steps of several LoRAs."""

    DISPLAY_NAME = "Train LoRA Sweep"
    CATEGORY, FUNCTION = "Graft/train", "execute"
    RETURN_TYPES, RETURN_NAMES = (STATE, "STRING", STATE, "IMAGE", "STRING"), ("states", "names", "best", "plot", "table")
    OUTPUT_IS_LIST = (True, True, False, False, False)
    OUTPUT_TOOLTIPS = (
        "One state for each LoRA, as a list: a node behind it runs once for each. Pick State takes one of them.",
        "What sets each apart, as a list in the same order, fit for the name of a file.",
        "The one with the lowest held-out loss; the first if none was taken.",
        "The losses of all of them in one picture.",
        "Steps and losses of all of them as a table.",
    )
    DESCRIPTION = (
        "Trains a LoRA with several learning rates, ranks or seeds at once: all combinations share each pass through the frozen transformer. Each "
        "ends as if Train Steps had trained it alone, under the same key, so that neither trains what the other has. It pays most at batch 1."
    )
    SEARCH_ALIASES = ("sweep", "learning rate search", "hyperparameter search", "compare loras", "grid search")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer that stays frozen."),
                "trainable": link(TRAINABLE, "The LoRA, from Build LoRA or Load LoRA; without DoRA."),
                "data": link(ENCODED, "What all of them are trained on, in the same order and with the same noise."),
                "settings": link(SETTINGS, "How to train; its learning rate gives way to those below."),
                "steps": whole(1000, 1, 10_000_000, "Steps to add to those of `previous` (or to none)."),
                "learning_rates": ("STRING", {"default": "1e-4, 3e-4, 1e-3", "tooltip": RATES_TOOLTIP}),
                "ranks": ("STRING", {"default": "", "tooltip": "Ranks, separated by commas. Empty: that of the LoRA."}),
                "seeds": ("STRING", {"default": "", "tooltip": "Seeds of the adapters' first values, separated by commas. Empty: that of the LoRA."}),
                "alpha": choice(ALPHAS, "For other ranks: changed with the rank, so that the scale alpha / rank stays, or kept."),
                "scale": choice(SCALES, "Axis of the losses in the picture."),
            },
            "optional": {"previous": link(STATE, "A state from which all of them go on.")},
            "hidden": {"extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, learning_rates: str | None, ranks: str | None, seeds: str | None) -> bool | str:  # noqa: N802
        given = {"learning_rates": learning_rates, "ranks": ranks, "seeds": seeds}
        return said_early(lambda: _lists(**{name: text or "" for name, text in given.items()}))

    def execute(
        self, model: Any, trainable: Recipe, data: Encoded, settings: Settings, steps: int, learning_rates: str, ranks: str, seeds: str, alpha: str,
        scale: Any, previous: State | None = None, extra_pnginfo: Any = None,
    ) -> tuple[list[State], list[str], State, Tensor, str]:  # fmt: skip
        host, limit_bytes = current_host(), limit_from_environment()
        store = RunStore(host.runs_folder(), host.workflow_name())
        members = members_of(trainable, settings, **_lists(learning_rates, ranks, seeds), keep_scale=alpha == ALPHAS[0])
        with GraphBase(host, model) as base:
            outcomes = train_sweep(
                base, members, data, steps=steps, store=store, device=host.device(), previous=previous, progress=host.progress()
            )  # fmt: skip
        _keep_workflow(outcomes, extra_pnginfo)
        keep_within(Stores.at(store.folder, encoded_folder(host)), limit_bytes)
        return _shown(outcomes, scale)


RATES_TOOLTIP = "Learning rates, separated by commas. Empty: that of the settings. With ranks or seeds too, every combination is trained."


def _lists(learning_rates: str, ranks: str, seeds: str) -> dict[str, Any]:
    """The widgets as the engine's arguments.

    Raises:
        InputError: something that is no number, or more combinations than anyone can want.
    """
    rates, wholes = _numbers("learning_rates", learning_rates, float), {"ranks": ranks, "seeds": seeds}
    lists: dict[str, list[Any]] = {"learning_rates": rates, **{name: _numbers(name, text, int) for name, text in wholes.items()}}
    count = 1
    for values in lists.values():
        count *= len(values) or 1
    if count > LARGEST_SWEEP:
        raise InputError("sweep", expected=f"at most {LARGEST_SWEEP} LoRAs", found=f"{count} combinations", remedy="Give fewer values.")
    return lists


def _numbers(name: str, text: str, kind: Callable[[str], Value]) -> list[Value]:
    try:
        return [kind(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError as error:
        example = "4, 16" if kind is int else "1e-4, 3e-4"
        raise InputError(name, expected=f"numbers separated by commas, such as {example}", found=text, remedy="Correct the list.") from error


def _keep_workflow(outcomes: Sequence[Outcome], extra_pnginfo: Any) -> None:
    workflow = workflow_of(extra_pnginfo)
    for state in (outcome.state for outcome in outcomes if workflow is not None and outcome.state is not None):
        keep_workflow(state.folder, workflow)


def _shown(outcomes: Sequence[Outcome], scale: Any) -> tuple[list[State], list[str], State, Tensor, str]:
    """Those that broke off in their first step have no state: they stand in the table only."""
    curves = [Curve(each.member.name, each.history(), str(each.error or "")) for each in outcomes]
    there = [(each.member.name, each.state) for each in outcomes if each.state is not None]
    names, states = [name for name, _ in there], [state for _, state in there]
    best = best_of(curves)
    chosen = outcomes[best].state if best is not None else None
    return states, names, chosen or states[0], as_image(sweep_plot(curves, scale)), sweep_table(curves)


class PickState:
    """One state of a list."""

    DISPLAY_NAME = "Pick State"
    CATEGORY, FUNCTION = "Graft/train", "execute"
    INPUT_IS_LIST = True
    RETURN_TYPES, RETURN_NAMES = (STATE, "STRING"), ("state", "name")
    OUTPUT_TOOLTIPS = ("That state alone.", "Its name, if names are connected.")
    DESCRIPTION = "Takes one state out of the list that Train LoRA Sweep gives, to use it, to export it or to train it further."
    SEARCH_ALIASES = ("select state", "choose lora", "sweep result")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "states": link(STATE, "The list of states."),
                "number": whole(1, 1, LARGEST_SWEEP, "Which of them; 1 is the first."),
            },
            "optional": {"names": ("STRING", {"forceInput": True, "default": "", "tooltip": "The names that came with the states."})},
        }

    def execute(self, states: list[State], number: list[int], names: list[str] | None = None) -> tuple[State, str]:
        (place,) = number
        if place > len(states):
            raise InputError("number", expected=f"1 to {len(states)}, the states that there are", found=place, remedy="Choose another number.")
        return states[place - 1], names[place - 1] if names and place <= len(names) else ""


NODES = {"GraftTrainSweep": TrainSweep, "GraftPickState": PickState}

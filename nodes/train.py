"""Stage 5 of the graph: training itself."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import nn

from ..training.data.encoded import Encoded
from ..training.models.flux import Flux
from ..training.settings import Settings
from ..training.state import State
from ..training.store import RunStore
from ..training.train_to import train_to
from ..training.trainable.base import Recipe
from .host import Host, current_host
from .types import ENCODED, SETTINGS, STATE, TRAINABLE, Inputs, link, whole


class TrainSteps:
    """So many steps more."""

    DISPLAY_NAME = "Train Steps"
    CATEGORY, FUNCTION = "Graft/train", "execute"
    RETURN_TYPES, RETURN_NAMES = (STATE, "LOSS_MAP", "INT"), ("state", "loss", "step")
    OUTPUT_TOOLTIPS = ("What was trained: to use, to export, or to train further.", "The loss of every step.", "Finished steps in all.")
    DESCRIPTION = (
        "Trains and keeps the result on disk under a key of everything that goes in: queue again and it is found, not trained again. Raise the steps "
        "and only the rest is trained. Cancel: what was trained is kept, and the next run goes on from there as if nothing had happened."
    )
    SEARCH_ALIASES = ("train", "fine-tune", "trainer", "resume training", "continue training")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer that stays frozen."),
                "trainable": link(TRAINABLE, "What to train."),
                "data": link(ENCODED, "What to train on."),
                "settings": link(SETTINGS, "How to train."),
                "steps": whole(1000, 1, 10_000_000, "Steps to add to those of `previous` (or to none)."),
            },
            "optional": {"previous": link(STATE, "A state to go on from.")},
        }

    def execute(
        self, model: Any, trainable: Recipe, data: Encoded, settings: Settings, steps: int, previous: State | None = None
    ) -> tuple[State, dict[str, list[float]], int]:
        host = current_host()
        state = train_to(
            GraphBase(host, model), trainable, data, settings, steps=steps, store=RunStore(host.runs_folder()), device=host.device(),
            previous=previous, progress=host.progress(),
        )  # fmt: skip
        return state, {"loss": [record.loss for record in state.history().steps]}, state.step


class GraphBase:
    """The graph's MODEL as the engine's frozen base; its module is made only if something has to be trained."""

    def __init__(self, host: Host, model: Any) -> None:
        self._host = host
        self._weights, self.fingerprint = host.model_weights(model)

    @cached_property
    def model(self) -> nn.Module:
        self._host.free_memory()
        return Flux.from_weights(self._weights)


NODES = {"GraftTrainSteps": TrainSteps}

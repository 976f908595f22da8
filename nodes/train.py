"""Stage 5 of the graph: training itself."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any

from torch import nn

from ..training.catalogue import keep_workflow
from ..training.clean_up import Stores, keep_within
from ..training.data.encoded import Encoded
from ..training.listener import Several
from ..training.models.flux import Flux
from ..training.out_of_memory import let_go, release_cached_memory
from ..training.preview import PreviewSettings
from ..training.progress import Progress, Viewer
from ..training.regularisation import WEIGHT_LIMIT, regularisation_of
from ..training.settings import Settings
from ..training.state import State
from ..training.store import RunStore
from ..training.store_size import limit_from_environment
from ..training.tensorboard import TensorBoardLog
from ..training.train_to import train_to
from ..training.trainable.base import Recipe
from .data import encoded_folder
from .host import Host, current_host
from .live.board import BOARD
from .live.pictures import Painter
from .live.run import Place
from .live.watch import Unwatched, Watch
from .types import ENCODED, SETTINGS, STATE, TRAINABLE, Inputs, link, number, whole

FLAG = "BOOLEAN"
TENSORBOARD_FOLDER = "tensorboard"
"""Beside the folder of runs."""


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
            "optional": {
                "previous": link(STATE, "A state to go on from."),
                "vae": link("VAE", "Decodes the pictures that the panel shows on the way; without it they are rough."),
                "sample_every": whole(0, 0, 10_000_000, "Steps between pictures in the panel; 0 makes them when asked for only. Changes no result."),
                "regularisation": link(ENCODED, REGULARISATION_TOOLTIP),
                "regularisation_weight": number(1.0, 0.0, WEIGHT_LIMIT, 0.05, "How much the loss of those pictures counts; 0 leaves them out."),
                "tensorboard": (FLAG, {"default": False, "tooltip": TENSORBOARD_TOOLTIP}),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def IS_CHANGED(cls, unique_id: str | None = None, **_: Any) -> str:  # noqa: N802
        """A node that was stopped has given less than it was asked for: ComfyUI must not take that for its result."""
        return f"stopped {BOARD.stops(str(unique_id))} times"

    def execute(
        self, model: Any, trainable: Recipe, data: Encoded, settings: Settings, steps: int, previous: State | None = None, vae: Any = None,
        sample_every: int = 0, regularisation: Encoded | None = None, regularisation_weight: float = 1.0, tensorboard: bool = False,
        unique_id: str | None = None, extra_pnginfo: Any = None,
    ) -> tuple[State, dict[str, list[float]], int]:  # fmt: skip
        host, limit_bytes = current_host(), limit_from_environment()
        progress, store = host.progress(), RunStore(host.runs_folder(), host.workflow_name())
        logs = (TensorBoardLog(store.folder.parent / TENSORBOARD_FOLDER),) if tensorboard else ()
        with watched(host, progress, data, vae, sample_every, unique_id, extra_pnginfo) as watch, GraphBase(host, model) as base:
            state = train_to(
                base, trainable, data, settings, steps=steps, store=store, device=host.device(), previous=previous, progress=progress,
                listener=Several(watch, *logs), regularisation=regularisation_of(regularisation, regularisation_weight),
            )  # fmt: skip
            watch.result(state)
        if (workflow := workflow_of(extra_pnginfo)) is not None:
            keep_workflow(state.folder, workflow)
        keep_within(Stores.at(store.folder, encoded_folder(host)), limit_bytes)
        return state, {"loss": [record.loss for record in state.history().steps]}, state.step


TENSORBOARD_TOOLTIP = (
    "Writes every figure for TensorBoard, too, into `graft/tensorboard` of the output folder: one folder for each stored training. Needs the package "
    "tensorboard. Changes no result."
)
REGULARISATION_TOOLTIP = (
    "Pictures that the transformer is to go on drawing as it does (prior preservation): a batch of them is trained beside each batch of the data. "
    "Best are pictures that the transformer itself has drawn for captions without the new word. Takes the time of the data once more."
)


def watched(
    host: Host, progress: Progress, data: Encoded, vae: Any, sample_every: int, unique_id: str | None, extra_pnginfo: Any
) -> Watch | Unwatched:
    """The panel of the node, where there is a page to show it."""
    send = host.event_sender()
    if send is None or unique_id is None:
        return Unwatched()
    decode = None if vae is None else lambda latents: host.decode_latents(vae, latents)
    painter, place = Painter(data, decode, PreviewSettings(), progress), Place(str(unique_id), workflow_id(extra_pnginfo))
    viewer = progress if isinstance(progress, Viewer) else None
    if viewer is not None and place.workflow is not None:
        viewer.bar_only()  # the workflow came from a page, whose panel shows the rest; a script gets it beside the bar
    return Watch(send, place, painter, sample_every, host.device(), show=viewer.show if viewer else None)


def workflow_id(extra_pnginfo: Any) -> str | None:
    """The id that the page has given to the workflow, if it came from one."""
    workflow = workflow_of(extra_pnginfo)
    found = workflow.get("id") if workflow else None
    return found if isinstance(found, str) and found else None


def workflow_of(extra_pnginfo: Any) -> dict[str, Any] | None:
    """The workflow as the page has drawn it."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, dict) else None
    return workflow if isinstance(workflow, dict) else None


class GraphBase:
    """The graph's MODEL as the engine's frozen base; its module is made only if something has to be trained.

    Used in a with-block around the training, whose end gives back what the training held, however it ended.
    """

    def __init__(self, host: Host, model: Any) -> None:
        self._host, self._model = host, model
        self.fingerprint, self.name = host.model_fingerprint(model), host.model_name(model)

    @cached_property
    def model(self) -> nn.Module:
        self._host.free_memory()
        return Flux.from_weights(self._host.model_weights(self._model)[0])  # read now: freeing memory may have moved them

    def __enter__(self) -> GraphBase:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.__dict__.pop("model", None) is not None:
            if error is not None:
                let_go(error)
            release_cached_memory(self._host.device())
            self._host.free_memory()


NODES = {"GraftTrainSteps": TrainSteps}

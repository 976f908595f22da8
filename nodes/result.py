"""Stage 6 of the graph: what was trained, at work and measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.axis import SCALES
from ..training.data.encoded import Encoded
from ..training.export import CHOICES, ExportedControlNet, exported_control_net
from ..training.files.held import placed
from ..training.models.flux import Flux
from ..training.models.flux_controlnet import controlnet_from_weights
from ..training.plots import loss_plot
from ..training.state import State
from ..training.validate import Validation, ValidationSettings, validate_controlnet
from ..training.weights import compute_dtype
from .host import Host, current_host
from .types import ENCODED, MEASURES, STATE, Inputs, choice, link, number, said_of, seed_input, whole

WEIGHTS_TOOLTIP = "What was trained, or its running average (EMA)."


class TrainedControlNet:
    """A state as CONTROL_NET."""

    DISPLAY_NAME = "Trained ControlNet"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("CONTROL_NET",), ("control_net",)
    OUTPUT_TOOLTIPS = ("For Apply ControlNet: the very tensors that an exported file holds.",)
    DESCRIPTION = "The trained ControlNet for the ordinary sampler in the same graph. It is made from exactly what Export ControlNet writes."
    SEARCH_ALIASES = ("use controlnet", "apply trained")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"state": link(STATE, "What Train Steps gave."), "weights": choice(CHOICES, WEIGHTS_TOOLTIP)}}

    def execute(self, state: State, weights: str) -> tuple[Any]:
        exported = exported_control_net(state, weights)
        return (current_host().make_control_net(exported.weights, exported.layout),)


class ValidationGrid:
    """Pictures on held-out edges, with and without what was trained."""

    DISPLAY_NAME = "Validation Grid"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", MEASURES), ("grid", "measures")
    OUTPUT_TOOLTIPS = ("Edges given, pictures without and with the ControlNet, side by side.", "Edge F1 and its controls, for the report.")
    DESCRIPTION = (
        "Samples held-out captions from the same noise without and with the trained ControlNet, and measures how closely the pictures follow "
        "the given edges (Canny of the picture, 2 pixels of tolerance). As a control the edges are also given to the wrong captions."
    )
    SEARCH_ALIASES = ("validation images", "evaluate controlnet", "compare")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {
            "required": {
                "model": link("MODEL", "The transformer to sample with."),
                "vae": link("VAE", "Decodes the pictures."),
                "data": link(ENCODED, "Its held-out pictures are used."),
                "state": link(STATE, "What Train Steps gave."),
                "weights": choice(CHOICES, WEIGHTS_TOOLTIP),
                "pictures": whole(64, 1, 4096, "Held-out pictures to measure, at most."),
                "columns": whole(8, 1, 64, "How many of them the grid shows."),
                "steps": whole(20, 1, 1000, "Sampling steps."),
                "guidance": number(3.5, 0.0, 100.0, 0.1, "Guidance for transformers that embed it."),
                "strength": number(1.0, 0.0, 10.0, 0.01, "The ControlNet's strength."),
                "start": number(0.0, 0.0, 1.0, 0.01, "Share of the sampling steps before which it is silent."),
                "end": number(1.0, 0.0, 1.0, 0.01, "Share of the sampling steps after which it is silent."),
                "seed": seed_input("Of the noise."),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, start: float | None, end: float | None) -> bool | str:  # noqa: N802
        given: dict[str, Any] = {"start": start, "end": end}
        return said_of(cls, given, lambda: ValidationSettings(**given))

    def execute(
        self, model: Any, vae: Any, data: Encoded, state: State, weights: str, pictures: int, columns: int, steps: int, guidance: float,
        strength: float, start: float, end: float, seed: int,
    ) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        settings = ValidationSettings(
            pictures=pictures, steps=steps, guidance=guidance, strength=strength, start=start, end=end, seed=seed
        )  # fmt: skip
        exported = exported_control_net(state, weights)
        host = current_host()
        host.free_memory()
        try:
            found = _validated(host, model, vae, data, exported, settings)
        finally:
            host.free_memory()  # of the copies that were made, now that nobody holds them
        return as_image(found.grid(min(columns, len(found.captions)))), found.figures()


def _validated(host: Host, model: Any, vae: Any, data: Encoded, exported: ExportedControlNet, settings: ValidationSettings) -> Validation:
    """Samples with copies of both networks on the host's device, which are gone when it returns."""
    device = host.device()
    dtype = compute_dtype("auto", device)
    base = Flux.from_weights(placed(host.model_weights(model)[0], device, dtype))
    network = controlnet_from_weights({name: tensor.to(device, dtype) for name, tensor in exported.weights.items()}, base.config.axes)
    return validate_controlnet(base, network, data, lambda latents: host.decode_latents(vae, latents), settings, host.progress())


class LossPlot:
    """The curves of a training."""

    DISPLAY_NAME = "Loss Plot"
    CATEGORY, FUNCTION = "Graft/result", "execute"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("plot",)
    OUTPUT_TOOLTIPS = ("Loss of each step, its running mean, the held-out loss, and the learning rate.",)
    DESCRIPTION = "Draws the losses of a training from its first step on. The held-out loss, at fixed times and noise, is the one worth looking at."
    SEARCH_ALIASES = ("loss curve", "loss graph", "chart")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"state": link(STATE, "What Train Steps gave."), "scale": choice(SCALES, "Axis of the loss.")}}

    def execute(self, state: State, scale: Any) -> tuple[Tensor]:
        history = state.history()
        plot = loss_plot(
            [record.loss for record in history.steps],
            held_out=[(record.step, record.held_out) for record in history.comparable_held_out],
            learning_rates=[record.learning_rate for record in history.steps],
            regularisation=history.regularisation,
            scale=scale,
        )
        return (as_image(plot),)


def as_image(picture: np.ndarray) -> Tensor:
    """uint8 RGB [H, W, 3] -> IMAGE [1, H, W, 3] in 0..1."""
    return torch.from_numpy(picture.copy()).float().div(255).unsqueeze(0)


NODES = {"GraftTrainedControlNet": TrainedControlNet, "GraftValidationGrid": ValidationGrid, "GraftLossPlot": LossPlot}

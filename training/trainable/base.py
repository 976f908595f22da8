"""What the loop asks of anything that can be trained on a frozen base: a ControlNet, a LoRA.

A `Recipe` is the value that travels through the graph; it never changes. `build` makes a fresh `Trainable` of it, which the loop owns and
changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..data.encoded import HintForm
from ..models.control_residuals import ControlResiduals
from ..models.flux import Flux, image_ids, pack, text_ids, unpack


@dataclass(frozen=True)
class Conditions:
    """What the model is told about each picture of a batch, on its device."""

    text: Tensor
    """Text tokens [B, L, context]."""
    pooled: Tensor
    """Pooled text [B, vector]."""
    hint: Tensor | None = None
    """What the ControlNet sees: pixels [B, 3, height_px, width_px] in -1..1 (XLabs) or latents [B, C, H, W] (InstantX)."""
    seeds: tuple[int, ...] | None = None
    """For what the network itself draws in a training step (dropout), one per picture; None while it is measured: then it draws nothing."""


class Trainable(Protocol):
    """Fresh weights and the way they take part in the prediction. The loop moves, casts and changes `module`; nobody else may hold it."""

    @property
    def module(self) -> nn.Module:
        """Its `state_dict()` is the whole result, its parameters with `requires_grad` are what trains (each takes part in the loss)."""

    def predict(self, base: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor) -> Tensor:
        """The velocity [B, C, H, W] for latents x_t [B, C, H, W] at flow time t [B], guidance [B], in the dtype of the base.

        `base` is the loop's frozen copy: same device and compute dtype as `module` and `x_t`. Gradients flow into `module` alone.
        """


class Recipe(Protocol):
    """What to train: kind, shape and initial weights."""

    @property
    def hint_form(self) -> HintForm:
        """In which form it takes the hints of its data; "none": it takes none."""

    def key_fields(self) -> dict[str, Any]:
        """As JSON, everything that initial weights and prediction follow from: kind, layout, depths, seed or fingerprint of weights."""

    def build(self, base: nn.Module) -> Trainable:
        """A fresh Trainable with the initial weights in fp32, sharing storage with nothing.

        `base` is the loop's own module over the base's tensors: adapters may be put into it, its tensors must not be changed.

        Raises:
            InputError: the recipe does not fit this base.
        """


class Base(Protocol):
    """The frozen transformer, which may be loaded only when `model` is asked for."""

    @property
    def fingerprint(self) -> str:
        """Hash of names, shapes, dtypes and bytes, patches applied (files/fingerprint.py)."""

    @property
    def name(self) -> str:
        """What people call it, such as its file's name: noted with what is trained, no part of any key. Empty if unknown."""

    @property
    def model(self) -> nn.Module:
        """The module; the loop never changes it."""


@dataclass(frozen=True)
class LoadedBase:
    """A `Base` whose module is in memory already."""

    model: nn.Module
    fingerprint: str
    name: str = ""


def flux_velocity(
    flux: Flux, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor, control: ControlResiduals | None = None
) -> Tensor:
    """A FLUX base's velocity [B, C, H, W] for latents x_t [B, C, H, W]: packed, run, unpacked."""
    height, width = x_t.shape[-2:]
    places, words = image_ids(height, width, x_t.device), text_ids(conditions.text.shape[1], x_t.device)
    tokens = flux(pack(x_t), places, conditions.text, words, t, conditions.pooled, guidance, control)
    return unpack(tokens, height, width)

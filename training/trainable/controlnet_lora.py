"""A LoRA on a ControlNet: small adapters in a ControlNet that was trained before, to teach it other edges or a narrower field.

Transformer and ControlNet are frozen; what is trained and stored are the adapters. The result is used and exported merged, as a ControlNet of the
same layout, so whatever reads the one reads the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.encoded import HintForm
from ..errors import InputError
from ..files.controlnet_lora_file import CONTROLNET_FINGERPRINT, CONTROLNET_NAME, read_controlnet_lora
from ..files.fingerprint import fingerprint
from ..files.lora_adapters import Adapter, adapters_of_state, require_fits
from ..models.flux import Flux
from ..models.flux_controlnet import FluxControlNet, controlnet_from_weights, notes_for
from .base import Conditions
from .controlnet import HINT_FORMS, ControlNetTrainable
from .controlnet import require_fits as require_controlnet_fits
from .controlnet_import import controlnet_shapes, load_controlnet_file
from .lora import LoraRecipe
from .lora_layers import Extent, chosen_layers, extent

KIND = "controlnet_lora"
_PLACE = "graft_controlnet"
_SUBJECT = "ControlNet of the LoRA"


@dataclass(frozen=True, kw_only=True)
class ControlNetLoraRecipe:
    """The adapters and the ControlNet file that they are for; nothing but its header is read yet, and the file of a LoRA to go on from.

    Raises:
        InputError: the file is no FLUX ControlNet, DoRA (a merged file has no rows of given length: it is not offered), or the file of the LoRA is
            none for this ControlNet.
    """

    controlnet: str | Path
    """The ControlNet's file; its path is noted with the run, so that the result can be merged."""
    adapters: LoraRecipe = field(default_factory=LoraRecipe)
    """Rank, alpha, layers and seed, or a file to go on from. Its guidance is not used: a ControlNet is trained at the guidance of the settings."""

    def __post_init__(self) -> None:
        if self.adapters.dora:
            raise InputError("ControlNet LoRA", expected="adapters without DoRA", found="DoRA", remedy="Switch it off.")
        if self.adapters.from_file is not None:
            self._read  # noqa: B018 (what is wrong with the file is said now)
        else:
            chosen_layers(self._described[1], self.adapters.layers, self.adapters.blocks)

    @cached_property
    def _described(self) -> tuple[str, dict[str, tuple[int, ...]]]:
        return controlnet_shapes(self.controlnet)

    @cached_property
    def _read(self) -> tuple[dict[str, Adapter], dict[str, str]]:
        assert self.adapters.from_file is not None
        with torch.inference_mode(False):  # ComfyUI runs nodes in it, and what is made there cannot be trained
            return read_controlnet_lora(self.adapters.from_file, self._described[1])

    @cached_property
    def _fingerprint(self) -> str:
        """Of the ControlNet."""
        return fingerprint(load_controlnet_file(self.controlnet).weights)

    @property
    def hint_form(self) -> HintForm:
        return HINT_FORMS[self._described[0]]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the file that it goes on from."""
        said = {} if self.adapters.from_file is None else self._read[1]
        before = said.get(CONTROLNET_FINGERPRINT, self._fingerprint)
        if before == self._fingerprint:
            return ()
        name = said.get(CONTROLNET_NAME, "a file without a name")
        return (f"The LoRA was trained on another ControlNet of the same sizes ({name}, {before[:12]}); it goes on on this one.",)

    @property
    def extent(self) -> Extent:
        """How large the adapters will be."""
        if self.adapters.from_file is not None:
            return extent((adapter.shape, adapter.rank) for adapter in self._read[0].values())
        layout_shapes = self._described[1]
        layers = chosen_layers(layout_shapes, self.adapters.layers, self.adapters.blocks)
        return extent(((layout_shapes[f"{layer}.weight"][0], layout_shapes[f"{layer}.weight"][1]), self.adapters.rank) for layer in layers)

    def key_fields(self) -> dict[str, Any]:
        """What the initial weights and the prediction follow from (beside the base)."""
        layout, shapes = self._described
        own = {name: value for name, value in self.adapters.key_fields().items() if name not in ("kind", "guidance", "dora")}
        depths = {"double_depth": _depth(shapes, "double_blocks."), "single_depth": _depth(shapes, "single_blocks.")}
        return {"kind": KIND, "layout": layout, **depths, "controlnet": self._fingerprint, **own}

    def build(self, base: nn.Module) -> ControlNetLoraTrainable:
        """The adapters in fp32; they change nothing yet.

        Raises:
            InputError: the ControlNet does not fit this base.
        """
        from .lora_inject import Chance, inject, require_scales  # peft takes seconds to import: only where something is trained

        network, chance = self._network(base), Chance()
        first = self._read[0] if self.adapters.from_file is not None else self.adapters.first_values(network.state_dict())
        base.add_module(_PLACE, network)  # the loop moves it with its frozen base
        module = inject(network, first, self.adapters.dropout, chance)
        require_scales(network, list(first), first)
        module.notes = (*network.notes, *self.notes)
        module.described = {"controlnet_file": str(Path(self.controlnet).resolve()), "axes": list(network.config.axes)}
        return ControlNetLoraTrainable(module, ControlNetTrainable(network), chance)

    @torch.inference_mode(False)
    def _network(self, base: nn.Module) -> FluxControlNet:
        if not isinstance(base, Flux):
            found = type(base).__name__
            raise InputError("base of the ControlNet", expected="a FLUX transformer", found=found, remedy="Load a FLUX transformer.")
        network = controlnet_from_weights(load_controlnet_file(self.controlnet).weights, base.config.axes)
        require_controlnet_fits(network, base, str(self.controlnet))
        network.notes = notes_for(network, base)
        return network


@dataclass(frozen=True)
class ControlNetLoraTrainable:
    """A ControlNet's adapters in training (base.Trainable)."""

    module: nn.Module
    network: ControlNetTrainable
    chance: Any

    def predict(self, base: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor) -> Tensor:
        """The base's velocity [B, C, H, W] under the residuals of the ControlNet with its adapters, at full strength."""
        self.chance.seeds = conditions.seeds
        return self.network.predict(base, x_t, t, conditions, guidance)


def merged(weights: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The whole ControlNet with a state's adapters in it, by the engine's names; changed weights are fp32.

    Args:
        weights: the state's tensors.
        inputs: its run.json.

    Raises:
        InputError: the ControlNet's file is gone, or is not the one that the adapters were trained on.
    """
    network = _network_of_run(Path(inputs["controlnet_file"]), inputs["recipe"]["controlnet"], tuple(inputs["axes"]))
    whole, adapters = dict(network.state_dict()), adapters_of_state(weights)
    require_fits(adapters, {name: tuple(tensor.shape) for name, tensor in whole.items()}, _SUBJECT, "ControlNet")
    return {**whole, **{f"{layer}.weight": adapter.changed(whole[f"{layer}.weight"]) for layer, adapter in adapters.items()}}


def _network_of_run(path: Path, wanted: str, axes: tuple[int, ...]) -> FluxControlNet:
    if not path.is_file():
        raise InputError(_SUBJECT, expected=f"the file that it was trained on, {path}", found="none", remedy="Put it back there.")
    loaded = load_controlnet_file(path).weights
    if fingerprint(loaded) != wanted:
        found = "another ControlNet under its name"
        raise InputError(_SUBJECT, expected=f"the file that it was trained on, {path}", found=found, remedy="Put the former one back there.")
    return controlnet_from_weights(loaded, axes)


def _depth(shapes: Mapping[str, tuple[int, ...]], blocks: str) -> int:
    return max((int(name.split(".")[1]) + 1 for name in shapes if name.startswith(blocks)), default=0)

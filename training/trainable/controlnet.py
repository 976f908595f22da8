"""A ControlNet as something to train: how it begins, and which of its parameters can learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.encoded import HintForm
from ..errors import InputError
from ..files.fingerprint import fingerprint
from ..files.tensors import read_tensors
from ..models.control_residuals import require_depths, require_layout
from ..models.flux import Flux, image_ids, pack, text_ids
from ..models.flux_controlnet import FluxControlNet, build_controlnet, controlnet_from_weights, notes_for
from .base import Conditions, flux_velocity

HINT_FORMS: dict[str, HintForm] = {"xlabs": "pixels", "instantx": "latents"}
# Of the last double block, when no single block follows: what only the text tokens after it would feel.
_TEXT_AFTER_ATTENTION = ("txt_attn.proj.", "txt_mlp.", "txt_attn.norm.query_norm.")


@dataclass(frozen=True, kw_only=True)
class ControlNetRecipe:
    """The shape of a ControlNet and its initial weights; nothing is loaded yet."""

    layout: str = "xlabs"
    """'xlabs' (the hint is a picture) or 'instantx' (the hint is a picture's latent)."""
    double_depth: int = 2
    """How many of the base's double blocks are copied."""
    single_depth: int = 0
    """How many of the base's single blocks are copied."""
    seed: int = 0
    """For the layers that start at random (XLabs' hint layers)."""
    from_file: str | Path | None = None
    """A ControlNet file to go on from, in place of copies of the base."""

    def __post_init__(self) -> None:
        require_layout(self.layout)
        for name in ("double_depth", "single_depth", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"ControlNet {name}", expected="no negative number", found=getattr(self, name), remedy="Choose 0 or more.")

    @property
    def hint_form(self) -> HintForm:
        return HINT_FORMS[require_layout(self.layout)]

    def key_fields(self) -> dict[str, Any]:
        """What the initial weights and the prediction follow from (beside the base)."""
        fields = {"kind": "controlnet", "layout": self.layout, "double_depth": self.double_depth, "single_depth": self.single_depth}
        if self.from_file is not None:
            return {**fields, "weights": fingerprint(read_tensors(self.from_file))}
        return {**fields, "seed": self.seed}

    def build(self, base: nn.Module) -> ControlNetTrainable:
        """The network in fp32 on the base's device, frozen where it cannot learn; `module.notes` say where other programs differ.

        Raises:
            InputError: this base cannot have such a network, or the file does not hold one.
        """
        if self.from_file is None:
            module = build_controlnet(_flux(base), self.layout, self.double_depth, self.single_depth, self.seed)
        else:
            module = self._read(_flux(base), Path(self.from_file))
        freeze_untrainable(module)
        return ControlNetTrainable(module)

    @torch.inference_mode(False)
    def _read(self, base: Flux, path: Path) -> FluxControlNet:
        weights = read_tensors(path, device=base.img_in.weight.device)
        require_finite(weights, str(path))
        module = controlnet_from_weights({name: tensor.float() for name, tensor in weights.items()}, base.config.axes)
        require_fits(module, base, str(path))
        wanted = (self.layout, self.double_depth, self.single_depth)
        found = (module.layout, module.config.double_depth, module.config.single_depth)
        if found != wanted:
            raise InputError(
                str(path), expected=_described(*wanted), found=_described(*found), remedy="Set layout and depths as the file has them."
            )
        module.notes = notes_for(module, base)
        return module


@dataclass(frozen=True)
class ControlNetTrainable:
    """A ControlNet in training (base.Trainable)."""

    module: FluxControlNet

    def predict(self, base: nn.Module, x_t: Tensor, t: Tensor, conditions: Conditions, guidance: Tensor) -> Tensor:
        """The base's velocity [B, C, H, W] under the ControlNet's residuals at full strength."""
        if conditions.hint is None:
            raise InputError("training data", expected="a hint for each picture", found="none", remedy="Give the dataset a hint recipe.")
        height, width = x_t.shape[-2:]
        places, words = image_ids(height, width, x_t.device), text_ids(conditions.text.shape[1], x_t.device)
        control = self.module(pack(x_t), conditions.hint, places, conditions.text, words, t, conditions.pooled, guidance)
        return flux_velocity(_flux(base), x_t, t, conditions, guidance, control)


def trainable_parameters(module: FluxControlNet) -> tuple[str, ...]:
    """The names of the parameters that can learn.

    Without single blocks nothing uses the text tokens that leave the last double block: its text output projection, text MLP and text query
    norm have no gradient and stay copies of the base's. (The rows of its text modulation and of its fused text projections that belong to
    them have gradients of exactly zero.) With single blocks everything learns.
    """
    return tuple(name for name, _ in module.named_parameters() if not name.startswith(_without_gradient(module)))


def freeze_untrainable(module: FluxControlNet) -> None:
    """Lets the parameters of `trainable_parameters` require gradients and no others."""
    trainable = set(trainable_parameters(module))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trainable)


def require_fits(module: FluxControlNet, base: Flux, subject: str) -> None:
    """Checks that a ControlNet has its base's sizes and depths of which every block is used.

    Raises:
        InputError: naming every size that differs.
    """
    own, theirs = module.config, base.config
    sizes = replace(own, double_depth=theirs.double_depth, single_depth=theirs.single_depth, guidance=theirs.guidance)
    wrong = [f"{name} {value} instead of {getattr(theirs, name)}" for name, value in vars(sizes).items() if value != getattr(theirs, name)]
    if own.guidance and not theirs.guidance:
        wrong.append("a guidance embedding, which the base lacks")
    if wrong:
        raise InputError(
            subject, expected="a ControlNet of the base's sizes", found="; ".join(wrong), remedy="Choose one made for this base."
        )
    require_depths(module.layout, own.double_depth, own.single_depth, theirs.double_depth, theirs.single_depth)


def require_finite(weights: Mapping[str, Tensor], subject: str) -> None:
    """Raises InputError naming every tensor that holds infinities or NaN."""
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise InputError(
            subject, expected="finite values", found=f"infinite values or NaN in {', '.join(broken)}", remedy="Use an earlier state."
        )


def _flux(base: nn.Module) -> Flux:
    if not isinstance(base, Flux):
        raise InputError(
            "base of the ControlNet", expected="a FLUX transformer", found=type(base).__name__, remedy="Load a FLUX transformer."
        )
    return base


def _without_gradient(module: FluxControlNet) -> tuple[str, ...]:
    if module.config.single_depth:
        return ()
    return tuple(f"double_blocks.{module.config.double_depth - 1}.{part}" for part in _TEXT_AFTER_ATTENTION)


def _described(layout: str, double_depth: int, single_depth: int) -> str:
    return f"layout {layout} with {double_depth} double and {single_depth} single blocks"

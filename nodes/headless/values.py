"""What MODEL, CLIP, VAE and CONTROL_NET are without ComfyUI: immutable handles on the engine's weights and modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

FLUX_GUIDANCE = 3.5
"""What ComfyUI gives to a FLUX when no FluxGuidance node has spoken."""


@dataclass(frozen=True, eq=False)
class Model:
    """A transformer: its weights under their original names, as they were loaded, and their fingerprint."""

    weights: Mapping[str, Tensor]
    fingerprint: str
    report: Any = None
    """What loading told about precision, or None."""
    form: str = ""
    """The 8-bit form in which trainings are to hold it (training.files.held.FORMS); empty: as it is."""
    name: str = ""
    """What people call it, such as its file's; empty: unknown."""
    patched: bool = False
    """Whether a LoRA was put on it since it was made under its name."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A text encoder of the engine: encode(list[str]) -> (tokens [B,L,context], pooled [B,vector])."""

    encoder: nn.Module
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Vae:
    """An autoencoder of the engine: encode(pixels [B,3,H,W] in 0..1) -> raw latents [B,C,H/8,W/8]; decode back."""

    autoencoder: nn.Module
    fingerprint: str


@dataclass(frozen=True, eq=False)
class ControlNet:
    """A ControlNet from exactly the tensors that an exported file holds."""

    weights: Mapping[str, Tensor]
    layout: str


@dataclass(frozen=True, eq=False)
class AppliedControl:
    """A ControlNet with its hint, as ControlNetApplyAdvanced puts it into a CONDITIONING under "control"."""

    control_net: ControlNet
    image: Tensor
    """Hint pictures [B,H,W,3] in 0..1, of any size."""
    strength: float
    start: float
    end: float
    vae: Vae | None

"""From a ControlNet's file to tensors that a CONTROL_NET is made of: the way back from controlnet_export, for files of any program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files.controlnet_names import Layout, from_any_names, to_diffusers_names
from ..files.dequantise import Tally, load_bf16
from ..files.header import Header, read_header
from ..files.identify import FileReport, identify, own_names
from ..files.names import with_scale_names
from ..files.precision import require_float_tensors, what_it_is
from ..files.quantisation import require_readable
from ..files.tensors import read_tensor
from ..models.flux_controlnet import controlnet_from_weights
from ..progress import NO_PROGRESS, Progress
from .controlnet import require_finite

KEPT_DTYPES = ("BF16", "F32")
"""Read as they are; FP16 would overflow in FLUX, and 8-bit floats have to be unpacked: both become BF16."""
_LAYOUTS: dict[str, Layout] = {"XLabs": "xlabs", "XLabs in diffusers names": "xlabs", "InstantX": "instantx", "InstantX in BFL names": "instantx"}
_STOCK_NAMES = ("XLabs", "InstantX")
_REMEDIES = {
    "transformer": "It is a base model: put it into diffusion_models, and load it with Load Transformer (BF16).",
    "unet": "It is a base model: put it into diffusion_models, and load it with Load Diffusion Model.",
    "controlnet": "Load it with ComfyUI's own Load ControlNet Model.",
    "lora": "Put it into loras, and load it with Load LoRA.",
    "autoencoder": "Put it into vae, and load it with Load VAE.",
    "text encoder": "Put it into text_encoders, and load it with DualCLIPLoader.",
    "unknown": "Look at it with `graft inspect`, and choose another.",
}


@dataclass(frozen=True, eq=False)
class LoadedControlNet:
    """A ControlNet's tensors as ComfyUI's stock loader takes them: XLabs in XLabs' names, InstantX in diffusers' names, no prefix."""

    weights: dict[str, Tensor]
    layout: Layout
    report: FileReport


def load_controlnet_file(path: str | Path, progress: Progress = NO_PROGRESS) -> LoadedControlNet:
    """Reads a FLUX ControlNet of any size in the XLabs or InstantX layout, whichever of the known names and prefixes its file uses.

    A file that stock ComfyUI takes, in BF16 or FP32, gives exactly its own tensors.

    Raises:
        InputError: a damaged file, one that is something else (it says what), tensors that are missing, unexpected or of a wrong shape, values
            that are not finite, or a packing that cannot be read.
    """
    header, report = require_controlnet_file(path)
    weights = _read(header, report, progress)
    controlnet_from_weights(weights)  # names and shapes, all of them
    return LoadedControlNet(_in_stock_names(weights, report.layout), _LAYOUTS[report.layout], report)


def controlnet_shapes(path: str | Path) -> tuple[Layout, dict[str, tuple[int, ...]]]:
    """The layout of a ControlNet's file and its tensors' shapes by the engine's names, from the header alone.

    Raises:
        InputError: as `require_controlnet_file`.
    """
    header, report = require_controlnet_file(path)
    stored = {name: where for name, where in own_names(header.tensors, report.prefix).items() if where not in report.quantisation.helpers}
    empty = {with_scale_names(name): torch.empty(header.tensors[where].shape, device="meta") for name, where in stored.items()}
    layout, own = from_any_names(empty)
    return layout, {name: tuple(tensor.shape) for name, tensor in own.items()}


def require_controlnet_file(path: str | Path) -> tuple[Header, FileReport]:
    """A file's header and what it tells, without reading a weight: enough to refuse a wrong file before any work.

    Raises:
        InputError: a damaged file, one that is no FLUX ControlNet of the two layouts, or a packing that cannot be read.
    """
    header = read_header(path)
    report = identify(header)
    if report.architecture != "flux" or report.layout not in _LAYOUTS:
        raise InputError(
            str(header.path), expected="a FLUX ControlNet in the XLabs or InstantX layout", found=what_it_is(report), remedy=_REMEDIES[report.kind]
        )
    require_readable(header, report.quantisation)
    return header, report


def _read(header: Header, report: FileReport, progress: Progress) -> dict[str, Tensor]:
    """The network's own tensors, without prefix."""
    helpers, tally = report.quantisation.helpers, Tally()
    stored = {name: where for name, where in own_names(header.tensors, report.prefix).items() if where not in helpers}
    require_float_tensors(header, list(stored.values()))
    weights = {}
    progress.start(len(stored), "tensor")
    try:
        with header.path.open("rb") as file:
            for done, (name, where) in enumerate(stored.items(), start=1):
                progress.check_interrupt()
                kept = header.tensors[where].dtype in KEPT_DTYPES
                tensor = read_tensor(file, header, where) if kept else load_bf16(file, header, where, report.quantisation, tally, progress)
                weights[with_scale_names(name)] = tensor
                progress.advance(done)
    finally:
        progress.finish()
    tally.require_finite(header)
    require_finite(weights, str(header.path))
    return weights


def _in_stock_names(weights: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    if layout in _STOCK_NAMES:
        return weights
    kind, own = from_any_names(weights)
    return to_diffusers_names(own, kind) if kind == "instantx" else own

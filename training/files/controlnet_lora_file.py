"""A LoRA on a FLUX ControlNet as a file of its own.

No other program reads such files and no names are usual for them, so they have names that readers of transformers' LoRAs do not take for theirs:
those would put the adapters into the transformer's blocks, which are called the same. `controlnet.` stands before the engine's name of the layer,
with `lora_down`, `lora_up` and `alpha` as in ComfyUI's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .header import printable, read_header
from .lora_adapters import Adapter, require_fits
from .lora_names import CONTROLNET_PREFIX, with_alphas
from .tensors import read_tensors

CONTROLNET_FINGERPRINT, CONTROLNET_NAME = "graft.controlnet_fingerprint", "graft.controlnet_name"
"""Fields of the header: of the ControlNet that the LoRA was trained on."""
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
_SHOWN = 5


def controlnet_lora_tensors(adapters: Mapping[str, Adapter], dtype: torch.dtype) -> dict[str, Tensor]:
    """What the file holds; tensors are contiguous, on the CPU and in `dtype`, alpha in fp32."""
    return with_alphas(adapters, lambda layer: f"{CONTROLNET_PREFIX}{layer}", dtype)


def read_controlnet_lora(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Adapter], dict[str, str]]:
    """The adapters by layer, and the file's header fields.

    Args:
        shapes: of the ControlNet's tensors by the engine's names.

    Raises:
        InputError: the file is damaged, something else, incomplete, or for a ControlNet of other sizes.
    """
    weights = read_tensors(path)
    if not any(name.startswith(CONTROLNET_PREFIX) for name in weights):
        remedy = "A LoRA for a transformer goes to Load LoRA (to train further); look at other files with `graft inspect`."
        expected = "a LoRA on a ControlNet, as Export ControlNet writes it"
        raise InputError(str(path), expected=expected, found=_names(weights), remedy=remedy)
    adapters = _adapters(weights, str(path))
    require_fits(adapters, shapes, str(path), "ControlNet")
    return adapters, dict(read_header(path).metadata)


def _adapters(weights: Mapping[str, Tensor], subject: str) -> dict[str, Adapter]:
    names = [name.removesuffix(_DOWN) for name in weights if name.endswith(_DOWN)]
    wanted = {name + ending for name in names for ending in (_DOWN, _UP, _ALPHA)}
    _require_none(sorted(wanted ^ set(weights)), "two matrices and an alpha for each layer, and nothing else", subject)
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor.float()).all())]
    _require_none(broken, "finite values", subject)
    odd = [name for name in names if weights[name + _UP].shape[1:] != weights[name + _DOWN].shape[:1] or weights[name + _DOWN].ndim != 2]
    _require_none(odd, "two matrices of one rank", subject)
    _require_none([name for name in names if weights[name + _ALPHA].numel() != 1], "one number as alpha", subject)
    return {
        name.removeprefix(CONTROLNET_PREFIX): Adapter(weights[name + _DOWN], weights[name + _UP], float(weights[name + _ALPHA])) for name in names
    }


def _require_none(wrong: list[str], expected: str, subject: str) -> None:
    if wrong:
        raise InputError(subject, expected=expected, found=f"other ones at {_names(wrong)}", remedy="The file is damaged: choose another.")


def _names(names: Mapping[str, Tensor] | list[str]) -> str:
    shown = ", ".join(printable(name) for name in list(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "no tensors"

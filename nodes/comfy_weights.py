"""Reading tensors by name out of ComfyUI's ModelPatcher, patches applied. The patcher and its module stay as they are.

What is read is what ComfyUI would compute with: the weights before patching (ComfyUI keeps them aside while a patched model is loaded),
dequantised where they are, with the patches (LoRA, merges) added in fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..training.errors import InputError
from ..training.files.held import Held, Stored, can_be_held, gathered

_log = logging.getLogger(__name__)

EIGHT_BITS = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
LAYOUTS = ("TensorCoreFP8Layout", "TensorCoreFP8E4M3Layout", "TensorCoreFP8E5M2Layout", "TensorWiseINT8Layout")
"""Those of ComfyUI's quantised forms that are numbers times a scale of the whole weight or of each row."""
PLAIN = frozenset({torch.float32, torch.bfloat16, torch.float16})
HELPERS = ("scale_weight", "scale_input", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "comfy_quant")
"""Last parts of the names that belong to a quantised form, not to the model."""

_FINGERPRINTS: WeakKeyDictionary[Any, dict[Any, str]] = WeakKeyDictionary()
"""Of each module under each state of its patches, so that 24 GB are hashed once."""


def read_weights(patcher: Any, prefix: str, subject: str) -> Mapping[str, Tensor]:
    """All parameters below `prefix`, by the rest of their names, wherever they lie now.

    Storage is shared where nothing had to be computed: they are not to be changed in place, and to be read again after anything that may
    load, move or patch the model. Matrices of blocks in 8 bits come as they are held, where ComfyUI's form is known and nothing is patched into
    them; all other quantised weights as bf16.

    Raises:
        InputError: weights are held in a form that only another node pack can read; it names `subject`.
    """
    _mention_unseen(patcher, subject)
    found = {name: parameter for name, parameter in patcher.model.named_parameters() if name.startswith(prefix)}
    with torch.no_grad():
        return gathered({name[len(prefix) :]: _stored(patcher, name, found[name], prefix, subject) for name in _own_names(found)})


def remembered_fingerprint(patcher: Any) -> str | None:
    """What `remember_fingerprint` was told of this module with these patches."""
    return _FINGERPRINTS.get(patcher.model, {}).get(patch_state(patcher))


def remember_fingerprint(patcher: Any, fingerprint: str) -> None:
    """`fingerprint` stands for this module under its present patches, for as long as the module lives."""
    _FINGERPRINTS.setdefault(patcher.model, {})[patch_state(patcher)] = fingerprint


def patch_state(patcher: Any) -> Any:
    """Equal for patchers of one module that have the same patches: ComfyUI renews the identifier whenever patches are added."""
    return patcher.patches_uuid if patcher.patches else None


def _own_names(names: dict[str, Any]) -> Iterator[str]:
    return (name for name in names if name.rpartition(".")[2] not in HELPERS)


def _stored(patcher: Any, name: str, parameter: Tensor, prefix: str, subject: str) -> Stored:
    weight = _unpatched(patcher, name, parameter)
    wanted = can_be_held(name[len(prefix) :], tuple(weight.shape)) and not patcher.patches.get(name)
    held = _as_held(patcher.model, name, weight) if wanted else None
    return _read(patcher, name, parameter, subject) if held is None else held


def _as_held(module: Any, name: str, weight: Tensor) -> Held | None:
    """A weight in 8 bits with its scale; None where it is not in 8 bits, or in a form that only ComfyUI itself can undo."""
    if _is_quantised(weight):
        return _of_quantised(weight)
    layer = module.get_submodule(name.rpartition(".")[0])
    scale = getattr(layer, "scale_weight", None)
    unknown = scale is None and hasattr(layer, "convert_weight")
    return _checked(weight.detach(), scale) if weight.dtype in EIGHT_BITS and not unknown else None


def _of_quantised(weight: Any) -> Held | None:
    stored, told = getattr(weight, "_qdata", None), getattr(weight, "_params", None)
    known = getattr(weight, "_layout_cls", "") in LAYOUTS and not getattr(told, "convrot", False) and not getattr(told, "transposed", False)
    whole = isinstance(stored, Tensor) and stored.shape == weight.shape and stored.dtype in (*EIGHT_BITS, torch.int8)
    return _checked(stored.detach(), getattr(told, "scale", None)) if known and whole else None


def _checked(stored: Tensor, scale: Tensor | None) -> Held | None:
    if scale is None:
        return Held(stored)
    fits = scale.numel() in (1, len(stored))
    return Held(stored, scale.detach().to(stored.device, torch.float32).reshape(-1, 1)) if fits else None


def _read(patcher: Any, name: str, parameter: Tensor, subject: str) -> Tensor:
    weight = _unpatched(patcher, name, parameter)
    _require_readable(weight, name, subject)
    patches = patcher.patches.get(name, [])
    plain = weight.dtype in PLAIN and not _is_quantised(weight)
    if plain and not patches:
        return weight.detach()
    value = _converted(patcher.model, name, _in_fp32(weight))
    if patches:
        import comfy.lora

        value = comfy.lora.calculate_weight(patches, value, name)
    return value.to(weight.dtype if plain else torch.bfloat16)


def _unpatched(patcher: Any, name: str, parameter: Tensor) -> Tensor:
    """The weight itself; while the model is loaded with patches, what ComfyUI has put aside."""
    if name in patcher.hook_backup:
        return patcher.hook_backup[name][0]
    return patcher.backup[name].weight if name in patcher.backup else parameter


def _in_fp32(weight: Any) -> Tensor:
    """In memory of its own. A quantised tensor only notes the dtype that it is to be unpacked to."""
    value = weight.to(torch.float32, copy=True)
    return value.dequantize() if _is_quantised(value) else value


def _converted(module: Any, name: str, value: Tensor) -> Tensor:
    """A layer that holds its weight in a scaled form tells itself how to undo it."""
    layer, _, leaf = name.rpartition(".")
    convert = getattr(module.get_submodule(layer), f"convert_{leaf}", None)
    return value if convert is None else convert(value)


def _is_quantised(weight: Tensor) -> bool:
    """ComfyUI's own class for weights with scales (from v0.4 on)."""
    return type(weight).__name__ == "QuantizedTensor"


def _require_readable(weight: Tensor, name: str, subject: str) -> None:
    ours = type(weight) in (Tensor, torch.nn.Parameter) and weight.is_floating_point()
    if ours or _is_quantised(weight):
        return
    raise InputError(
        subject, expected="weights that ComfyUI itself can read (bf16, fp16, fp32, fp8, or its own quantised forms)",
        found=f"{name} held as {type(weight).__name__} of {weight.dtype} (GGUF, NF4 and the like belong to other node packs)",
        remedy="Load the model from a safetensors file, with Load Transformer (BF16) or Load Diffusion Model.",
    )  # fmt: skip


def _mention_unseen(patcher: Any, subject: str) -> None:
    """What changes a model while it runs is no part of its weights: whoever trains on them should know."""
    unseen = [name for name in ("injections", "weight_wrapper_patches") if getattr(patcher, name, None)]
    if unseen:
        _log.warning("%s: it has %s, which act only while ComfyUI runs it; training sees its weights without them", subject, " and ".join(unseen))

"""Fingerprints that outlive the process, of weights that stock loaders have read from files.

Newer ComfyUIs (v0.33) keep beside a loaded model how to load it again: the loader and its arguments. Those, the files' sizes and times,
the form in which ComfyUI holds the weights, and the contents of all patches (LoRA) stand for the weights; under a hash of them the weights'
own fingerprint is kept on disk. Where anything cannot be told apart surely, nothing is kept and the weights themselves are hashed.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..training.files.fingerprint import fingerprint as hashed
from ..training.files.fingerprint import remembered_under
from .comfy_weights import remember_fingerprint, remembered_fingerprint

SOURCE = "cached_patcher_init"
ADAPTERS = "comfy.weight_adapter"
"""ComfyUI's own classes for LoRA and its kin; what they do follows from their class and their `weights`."""


class _Unknown(Exception):  # noqa: N818 (it never leaves this file)
    """A value whose contents cannot be told."""


def lasting_fingerprint(patcher: Any, read: Callable[[], Mapping[str, Tensor]], notes: Path | None) -> str:
    """The fingerprint of what `read` gives: remembered by this process, by an earlier one, or hashed now.

    Args:
        read: the weights, patches applied.
        notes: the folder of remembered fingerprints; None remembers for this process only.
    """
    known = remembered_fingerprint(patcher)
    if known is None:
        known = _noted(patcher, read, notes)
        remember_fingerprint(patcher, known)
    return known


def _noted(patcher: Any, read: Callable[[], Mapping[str, Tensor]], notes: Path | None) -> str:
    key = None if notes is None else source_key(patcher)
    if notes is None or key is None:
        return hashed(read())
    return remembered_under(notes / f"model-{key[:40]}.json", {"files": source_files(patcher)}, lambda: hashed(read()))


def source_key(patcher: Any) -> str | None:
    """Stands for the weights of a patcher by where they come from; None if that cannot be told."""
    source = getattr(patcher, SOURCE, None)
    if not source or not source_files(patcher):
        return None
    loader, arguments, *part = source
    held = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(patcher.model.named_parameters())]
    try:
        told = [_comfyui_version(), f"{loader.__module__}.{loader.__qualname__}", _told(arguments), part, held, _told(patcher.patches)]
    except _Unknown:
        return None
    return hashlib.sha256(json.dumps(told).encode("utf-8", errors="surrogatepass")).hexdigest()


def source_files(patcher: Any) -> list[str]:
    """The files that a loader was given."""
    source = getattr(patcher, SOURCE, None)
    return sorted(str(path) for path in _files(source[1])) if source else []


def _files(value: Any) -> Iterator[Path]:
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _files(entry)
    elif isinstance(value, (str, Path)) and Path(value).is_file():
        yield Path(value)


def _told(value: Any) -> Any:
    """A value as JSON that is equal only for equal contents. Raises _Unknown."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, Path)):
        return _text(str(value))
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_told, value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(json.dumps(_told(entry)) for entry in value)]
    if isinstance(value, Mapping):
        return ["mapping", *_pairs(value.items())]
    return _told_object(value)


def _pairs(items: Iterable[tuple[Any, Any]]) -> list[Any]:
    return sorted(([json.dumps(_told(key)), _told(value)] for key, value in items), key=lambda pair: pair[0])


def _told_object(value: Any) -> Any:
    if isinstance(value, Tensor) and type(value) in (Tensor, torch.nn.Parameter):
        return ["tensor", hashed({"": value.detach()})]
    if isinstance(value, (torch.dtype, torch.device)):
        return [type(value).__name__, str(value)]
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if type(value).__module__.startswith(ADAPTERS):
        return [type(value).__qualname__, _told(getattr(value, "weights", None))]
    raise _Unknown


def _text(text: str) -> Any:
    path = Path(text)
    try:
        state = path.stat() if path.is_file() else None
    except (OSError, ValueError):
        state = None
    return text if state is None else ["file", str(path.resolve()), state.st_size, state.st_mtime_ns]


def _comfyui_version() -> str:
    """How quantised weights are read may change with it."""
    try:
        import comfyui_version
    except ImportError:
        return ""
    return str(comfyui_version.__version__)

"""Weights in 8 bits: kept as they are stored, and turned into BF16 wherever they are read.

A held weight stands for bf16(stored * scale), the product taken in fp32: the very numbers that loading the same file as BF16 gives. So whether
a base is held in 8 bits changes memory and time, and no result. Only a BF16 base that is put into 8 bits on request becomes another base.

Only the matrices of the transformer's blocks are held so (over 99% of a FLUX); embedders, last layer, biases and norms stay what they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

REQUEST_VERSION = 1
"""Part of the fingerprint of every base that was put into 8 bits on request: raise it when that would give other numbers."""
STORED_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
FORMS: dict[str, torch.dtype] = {"int8": torch.int8, "fp8 e4m3fn": torch.float8_e4m3fn}
"""What a weight can be put into on request, with a scale for each row."""
_LARGEST: dict[torch.dtype, float] = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_NUMBERS_AT_ONCE = 2**18
"""That are in fp32 while a weight is put into 8 bits: the largest of a FLUX would take 0.8 GB if it were done at once."""
_BLOCKS = ("double_blocks.", "single_blocks.")


@dataclass(frozen=True, eq=False)
class Held:
    """One weight in 8 bits."""

    stored: Tensor
    """[out, in] in one of STORED_DTYPES."""
    scale: Tensor | None = None
    """fp32, one number for the weight [1, 1] or for each of its rows [out, 1]; None where the stored numbers are the weight's own."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored.shape)

    def numbers(self) -> Tensor:
        """The weight [out, in] in BF16, in memory of its own."""
        return unpacked(self.stored, self.scale)

    def to(self, device: torch.device | str) -> Held:
        return Held(self.stored.to(device), None if self.scale is None else self.scale.to(device))


Stored = Tensor | Held


class HeldWeights(Mapping[str, Tensor]):
    """Weights by name, some of them in 8 bits. Reading one gives its numbers; `stored` gives what is to be kept of it.

    Args:
        stored: what is kept, by name; may make it only when asked.
        shapes: of all the weights.
    """

    def __init__(self, stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.stored, self.shapes = stored, dict(shapes)

    def __getitem__(self, name: str) -> Tensor:
        value = self.stored[name]
        return value.numbers() if isinstance(value, Held) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


class Made(Mapping[str, Stored]):
    """What is made by `make(name)` each time it is asked for."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Stored]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Stored:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def unpacked(stored: Tensor, scale: Tensor | None) -> Tensor:
    """bf16(stored * scale). Every number of every stored dtype is a BF16 number; the product is rounded once."""
    numbers = stored.to(torch.bfloat16)
    return numbers if scale is None else numbers.mul_(scale)  # in fp32, because the scale has as many dimensions as the weight


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of weights by name; nothing is unpacked for it."""
    return weights.shapes if isinstance(weights, HeldWeights) else {name: tuple(tensor.shape) for name, tensor in weights.items()}


def stored_of(weights: Mapping[str, Tensor]) -> Mapping[str, Stored]:
    """What is to be kept of weights by name: held ones as they are held."""
    return weights.stored if isinstance(weights, HeldWeights) else weights


def gathered(stored: Mapping[str, Stored]) -> Mapping[str, Tensor]:
    """Weights of which some may be held: a plain dict where none is."""
    plain = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    return plain if len(plain) == len(stored) else HeldWeights(stored, {name: tuple(value.shape) for name, value in stored.items()})


def placed(weights: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The same on a device, in a dtype; held weights stay held. What is there already is shared, not copied."""
    stored = stored_of(weights)
    return gathered({name: _placed(stored[name], device, dtype) for name in stored})


def can_be_held(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a matrix of one of the transformer's blocks."""
    return name.startswith(_BLOCKS) and name.endswith(".weight") and len(shape) == 2


def held_on_request(weights: Mapping[str, Tensor], form: str) -> HeldWeights:
    """The same weights with every matrix of a block in 8 bits, made when asked for; those that are held already stay as they are.

    Raises:
        InputError: no such form; when one is asked for: it is not finite.
    """
    require_form(form)
    stored, shapes = stored_of(weights), shapes_of(weights)

    def make(name: str) -> Stored:
        value = stored[name]
        return value if isinstance(value, Held) or not can_be_held(name, shapes[name]) else in_8_bits(value, form, name)

    return HeldWeights(Made(shapes, make), shapes)


def requested_fingerprint(fingerprint: str, form: str) -> str:
    """Stands for `held_on_request(weights, form)` where `fingerprint` stands for the weights."""
    text = json.dumps(["held on request", REQUEST_VERSION, require_form(form), fingerprint])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def require_form(form: str) -> str:
    """Raises InputError if there is no such form."""
    if form not in FORMS:
        raise InputError("8-bit form", expected=" or ".join(FORMS), found=form, remedy="Choose one of these.")
    return form


def in_8_bits(weight: Tensor, form: str, name: str = "weight") -> Held:
    """A weight [out, in], each row scaled so that its largest number becomes the largest of the form, rounded to nearest.

    Raises:
        InputError: infinities or NaN in it.
    """
    dtype = FORMS[require_form(form)]
    stored = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    scale = torch.empty(weight.shape[0], 1, dtype=torch.float32, device=weight.device)
    rows_at_once = max(1, _NUMBERS_AT_ONCE // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], rows_at_once):
        rows = slice(start, start + rows_at_once)
        stored[rows], scale[rows] = _rows_in_8_bits(weight[rows].detach().float(), dtype, name)
    return Held(stored, scale)


def _rows_in_8_bits(numbers: Tensor, dtype: torch.dtype, name: str) -> tuple[Tensor, Tensor]:
    extent = numbers.abs().amax(dim=1, keepdim=True)
    if not bool(torch.isfinite(extent).all()):
        raise InputError(name, expected="finite values", found="infinities or NaN", remedy="Use another edition of the base.")
    largest = _LARGEST[dtype]
    scale = (extent / largest).clamp_min(torch.finfo(torch.float32).tiny)
    steps = (numbers / scale).clamp_(-largest, largest)
    return (steps.round_() if dtype == torch.int8 else steps).to(dtype), scale


def held_again(weight: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Stored:
    """The 8-bit weight that `weight` was unpacked from: exactly, since BF16 has four bits of fraction more than any of the stored dtypes.

    Numbers that this dtype and scale do not give back to the last bit come back as they are.
    """
    steps = weight.detach().float() if scale is None else weight.detach().float() / scale
    held = Held((steps.round_() if dtype == torch.int8 else steps).to(dtype), scale)
    return held if torch.equal(held.numbers(), weight) else weight


def _placed(value: Stored, device: torch.device | str, dtype: torch.dtype) -> Stored:
    return value.to(device) if isinstance(value, Held) else value.to(device, dtype)

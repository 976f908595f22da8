"""An optimiser's whole state as tensors by name, for a file, and back: averages, counters, and what some keep for all parameters together."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .errors import InputError

_STATE_SEPARATOR = ":"
_OF_ALL = ""
"""Stands in a parameter's place before what belongs to all of them."""
_PLAIN_NUMBER = " (number)"
"""Ends the name of what is no tensor in the optimiser but a whole number or one in double precision."""
Value: TypeAlias = "Tensor | int | float"


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Its whole state as {"<parameter>:<quantity>": tensor}; `names` in the order of its parameters."""
    of_all = [(_OF_ALL, key, optimiser.param_groups[0][key]) for key in _moving(optimiser)]
    return dict(_stored(name, key, value) for name, key, value in (*of_all, *_of_parameters(optimiser, names)))


def only(quantity: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of what `optimiser_tensors` gave, one quantity of every parameter."""
    return {name: tensor for name, tensor in tensors.items() if name.endswith(f"{_STATE_SEPARATOR}{quantity}")}


def restore_optimiser(optimiser: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimiser_tensors` gave; settings of the optimiser stay as they are now.

    Raises:
        InputError: a tensor belongs to no parameter.
    """
    order, of_all = {name: index for index, name in enumerate(names)}, dict[str, Value]()
    state: dict[int, dict[str, Value]] = {}
    for full_name, tensor in tensors.items():
        name, key, value = _read(full_name, tensor)
        if name and name not in order:
            raise InputError("optimiser state", expected="that of the trained parameters", found=name, remedy="Start a new training.")
        (state.setdefault(order[name], {}) if name else of_all)[key] = value
    _load(optimiser, {"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for group in optimiser.param_groups:
        group.update(of_all)


def _of_parameters(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> Iterator[tuple[str, str, Value]]:
    for name, parameter in zip(names, _parameters(optimiser), strict=True):
        for key, value in optimiser.state.get(parameter, {}).items():
            yield name, key, value


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _moving(optimiser: torch.optim.Optimizer) -> list[str]:
    """What a step changes beside the parameters' own state: the numbers that the optimiser has not been made with."""
    told = {*inspect.signature(type(optimiser).__init__).parameters, "params", "lr"}
    numbers = {key for key, value in optimiser.param_groups[0].items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return sorted(numbers - told)


def _stored(name: str, key: str, value: Value) -> tuple[str, Tensor]:
    full_name = f"{name}{_STATE_SEPARATOR}{key}"
    if isinstance(value, Tensor):
        return full_name, value
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    return full_name + _PLAIN_NUMBER, torch.tensor(value, dtype=dtype)


def _read(full_name: str, tensor: Tensor) -> tuple[str, str, Value]:
    name, _, key = full_name.rpartition(_STATE_SEPARATOR)
    return (name, key.removesuffix(_PLAIN_NUMBER), tensor.item()) if key.endswith(_PLAIN_NUMBER) else (name, key, tensor)


def _load(optimiser: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    if not getattr(optimiser, "is_paged", False):
        return optimiser.load_state_dict(state_dict)
    # bitsandbytes would move everything into the device's own memory, and page no more after that. What is not paged it moves at its first step.
    optimiser.load_state_dict(state_dict, move_to_device=False)  # type: ignore[call-arg]
    for parameter in _parameters(optimiser):
        kept = optimiser.state.get(parameter, {})
        for key in kept.keys() & {"state1", "state2"}:
            kept[key] = _paged(optimiser.get_state_buffer(parameter, dtype=kept[key].dtype), kept[key])  # type: ignore[attr-defined]


def _paged(buffer: Tensor, value: Tensor) -> Tensor:
    """The value in memory that the optimiser has made for it: on the device, or paged, which is the CPU's to write once the device has cleared it."""
    if getattr(buffer, "is_paged", False) and torch.cuda.is_available():
        torch.cuda.synchronize()
    with torch.no_grad():
        return buffer.copy_(value)

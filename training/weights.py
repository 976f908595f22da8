"""Whose tensors are whose: the loop's own view of the frozen base, and the fp32 parameters beside those that the network computes with."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import InputError
from .normal import normal
from .settings import Compute


def compute_dtype(compute: Compute, device: torch.device) -> torch.dtype:
    """auto: bf16 on an accelerator, fp32 on the CPU (whose bf16 is slow or emulated)."""
    if compute == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.bfloat16 if compute == "bf16" else torch.float32


def own_module(module: nn.Module) -> nn.Module:
    """A module of our own over the same tensors: changing its structure or flags leaves the given one as it was. Frozen.

    Tensors made under inference mode become ordinary ones, since autograd refuses them.
    """
    memo = {}
    for tensor in (*module.parameters(), *module.buffers()):
        data = normal(tensor.detach())
        memo[id(tensor)] = nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data
    return copy.deepcopy(module, memo)


def move_frozen(module: nn.Module, keep: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves the tensors of `module`, but not those of `keep`, to the device and dtype; where nothing changes, storage stays shared."""
    kept = {id(tensor) for tensor in (*keep.parameters(), *keep.buffers())}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in kept:
            tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


class TrainedWeights:
    """The fp32 parameters that the optimiser changes (`masters`), and the module that computes.

    In fp32 they are the same tensors. In bf16 the module holds a rounded copy, which `publish` renews after each step; its gradients are
    added up in fp32. Tensors of the module that do not train are kept in fp32 for the file.
    """

    def __init__(self, module: nn.Module, device: torch.device, compute: torch.dtype) -> None:
        module.to(device)
        self.module = module
        self._working = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        assert self._working, "nothing to train: no parameter requires a gradient"
        full = module.state_dict()
        self._frozen = {name: tensor.detach().to("cpu", copy=True) for name, tensor in full.items() if name not in self._working}
        self._shared = compute == torch.float32
        self.masters = self._working if self._shared else {name: _master(parameter) for name, parameter in self._working.items()}
        module.to(compute)

    @property
    def names(self) -> list[str]:
        return list(self.masters)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.masters.values())

    def gather_gradients(self) -> None:
        """Adds the gradients of one backward pass to the masters'."""
        missing = [name for name, parameter in self._working.items() if parameter.grad is None]
        assert not missing, f"trained parameters that take no part in the loss: {', '.join(missing)}"
        if self._shared:
            return
        for name, parameter in self._working.items():
            master, gradient = self.masters[name], parameter.grad
            assert gradient is not None
            master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Lets the module compute with the masters as they are now."""
        if not self._shared:
            torch._foreach_copy_(list(self._working.values()), list(self.masters.values()))

    def tensors(self) -> dict[str, Tensor]:
        """The whole result by name, trained in fp32 and frozen."""
        return {**{name: master.detach() for name, master in self.masters.items()}, **self._frozen}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the trained tensors of a stored result.

        Raises:
            InputError: it was trained as something else: naming each tensor that is missing, or of another shape.
        """
        problems = [f"{name} {tuple(master.shape)}" for name, master in self.masters.items() if _shape(tensors, name) != master.shape]
        problems += [f"unexpected {name}" for name in tensors if name not in self.masters and name not in self._frozen]
        if problems:
            remedy = "Continue with the same kind, layout and depth, or without a previous state."
            raise InputError("previous state", expected="the tensors of what is to be trained", found="; ".join(problems), remedy=remedy)
        for name, master in self.masters.items():
            master.copy_(tensors[name])
        self.publish()


def _master(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(torch.float32, copy=True))


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None

"""A frozen linear layer whose weight stays in 8 bits: it is unpacked for each use, and nothing unpacked is kept for the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.held import Held, Stored, gathered
from ..normal import normal


class HeldLinear(nn.Linear):
    """y = x W^T + b with W = bf16(stored * scale), computed in the dtype of x.

    The stored bytes and the scales lie in integer buffers, because whoever casts a module's floats (module.to(bfloat16), the loop) means its
    weights, and would change the numbers here.
    """

    qweight: Tensor
    """The stored bytes, uint8 [out, in]; peft asks for a layer's place and dtype under this name without having the weight unpacked."""
    scale_bits: Tensor | None
    """The bits of the fp32 scales, int32 [out, 1] or [1, 1]."""

    def __init__(self, held: Held, bias: nn.Parameter | None = None) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight
        self.out_features, self.in_features = held.shape
        self.form = held.stored.dtype
        self.bias = bias  # type: ignore[assignment]
        scale = None if held.scale is None else normal(held.scale.detach().view(torch.int32))
        self.register_buffer("qweight", normal(held.stored.detach().view(torch.uint8)), persistent=False)
        self.register_buffer("scale_bits", scale, persistent=False)

    @property
    def held(self) -> Held:
        """The weight in 8 bits, sharing storage."""
        return _held(self.qweight, self.scale_bits, self.form)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The unpacked weight [out, in] in BF16, made at each reading (peft's DoRA needs it)."""
        return self.held.numbers()

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is None or not self.bias.requires_grad, "held layers are frozen, their biases too"
        y: Tensor = _Unpacking.apply(x, self.qweight, self.scale_bits, self.bias, self.form)
        return y


class _Unpacking(torch.autograd.Function):
    """The layer and its gradient, which is grad W: both unpack W for themselves, and what is saved is W in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qweight: Tensor, scale_bits: Tensor | None, bias: Tensor | None, form: torch.dtype) -> Tensor:
        ctx.save_for_backward(qweight, scale_bits)
        ctx.form = form
        return F.linear(x, _in_dtype_of(x, qweight, scale_bits, form), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        qweight, scale_bits = ctx.saved_tensors
        return gradient @ _in_dtype_of(gradient, qweight, scale_bits, ctx.form), None, None, None, None


def hold(model: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Puts held layers into `model` where their weights come in 8 bits."""
    for name, value in ((name, value) for name, value in stored.items() if isinstance(value, Held)):
        place, _, child = name.removesuffix(".weight").rpartition(".")
        layer = model.get_submodule(place).get_submodule(child)
        assert isinstance(layer, nn.Linear), f"{name} is held in 8 bits and belongs to no linear layer"
        setattr(model.get_submodule(place), child, HeldLinear(value, layer.bias))


def weights_of(model: nn.Module) -> Mapping[str, Tensor]:
    """The weights of a module by name, in the order in which `state_dict` would give them; held ones are unpacked when they are read.

    The order matters: whatever is summed over layers (a gradient's length) is to come out the same to the last bit.
    """
    stored: dict[str, Stored] = {}
    for place, module in model.named_modules():
        prefix = f"{place}." if place else ""
        if isinstance(module, HeldLinear):
            stored[f"{prefix}weight"] = module.held
        stored |= {prefix + name: parameter.detach() for name, parameter in module.named_parameters(recurse=False)}
    return gathered(stored)


def _held(qweight: Tensor, scale_bits: Tensor | None, form: torch.dtype) -> Held:
    return Held(qweight.view(form), None if scale_bits is None else scale_bits.view(torch.float32))


def _in_dtype_of(x: Tensor, qweight: Tensor, scale_bits: Tensor | None, form: torch.dtype) -> Tensor:
    return _held(qweight, scale_bits, form).numbers().to(x.dtype)



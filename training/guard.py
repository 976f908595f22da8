"""A number that is not finite ends the training at that step, with its cause as far as it can be found; nothing is skipped silently."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from .data.batches import Batch
from .errors import StoppedTraining
from .learner import Learner


class NonFiniteError(StoppedTraining):
    """Loss or gradient became infinite or NaN. The weights are still those of `step` finished steps."""

    def __init__(
        self, *, step: int, loss: float, gradient_norm: float, learning_rate: float, samples: Sequence[int], tensor: str | None, advice: str,
        kind: str = "training samples",
    ) -> None:  # fmt: skip
        self.step, self.loss, self.gradient_norm, self.learning_rate = step, loss, gradient_norm, learning_rate
        self.samples, self.tensor = tuple(samples), tensor
        super().__init__(
            f"Step {step + 1} gave a loss of {loss:g} and a gradient of length {gradient_norm:g}, at learning rate {learning_rate:g} with "
            f"the {kind} {', '.join(map(str, self.samples))}. First tensor that is not finite: {tensor or 'none stored'}. "
            f"What was trained in the {step} steps before is kept. {advice}"
        )


_ADVICE = {
    "data": "These samples' encoded tensors are broken: check their pictures and the autoencoder, then encode them again.",
    "base": "The base holds such values, as files saved in FP16 may: take its BF16 edition.",
    "weight": "Lower the learning rate, or go on from an earlier state.",
    "gradient": "Lower the learning rate, or compute in fp32 to see whether the precision is at fault.",
}


def require_finite(
    learner: Learner, batches: Iterable[Batch], losses: Sequence[float], gradient_norm: float, learning_rate: float, kind: str = "training samples"
) -> None:
    """Checks a step before it is applied.

    Args:
        batches: the step's data, looked at only to explain.
        losses: per sample.
        kind: what the samples are to the user.

    Raises:
        NonFiniteError: the sum of the losses or the gradient's length is not finite.
    """
    if math.isfinite(sum(losses)) and math.isfinite(gradient_norm):
        return
    held = list(batches)
    indices = [sample for batch in held for sample, _ in batch.indices]
    bad = [index for index, loss in zip(indices, losses, strict=True) if not math.isfinite(loss)]
    cause, tensor = _first_bad(learner, held)
    raise NonFiniteError(
        step=learner.step, loss=sum(losses) / len(losses), gradient_norm=gradient_norm, learning_rate=learning_rate,
        samples=bad or indices, tensor=tensor, advice=_ADVICE[cause], kind=kind,
    )  # fmt: skip


def _first_bad(learner: Learner, batches: Sequence[Batch]) -> tuple[str, str | None]:
    """In the order in which values flow: data, base, trained weights, gradients."""
    inputs = chain.from_iterable(_inputs(number, batch).items() for number, batch in enumerate(batches))
    gradients = {name: master.grad for name, master in learner.weights.masters.items() if master.grad is not None}
    places: tuple[tuple[str, str, Mapping[str, Tensor]], ...] = (
        ("data", "", dict(inputs)),
        ("base", "the base's ", _frozen(learner.base)),
        ("weight", "the trained ", learner.weights.masters),
        ("gradient", "the gradient of ", gradients),
    )
    for kind, prefix, tensors in places:
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                return kind, prefix + name
    return "gradient", None


def _frozen(base: nn.Module) -> dict[str, Tensor]:
    """Without adapters that sit in its layers: those are trained."""
    return {name: parameter for name, parameter in base.named_parameters() if not parameter.requires_grad}


def _inputs(number: int, batch: Batch) -> dict[str, Tensor]:
    tensors = {"latents": batch.latents, "text": batch.text, "pooled": batch.pooled, "hint": batch.hint}
    return {f"{name} of batch {number}": tensor for name, tensor in tensors.items() if tensor is not None}

"""Prior preservation (Ruiz et al. 2022, DreamBooth, arXiv:2208.12242, equation 3): beside each batch one of pictures that must not change.

The loss of a step is L(data) + weight L(regularisation). The second batch passes through the network by itself, so its pictures may have other
sizes, and its order, noise and times follow from a seed of its own: what is drawn for the data stays as it is without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from torch import Tensor

from .data.batches import Batch, Batches
from .data.encoded import Encoded
from .errors import InputError
from .randomness import seed_of
from .settings import Settings

WEIGHT_LIMIT = 100.0


@dataclass(frozen=True)
class Regularisation:
    """A second data set and how much it counts.

    Raises:
        InputError: a weight that is not above 0.
    """

    data: Encoded
    weight: float = 1.0
    """1: as much as the data itself."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= WEIGHT_LIMIT:
            remedy = "1 counts it as much as the data itself; to leave it out, give none."
            raise InputError("regularisation weight", expected=f"more than 0, at most {WEIGHT_LIMIT:g}", found=self.weight, remedy=remedy)

    def key_fields(self) -> dict[str, Any]:
        """What changes the trained numbers, as JSON."""
        return {"data_key": self.data.key, "weight": self.weight}


def regularisation_of(data: Encoded | None, weight: float) -> Regularisation | None:
    """None where there is no data, or where it is to count nothing: the training is then the same as without."""
    return None if data is None or weight == 0 else Regularisation(data, weight)


@dataclass(frozen=True)
class PriorBatches:
    """The batches of a regularisation; use it in a with-block.

    Args:
        end_batch: nothing is read ahead from this batch on.
    """

    regularisation: Regularisation
    settings: Settings
    end_batch: int | None = None
    _batches: Batches = field(init=False, repr=False)

    def __post_init__(self) -> None:
        batches = Batches(self.regularisation.data, seed=self.seed, batch_size=self.settings.batch_size, end_step=self.end_batch)
        object.__setattr__(self, "_batches", batches)

    @property
    def seed(self) -> int:
        """Of everything that is drawn for it."""
        return seed_of(self.settings.seed, "regularisation")

    def batch(self, number: int) -> Batch:
        """The batch beside that one of the data."""
        return self._batches.batch(number)

    def weighted(self, losses: Tensor) -> Tensor:
        """What the batch's losses [B] add to the loss of a step, a scalar."""
        return self.regularisation.weight * losses.mean() / self.settings.accumulation

    def __enter__(self) -> PriorBatches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._batches.close()

"""A plain LoRA near a change of weights: as near as the singular values allow, and its error is told as it is."""

from __future__ import annotations

import pytest
import torch
from graft.training.errors import InputError
from graft.training.files.lora_adapters import Adapter
from graft.training.files.lora_extract import extracted_lora


def change(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """With singular values 1, 1/2, 1/3, ..."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, min(rows, columns), generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, min(rows, columns), generator=generator)).Q
    return (left / torch.arange(1, min(rows, columns) + 1)) @ right.T


@pytest.mark.parametrize(("rows", "columns", "rank"), [(12, 20, 3), (90, 60, 4), (60, 90, 8)])
def test_the_error_is_that_of_the_best_approximation(rows, columns, rank):
    """Eckart and Young: the root of the sum of the squares of the singular values that are left out."""
    found = extracted_lora({"a": lambda: change(rows, columns)}, rank)
    values = 1 / torch.arange(1, min(rows, columns) + 1).double()
    best = float((values[rank:] ** 2).sum().sqrt() / (values**2).sum().sqrt())
    adapter = found.adapters["a"]
    assert (adapter.rank, adapter.scale, adapter.shape) == (rank, 1.0, (rows, columns))
    assert found.error == pytest.approx(best, rel=1e-3) and found.worst == ("a", pytest.approx(best, rel=1e-3))
    left = (change(rows, columns) - adapter.product()).norm() / change(rows, columns).norm()
    assert found.error == pytest.approx(float(left), rel=1e-5)


def test_what_is_of_that_rank_comes_back_whole():
    generator = torch.Generator().manual_seed(1)
    plain = Adapter(torch.randn(4, 70, generator=generator), torch.randn(80, 4, generator=generator), 2.0)
    found = extracted_lora({"a": lambda: plain.scale * plain.product()}, 4)
    assert found.error < 1e-5 and torch.allclose(found.adapters["a"].product(), plain.scale * plain.product(), atol=1e-4)


def test_all_layers_count_and_the_worst_is_named():
    changes = {"even": lambda: torch.eye(10), "low": lambda: torch.ones(10, 10), "none": lambda: torch.zeros(10, 10)}
    found = extracted_lora(changes, 5)
    assert found.worst == ("even", pytest.approx(0.5**0.5, rel=1e-4)) and found.error == pytest.approx((5 / 110) ** 0.5, rel=1e-4)
    assert "rank 5 that loses 21.3% of the change; most in even, 70.7%" in found.in_words()
    assert extracted_lora({"none": lambda: torch.zeros(4, 4)}, 2).error == 0.0


def test_it_is_the_same_every_time():
    one, other = (extracted_lora({"a": lambda: change(64, 64)}, 2).adapters["a"] for _ in range(2))
    assert torch.equal(one.down, other.down) and torch.equal(one.up, other.up)


def test_no_rank_is_refused():
    with pytest.raises(InputError, match="rank of the extracted LoRA"):
        extracted_lora({"a": lambda: torch.eye(2)}, 0)

from __future__ import annotations

import numpy as np
import pytest
import torch
from graft.training.errors import InputError
from graft.training.files import values as room
from graft.training.files.values import ValueCounts, count_values, describe_values, scan_values


def by_numpy(numbers: np.ndarray) -> ValueCounts:
    limits, size = np.finfo(numbers.dtype), np.abs(numbers)
    return ValueCounts(
        numbers.size, int((size == 0).sum()), int(((size > 0) & (size < limits.tiny)).sum()), int((size == limits.max).sum()),
        int((~np.isfinite(numbers)).sum()),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), [("F16", np.float16), ("F32", np.float32), ("F64", np.float64)])
def test_counts_are_numpys(name, dtype):
    raw = np.arange(65536, dtype=np.uint16).tobytes() if name == "F16" else np.random.default_rng(0).bytes(160_000)
    whole, limits = np.frombuffer(raw, dtype), np.finfo(dtype)
    special = np.array([0, -0.0, limits.max, np.inf, np.nan, limits.tiny, limits.tiny / 2], dtype)
    numbers = np.concatenate([whole, special, -special])
    assert count_values(torch.from_numpy(numbers), name) == by_numpy(numbers)


def test_every_bf16_number():
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    wide = numbers.float().numpy()  # exact
    expected = ValueCounts(65536, 2, int(((wide != 0) & (np.abs(wide) < 2.0**-126)).sum()), 2, int((~np.isfinite(wide)).sum()))
    assert count_values(numbers, "BF16") == expected == ValueCounts(65536, 2, 254, 2, 256)


def test_every_8_bit_number():
    raw = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    # e4m3fn: no infinities, one NaN of each sign, largest 448; e5m2: largest 57344, infinity and three NaN of each sign.
    assert count_values(raw.view(torch.float8_e4m3fn), "F8_E4M3") == ValueCounts(256, 2, 14, 2, 2)
    assert count_values(raw.view(torch.float8_e5m2), "F8_E5M2") == ValueCounts(256, 2, 6, 2, 8)
    assert int((raw.view(torch.float8_e4m3fn).float().abs() == 448).sum()) == 2


def test_no_numbers_at_all():
    assert count_values(torch.empty(0), "F32") == ValueCounts()


@pytest.fixture
def troubled(save):
    half = torch.full((300,), 2.0**-10, dtype=torch.float16)
    half[:7], half[7:10], half[10:12] = 0, 2.0**-20, torch.tensor([65504.0, -65504.0])
    return save({"half": half, "nan": torch.tensor([1.0, float("nan"), float("inf")]), "whole": torch.arange(3), "fine": torch.ones(2)})


@pytest.mark.parametrize("chunk_bytes", [16, 2**20])
def test_a_file_is_counted_tensor_by_tensor_in_pieces_of_any_size(troubled, monkeypatch, chunk_bytes):
    read = room.read_chunks
    monkeypatch.setattr(room, "read_chunks", lambda file, header, name: read(file, header, name, chunk_bytes))
    report = scan_values(troubled)
    assert {tensor.name: tensor.counts for tensor in report.tensors} == {
        "half": ValueCounts(300, 7, 3, 2, 0), "nan": ValueCounts(3, 0, 0, 0, 2), "fine": ValueCounts(2)}  # fmt: skip
    assert [tensor.name for tensor in report.non_finite] == ["nan"] and report.not_counted == ("whole",)
    assert report.by_dtype()["F32"] == ValueCounts(5, 0, 0, 0, 2)


def test_the_report_in_words_and_in_json(troubled, save):
    report = scan_values(troubled)
    text = describe_values(report)
    assert "300 numbers, 7 exact zeros (2.33%), 3 subnormal (1%), 2 at 65504" in text and "nan: 2 of 3" in text
    assert report.as_dict()["non_finite"] == {"nan": 2} and report.as_dict()["saturated"] == {"half": 2}
    assert "all values are finite" in describe_values(scan_values(save({"a": torch.ones(3)}, name="good.safetensors")))


def test_progress_is_told_and_can_interrupt(troubled, listener):
    scan_values(troubled, listener)
    assert listener.calls[0] == ("start", 3, "tensor") and listener.calls[-1] == ("finish",) and ("advance", 3) in listener.calls
    listener.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        scan_values(troubled, listener)
    assert listener.calls[-1] == ("finish",)


def test_a_file_that_shrinks_while_it_is_read(save, monkeypatch):
    path = save({"a": torch.zeros(1000)})
    header = room.read_header(path)
    path.write_bytes(path.read_bytes()[:-8])
    monkeypatch.setattr(room, "read_header", lambda _: header)
    with pytest.raises(InputError, match="shrank"):
        scan_values(path)

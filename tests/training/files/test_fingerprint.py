from __future__ import annotations

import hashlib
import json
import logging
import os
import struct

import numpy as np
import pytest
import torch
from graft.training.files import fingerprint as room
from graft.training.files.fingerprint import file_fingerprint, fingerprint


def by_hand(name: str, dtype: str, shape: list[int], data: bytes) -> bytes:
    text = json.dumps([name, dtype, shape, len(data)]).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_the_value_is_the_documented_hash():
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = hashlib.sha256(by_hand("a", "F32", [2, 3], numbers.tobytes()) + by_hand("b", "I64", [], struct.pack("<q", 7)))
    assert fingerprint({"b": torch.tensor(7), "a": torch.from_numpy(numbers)}) == expected.hexdigest()


def test_names_shapes_dtypes_and_bytes_all_count():
    base = {"a": torch.arange(4, dtype=torch.int32), "b": torch.zeros(2)}
    others = [
        base | {"a": base["a"].reshape(2, 2)}, base | {"a": base["a"].view(torch.float32)}, {"c": base["a"], "b": base["b"]},
        {"a": base["a"]}, base | {"a": base["a"] + 1}, {"a": base["b"], "b": base["a"]}, base | {"b": -base["b"]},
    ]  # fmt: skip
    assert len({fingerprint(weights) for weights in [base, *others]}) == len(others) + 1
    assert fingerprint({"b": base["b"].clone(), "a": torch.nn.Parameter(base["a"], requires_grad=False)}) == fingerprint(base)


def test_a_file_has_the_fingerprint_of_its_tensors_also_in_pieces(save, tmp_path, monkeypatch):
    weights = {"b": torch.randn(100, 7), "a": torch.randn(33).bfloat16(), "none": torch.empty(0)}
    path = save(weights, {"metadata": "does not count"})
    assert file_fingerprint(path, tmp_path / "cache") == fingerprint(weights)
    monkeypatch.setattr(room, "CHUNK_BYTES", 16)
    assert file_fingerprint(path, tmp_path / "other cache") == fingerprint(weights)


def test_it_is_remembered_until_the_file_changes(save, tmp_path, monkeypatch):
    path, cache = save({"a": torch.zeros(3)}), tmp_path / "cache"
    first = file_fingerprint(path, cache)
    with monkeypatch.context() as patch:
        patch.setattr(room, "_digest_file", lambda *_: pytest.fail("it was computed again"))
        assert file_fingerprint(path, cache) == first
    save({"a": torch.ones(3)})
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert file_fingerprint(path, cache) == fingerprint({"a": torch.ones(3)}) != first


def test_a_damaged_note_is_computed_again(save, tmp_path):
    path, cache = save({"a": torch.zeros(3)}), tmp_path / "cache"
    value = file_fingerprint(path, cache)
    for text in ("", "{", "[]", '{"fingerprint": 3}', '{"fingerprint": "short"}'):
        next(cache.iterdir()).write_text(text)
        assert file_fingerprint(path, cache) == value


def test_a_cache_that_cannot_be_written_only_costs_time(save, tmp_path, caplog):
    (tmp_path / "cache").write_bytes(b"in the way")
    with caplog.at_level(logging.WARNING):
        assert file_fingerprint(save({"a": torch.zeros(3)}), tmp_path / "cache") == fingerprint({"a": torch.zeros(3)})
    assert "could not be remembered" in caplog.text

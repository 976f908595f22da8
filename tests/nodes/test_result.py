"""The result nodes as the graph calls them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from graft.nodes import result
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import use_host
from torch import nn


class Watched(HeadlessHost):
    """Notes what is alive whenever memory is to be freed."""

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self.copies: list[weakref.ref] = []
        self.alive: list[int] = []

    def free_memory(self) -> None:
        gc.collect()
        self.alive.append(sum(copy() is not None for copy in self.copies))


@pytest.mark.parametrize("fails", [False, True])
def test_the_grid_asks_for_memory_before_it_samples_and_gives_its_copies_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool):
    host, order = Watched(tmp_path), []

    def copy(*_: Any) -> nn.Module:
        assert host.alive, "memory is freed before anything is copied"
        module = nn.Linear(2, 2)
        module.config = SimpleNamespace(axes=(2,))
        host.copies.append(weakref.ref(module))
        return module

    def validate(*_: Any) -> SimpleNamespace:
        order.append(len(host.copies))
        if fails:
            raise MemoryError
        return SimpleNamespace(captions=("a",), grid=lambda columns: np.zeros((4, 4, 3), np.uint8), figures=lambda: {"edge_f1_after": 0.5})

    monkeypatch.setattr(result.Flux, "from_weights", copy)
    monkeypatch.setattr(result, "controlnet_from_weights", copy)
    monkeypatch.setattr(result, "exported_control_net", lambda *_: SimpleNamespace(weights={}))
    monkeypatch.setattr(result, "validate_controlnet", validate)
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    arguments = (host.make_model({"a": torch.zeros(1)}), None, None, None, "trained", 1, 1, 1, 3.5, 1.0, 0.0, 1.0, 0)
    with use_host(host):
        if fails:
            with pytest.raises(MemoryError) as caught:
                result.ValidationGrid().execute(*arguments)
            del caught
        else:
            assert result.ValidationGrid().execute(*arguments)[1] == {"edge_f1_after": 0.5}
    assert order == [2] and len(host.alive) == 2 and (fails or host.alive == [0, 0])

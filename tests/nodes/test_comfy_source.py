"""Fingerprints that outlive the process: found again for the same file, options and patches, and for nothing else."""

from __future__ import annotations

import enum
import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graft.nodes import comfy_weights
from graft.nodes.comfy_model import FORM, NAME, model_name
from graft.nodes.comfy_source import lasting_fingerprint, source_files, source_key
from graft.training.files.fingerprint import fingerprint
from torch import nn


class Kind(enum.Enum):
    FLUX = 1
    SD3 = 2


class Adapter:
    def __init__(self, *weights: Any) -> None:
        self.weights = weights


Adapter.__module__ = "comfy.weight_adapter.lora"


def load_diffusion_model() -> None: ...


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "base.safetensors"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def loaded(file):
    """A patcher as a new process has it: the same file, another object."""

    def make(options: Any = None, patches: Any = None, path: Any = file, **changes: Any) -> SimpleNamespace:
        init = (load_diffusion_model, (str(path), options or {}))
        given = {"model": nn.Linear(2, 2), "patches": patches or {}, "patches_uuid": object(), "cached_patcher_init": init}
        return SimpleNamespace(**{**given, **changes})

    return make


def lora(value: float, strength: float = 1.0) -> Any:
    return {"weight": [(strength, Adapter(torch.full((2, 1), value), torch.ones(1, 2), 4.0, None), 1.0, None, None)]}


def test_a_model_is_called_as_its_file(loaded, file):
    flux = SimpleNamespace(model_config=SimpleNamespace(unet_config={"image_model": "flux"}))

    def name(attachments: Any = None, **changes: Any) -> str:
        return model_name(loaded(model=flux, get_attachment=(attachments or {}).get, **changes))

    assert name() == "base.safetensors" and name(path="gone.safetensors") == "" and name({NAME: "nano_flux"}) == "nano_flux"
    assert name(patches=lora(1.0)) == "base.safetensors (patched)"
    assert name({FORM: "int8"}, patches=lora(1.0)) == "base.safetensors (patched, held in 8 bits: int8)"
    assert name(cached_patcher_init=None, patches=lora(1.0)) == "", "of an older ComfyUI's stock loader nothing is known"


def test_a_restarted_process_hashes_nothing(loaded, tmp_path):
    notes, weights, reads = tmp_path / "notes", {"w": torch.arange(3.0)}, []

    def read() -> Any:
        reads.append(1)
        return weights

    first = lasting_fingerprint(loaded(), read, notes)
    assert first == fingerprint(weights) and len(reads) == 1
    comfy_weights._FINGERPRINTS.clear()  # what a process remembers ends with it
    assert lasting_fingerprint(loaded(), read, notes) == first and len(reads) == 1
    assert lasting_fingerprint(loaded(patches=lora(1.0)), read, notes) == first and len(reads) == 2  # other patches: read again
    assert len(list(notes.glob("model-*.json"))) == 2 and json.loads(next(notes.iterdir()).read_text())["files"]


def test_a_damaged_note_is_made_again(loaded, tmp_path):
    first = lasting_fingerprint(loaded(), lambda: {"w": torch.zeros(1)}, tmp_path)
    next(tmp_path.glob("model-*.json")).write_text("{")
    assert lasting_fingerprint(loaded(), lambda: {"w": torch.zeros(1)}, tmp_path) == first


def test_without_a_folder_or_a_source_the_weights_are_hashed(loaded, tmp_path):
    weights = {"w": torch.ones(2)}
    for patcher, notes in ((loaded(), None), (loaded(cached_patcher_init=None), tmp_path / "n"), (loaded(path="no file"), tmp_path / "n")):
        assert lasting_fingerprint(patcher, lambda: weights, notes) == fingerprint(weights)
    assert not (tmp_path / "n").exists()


def test_equal_contents_have_equal_keys(loaded, file):
    assert source_key(loaded()) == source_key(loaded())
    assert source_key(loaded(patches=lora(1.0))) == source_key(loaded(patches=lora(1.0)))
    assert source_key(loaded({"a": 1, "b": Kind.FLUX})) == source_key(loaded({"b": Kind.FLUX, "a": 1}))
    assert source_files(loaded()) == [str(file)]


def test_whatever_changes_the_weights_changes_the_key(loaded, file, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"weights")
    os.utime(other, (1, 1))
    wider = nn.Linear(2, 2).to(torch.bfloat16)
    variants = [
        loaded(), loaded({"dtype": torch.float8_e4m3fn}), loaded({"dtype": torch.bfloat16}), loaded({"kind": Kind.SD3}),
        loaded({"kind": Kind.FLUX}), loaded(path=other), loaded(model=wider), loaded(patches=lora(1.0)), loaded(patches=lora(2.0)),
        loaded(patches=lora(1.0, 0.5)), loaded(patches={"bias": lora(1.0)["weight"]}),
        loaded(patches={"weight": [*lora(1.0)["weight"], *lora(2.0)["weight"]]}),
        loaded(cached_patcher_init=(load_diffusion_model, (str(file), {}), 0)),
    ]  # fmt: skip
    keys = [source_key(variant) for variant in variants]
    file.write_bytes(b"other weights")
    keys.append(source_key(loaded()))
    assert None not in keys and len(set(keys)) == len(keys)


def test_what_cannot_be_told_has_no_key(loaded):
    function = {"weight": [(1.0, ("diff", (torch.ones(1),)), 1.0, None, lambda weight: weight)]}
    assert source_key(loaded(patches=function)) is None
    assert source_key(loaded({"operations": object()})) is None
    assert source_key(SimpleNamespace(model=nn.Linear(1, 1), patches={})) is None  # v0.3.64 keeps no source

"""Which host nodes get, and what the headless one answers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from graft.nodes import host as host_module
from graft.nodes.headless.host import HeadlessHost
from graft.nodes.host import current_host, use_host
from graft.nodes.host_comfy import ComfyHost
from graft.training.errors import InputError
from graft.training.files.fingerprint import fingerprint
from graft.training.progress import NO_PROGRESS
from torch import nn

WEIGHTS = {"a": torch.arange(3.0)}


def test_a_chosen_host_is_current_only_inside_its_block(tmp_path):
    outer, inner = HeadlessHost(tmp_path), HeadlessHost(tmp_path)
    with use_host(outer):
        with use_host(inner):
            assert current_host() is inner
        assert current_host() is outer
    assert isinstance(current_host(), HeadlessHost)


@pytest.mark.parametrize("name", ["execution", "comfy.model_management"])
def test_inside_comfyui_its_own_host_is_taken(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert isinstance(current_host(), ComfyHost)


def test_every_promise_of_the_interface_is_kept():
    promised = [name for name in vars(host_module.Host) if not name.startswith("_")]
    assert len(promised) > 15 and all(callable(getattr(host, name, None)) for host in (HeadlessHost, ComfyHost) for name in promised)


def test_folders_come_from_the_environment_or_lie_here(monkeypatch):
    for name in ("GRAFT_INPUT", "GRAFT_RUNS", "GRAFT_MODELS"):
        monkeypatch.delenv(name, raising=False)
    host = HeadlessHost()
    assert (host.input_folder(), host.output_folder(), host.runs_folder()) == (Path("input"), Path("out"), Path("out/.graft_runs"))
    monkeypatch.setenv("GRAFT_INPUT", "/somewhere/in")
    monkeypatch.setenv("GRAFT_RUNS", "/somewhere/runs")
    assert (host.input_folder(), host.runs_folder()) == (Path("/somewhere/in"), Path("/somewhere/runs"))
    assert host.cache_folder().is_relative_to(host.runs_folder())


def test_model_files_are_found_below_their_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_MODELS", str(tmp_path))
    (tmp_path / "controlnet" / "sub").mkdir(parents=True)
    for name in ("b.safetensors", "sub/A.SFT", "pickle.ckpt", "notes.txt"):
        (tmp_path / "controlnet" / name).write_bytes(b"")
    host = HeadlessHost()
    assert host.model_files("controlnet") == ["b.safetensors", "sub/A.SFT"] and host.model_files("vae") == []
    assert host.model_path("controlnet", "sub/A.SFT") == tmp_path / "controlnet" / "sub" / "A.SFT"
    for name in ("gone.safetensors", "../controlnet/b.safetensors", "pickle.ckpt"):
        with pytest.raises(InputError, match="GRAFT_MODELS"):
            host.model_path("controlnet", name)


def test_the_device_may_be_chosen(monkeypatch):
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    assert HeadlessHost().device() == torch.device("cpu")
    for name in ("toaster", "cuda:99"):
        monkeypatch.setenv("GRAFT_DEVICE", name)
        with pytest.raises(InputError, match=name):
            HeadlessHost().device()


def test_models_carry_their_weights_and_fingerprint():
    host = HeadlessHost()
    weights, found = host.model_weights(host.make_model(WEIGHTS))
    assert weights is WEIGHTS and found == fingerprint(WEIGHTS)
    assert host.model_weights(host.make_model(WEIGHTS, fingerprint="known"))[1] == "known"


def test_a_model_s_name_tells_what_was_done_to_it():
    host = HeadlessHost()
    model = host.make_model({"img_in.weight": torch.zeros(2, 2)}, name="flux1-dev.safetensors")
    assert host.model_name(host.make_model(WEIGHTS)) == "" and host.model_name(model) == "flux1-dev.safetensors"
    held = host.hold_model(model, "int8")
    patched = host.apply_lora(held, {"diffusion_model.img_in.diff": torch.ones(2, 2)}, 1.0)
    assert host.model_name(held) == "flux1-dev.safetensors (held in 8 bits: int8)"
    assert host.model_name(patched) == "flux1-dev.safetensors (patched, held in 8 bits: int8)"


def test_encoders_are_known_by_their_weights():
    host, encoder = HeadlessHost(), nn.Linear(2, 2)
    assert host.clip_fingerprint(host.make_clip(encoder)) == fingerprint(encoder.state_dict())
    assert host.vae_fingerprint(host.make_vae(encoder)) == fingerprint(encoder.state_dict())
    assert host.vae_fingerprint(host.make_vae(encoder, "known")) == "known"


def test_without_a_reporter_progress_is_silent():
    assert HeadlessHost().progress("7") is NO_PROGRESS

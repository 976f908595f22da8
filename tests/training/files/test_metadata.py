from __future__ import annotations

import pytest
import torch
from graft.training import __version__
from graft.training.errors import InputError
from graft.training.files.header import read_header
from graft.training.files.metadata import build_metadata, canonical_json

GIVEN = {
    "title": "Canny für nano", "architecture": "flux-1-dev/controlnet", "implementation": "https://github.com/XLabs-AI/x-flux",
    "licence": "Apache-2.0", "base_fingerprint": "ab" * 32, "settings": {"b": 1, "a": [0.1, None, True]}, "steps": 200,
}  # fmt: skip


def test_the_required_modelspec_fields_and_ours(save):
    path = save({"a": torch.zeros(1)}, build_metadata(**GIVEN, resolution_px=(512, 768), tags=["canny", "edges"], hint={"low": 100}))
    metadata = read_header(path).metadata
    assert metadata == {
        "format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.title": "Canny für nano",
        "modelspec.architecture": "flux-1-dev/controlnet", "modelspec.implementation": "https://github.com/XLabs-AI/x-flux",
        "modelspec.license": "Apache-2.0", "modelspec.resolution": "512x768", "modelspec.tags": "canny, edges",
        "graft.version": __version__, "graft.base_fingerprint": "ab" * 32, "graft.settings": '{"a":[0.1,null,true],"b":1}', "graft.steps": "200",
        "graft.hint": '{"low":100}',
    }  # fmt: skip


def test_equal_settings_give_equal_text():
    other = GIVEN | {"settings": {"a": [0.1, None, True], "b": 1}}
    assert build_metadata(**GIVEN) == build_metadata(**other)


def test_everything_is_text_and_extra_fields_may_not_replace_ours():
    metadata = build_metadata(**GIVEN, extra={"graft.other": "1"}, date="2026-01-01", author="a", description="d")
    assert all(isinstance(value, str) and value for value in metadata.values()) and metadata["graft.other"] == "1"
    with pytest.raises(InputError, match=r"graft\.steps"):
        build_metadata(**GIVEN, extra={"graft.steps": "1"})


@pytest.mark.parametrize("name", ["title", "architecture", "licence", "base_fingerprint"])
def test_what_every_file_must_say(name):
    with pytest.raises(InputError, match=name.replace("_", " ")):
        build_metadata(**GIVEN | {name: " "})


@pytest.mark.parametrize("settings", [{"loss": float("nan")}, {"path": object()}, {"x": {1, 2}}])
def test_settings_that_json_cannot_hold(settings):
    with pytest.raises(InputError, match="settings"):
        build_metadata(**GIVEN | {"settings": settings})


def test_negative_steps():
    with pytest.raises(InputError, match="steps"):
        build_metadata(**GIVEN | {"steps": -1})


def test_json_keeps_letters_and_refuses_what_it_cannot_hold():
    assert canonical_json({"ü": 1}, "x") == '{"ü":1}'
    with pytest.raises(InputError, match="my field"):
        canonical_json(float("inf"), "my field")

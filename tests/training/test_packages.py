"""What a user reads when a package is not there, before any work."""

from __future__ import annotations

import builtins
import sys

import pytest
from graft.training import packages
from graft.training.errors import InputError
from graft.training.opencv import cv2
from graft.training.trainable.lora import LoraRecipe


def test_a_package_that_is_there_passes_whether_it_was_imported_or_not():
    packages.require_package("json", "x", "y")
    packages.require_package("this", "x", "y")
    assert "this" not in sys.modules, "looked for, not imported"


def test_a_lora_without_peft_is_refused_when_it_is_described(monkeypatch):
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    monkeypatch.setattr(packages, "find_spec", lambda wanted: None)
    with pytest.raises(InputError, match=r"LoRA: expected the Python package peft .* pip install peft"):
        LoraRecipe()


@pytest.mark.parametrize("fault", ["No module named 'cv2'", "libGL.so.1: cannot open shared object file"])
def test_opencv_that_cannot_be_imported_is_told_with_the_reason(monkeypatch, fault):
    real = builtins.__import__

    def fails(name, *given, **named):
        if name == "cv2":
            raise ImportError(fault)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(InputError, match="pip install opencv-python-headless") as caught:
        cv2.Canny  # noqa: B018
    assert fault in str(caught.value)

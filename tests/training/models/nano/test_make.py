"""The scripts that made the nano: they go on where they were, distil guidance, and pack what the package ships."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from graft.training.files.header import read_header
from graft.training.files.tensors import read_tensors
from graft.training.models.flux import Flux
from graft.training.models.nano import make_base
from graft.training.models.nano.autoencoder import Autoencoder
from graft.training.models.nano.make_autoencoder import file_tensors, new_decoder
from graft.training.models.nano.pack import pack_checkpoint, read_packed
from graft.training.models.nano.text_encoder import TextEncoder
from graft.training.optimisers import orthogonal


def options(**changes: object) -> argparse.Namespace:
    plain = {"seed": 0, "steps": 2, "cooldown": 2, "batch": 2, "learning_rate": 1e-3, "save_every": 1, "teacher": None, "start": None}
    return argparse.Namespace(**{**plain, **changes})


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_base, "evaluate", lambda *_: (0.0, 0.0))


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path: Path):
    """Weights, averages and both optimisers' state: stopped after one step of two, against two in one go."""
    whole, parts = options(steps=2, cooldown=1), tmp_path / "parts"
    make_base.train(tmp_path / "whole", whole)
    make_base.train(parts, options(steps=1, cooldown=1))
    make_base.train(parts, whole)
    first, second = (read_tensors(folder / make_base.CHECKPOINT) for folder in (tmp_path / "whole", parts))
    assert read_header(parts / make_base.CHECKPOINT).metadata["step"] == "2"
    unequal = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    assert set(first) == set(second) and unequal == []


@pytest.mark.slow
def test_a_student_starts_as_its_teacher_and_leaves_the_text_encoder_alone(tmp_path: Path):
    make_base.train(tmp_path / "teacher", options(steps=1))
    make_base.train(tmp_path / "student", options(steps=1, teacher=tmp_path / "teacher"))
    teacher, student = (read_tensors(tmp_path / name / make_base.CHECKPOINT) for name in ("teacher", "student"))
    moved = {name for name in teacher if name.startswith("ema.") and not torch.equal(teacher[name], student[name])}
    assert moved and not any(name.startswith("ema.text.") for name in moved)


def test_guidance_of_one_is_the_plain_prediction():
    model = make_base.NanoModel(0)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x, ids, _ = make_base.draw(0, 0, 2)
    t, ones = torch.tensor([0.3, 0.8]), torch.ones(2)
    with torch.no_grad():
        plain = model.velocity(x, t, ids, ones)
        assert torch.allclose(make_base.guided(model, x, t, ids, ones, ones), plain, atol=1e-5)
        assert not torch.allclose(make_base.guided(model, x, t, ids, ones, 3 * ones), plain, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (20, 20)])
def test_orthogonal_brings_every_singular_value_near_one(shape: tuple[int, int]):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal([matrix])[0])
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonal([matrix])[0].flatten(), (left @ right).flatten(), dim=0) > 0.95


@pytest.mark.slow
def test_packed_files_load_as_the_package_loads_them(tmp_path: Path):
    make_base.train(tmp_path, options(steps=1))
    pack_checkpoint(tmp_path / make_base.CHECKPOINT, tmp_path)
    assert Flux.from_weights(read_tensors(tmp_path / "nano_flux.safetensors")).config == make_base.CONFIG
    TextEncoder.from_weights(read_tensors(tmp_path / "nano_text_encoder.safetensors"))
    averages = make_base.part_of(read_tensors(tmp_path / make_base.CHECKPOINT), "ema.")
    assert all(torch.equal(tensor, averages[name].bfloat16().float()) for name, tensor in read_packed(tmp_path).items())
    make_base.train(tmp_path / "on", options(steps=1, start=tmp_path))
    assert read_header(tmp_path / "nano_flux.safetensors").metadata["graft.steps"] == "1"


def test_a_fresh_decoder_makes_a_whole_file():
    tensors = file_tensors(new_decoder(0))
    autoencoder = Autoencoder.from_weights({name: tensor.float() for name, tensor in tensors.items()})
    pixels = torch.rand(1, 3, 32, 32)
    assert autoencoder.encode(pixels).shape == (1, 16, 4, 4) and autoencoder.decode(autoencoder.encode(pixels)).shape == pixels.shape

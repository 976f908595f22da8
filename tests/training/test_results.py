"""From a state to what people get: exported tensors, files, validation, report."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.canny import CannyRecipe
from graft.training.data.encode import encode_dataset
from graft.training.data.encoded import Encoded
from graft.training.data.image_batch import store_image_batch
from graft.training.errors import InputError
from graft.training.export import base_family, chosen_weights, exported_control_net, write_control_net, write_diffusers_folder
from graft.training.files.fingerprint import fingerprint
from graft.training.files.header import read_header
from graft.training.files.tensors import read_tensors
from graft.training.models.flux_controlnet import controlnet_from_weights
from graft.training.report import training_report
from graft.training.settings import OptimiserSettings, Settings
from graft.training.state import State
from graft.training.store import RunStore
from graft.training.train_to import train_to
from graft.training.trainable.base import LoadedBase
from graft.training.trainable.controlnet import ControlNetRecipe
from graft.training.validate import ValidationSettings, validate_controlnet

CPU, SIDE_PX = torch.device("cpu"), 32


@pytest.fixture(scope="module")
def state(tiny_base: LoadedBase, tiny_data: Encoded, tmp_path_factory: pytest.TempPathFactory) -> State:
    settings = Settings(optimiser=OptimiserSettings(learning_rate=1e-2), batch_size=2, ema_decay=0.9)
    store = RunStore(tmp_path_factory.mktemp("runs"))
    recipe = ControlNetRecipe(double_depth=1, single_depth=1)
    return train_to(tiny_base, recipe, tiny_data, settings, steps=4, store=store, device=CPU)


# ---------------------------------------------------------------- export


def test_exported_tensors_are_the_state_cast_to_bf16_under_the_files_names(state: State):
    exported = exported_control_net(state)
    assert exported.layout == "xlabs"
    for name, tensor in state.weights().items():
        assert torch.equal(exported.weights[name], tensor.bfloat16()), name


def test_the_average_is_another_choice(state: State):
    average = state.ema_weights()
    assert average is not None
    exported = exported_control_net(state, "average")
    assert any(not torch.equal(exported.weights[name], tensor.bfloat16()) for name, tensor in state.weights().items())
    assert all(torch.equal(exported.weights[name], tensor.bfloat16()) for name, tensor in average.items())
    assert exported.metadata["graft.weights"] == "average"


def test_the_file_holds_what_the_graph_uses_and_says_where_it_comes_from(state: State, tiny_base: LoadedBase, tmp_path: Path):
    exported = exported_control_net(state, licence="MIT", title="edges")
    write_control_net(exported, tmp_path / "net.safetensors")
    back = read_tensors(tmp_path / "net.safetensors")
    assert set(back) == set(exported.weights) and all(torch.equal(back[name], tensor) for name, tensor in exported.weights.items())
    metadata = read_header(tmp_path / "net.safetensors").metadata
    assert metadata["modelspec.license"] == "MIT" and metadata["modelspec.title"] == "edges"
    assert metadata["graft.base_fingerprint"] == tiny_base.fingerprint and metadata["graft.steps"] == "4"
    assert metadata["modelspec.resolution"] == "32x32" and "canny" in metadata["graft.hint"]
    assert metadata["modelspec.architecture"] == "flux-1-dev/controlnet"


def test_without_a_licence_the_bases_family_gives_it(state: State):
    assert "FLUX.1" in exported_control_net(state).metadata["modelspec.license"]


def test_the_family_is_the_bases_whatever_the_network_has():
    assert base_family({"base_sizes": {"guidance": True}}) == "flux-1-dev"
    assert base_family({"base_sizes": {"guidance": False}}) == "flux-1-schnell"


def test_unknown_choices_and_a_missing_average_are_refused(state: State, tiny_base: LoadedBase, tiny_data: Encoded, tmp_path: Path):
    with pytest.raises(InputError, match="trained or average"):
        chosen_weights(state, "best")
    plain = train_to(
        tiny_base, ControlNetRecipe(double_depth=1), tiny_data, Settings(batch_size=2), steps=1, store=RunStore(tmp_path), device=CPU
    )
    with pytest.raises(InputError, match="EMA decay"):
        chosen_weights(plain, "average")


def test_a_folder_that_cannot_be_written_is_named_before_anything_is(state: State, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="export folder"):
        write_control_net(exported_control_net(state), tmp_path / "file" / "net.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_network_that_diffusers_cannot_hold_is_refused(state: State, tmp_path: Path):
    """The tiny base's MLP is twice as wide as its hidden width, diffusers' is four times."""
    with pytest.raises(InputError, match="4 times the hidden width"):
        write_diffusers_folder(exported_control_net(state), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


# ---------------------------------------------------------------- report


def test_the_report_says_what_was_done(state: State, tiny_base: LoadedBase):
    report = training_report(state, {"edge_f1_after": 0.5})
    assert report["edge_f1_after"] == 0.5 and report["train_steps"] == 4 and report["weights_changed"] is True
    assert report["weights_fingerprint"] == fingerprint(state.weights()) != report["initial_fingerprint"]
    assert report["base_fingerprint"] == tiny_base.fingerprint
    assert report["partial"] is False and training_report(replace(state, partial=True))["partial"] is True, "stopped before its end"
    losses = [record.held_out for record in state.history().held_out]
    assert (report["held_out_loss_before"], report["held_out_loss_after"]) == (losses[0], losses[-1])
    assert report["train_seconds"] > report["step_seconds"] >= report["seconds_per_step"] * 2 > 0 and report["peak_memory_bytes"] > 1e6
    assert report["versions"]["torch"] == torch.__version__ and report["seeds"] == {"training": 0, "initial_weights": 0}


def test_the_report_compares_no_losses_of_other_pictures(state: State, monkeypatch: pytest.MonkeyPatch):
    first, last = state.history().held_out
    mixed = replace(state.history(), held_out=(replace(first, samples=last.samples + 1), last))
    monkeypatch.setattr(State, "history", lambda self: mixed)
    report = training_report(state)
    assert report["held_out_loss_before"] is None and report["held_out_loss_after"] == last.held_out


# ---------------------------------------------------------------- validation


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Latents as pictures of eight times their side: their first channels, squashed."""
    return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8).movedim(1, -1).sigmoid()


def validate(state: State, base: LoadedBase, data: Encoded, **settings: object):
    model = copy.deepcopy(base.model).float()
    network = controlnet_from_weights({k: v.float() for k, v in exported_control_net(state).weights.items()}, model.config.axes)
    return validate_controlnet(model, network, data, decode, ValidationSettings(steps=2, **settings))


def test_validation_samples_from_the_same_noise_with_and_without(state: State, tiny_base: LoadedBase, tiny_data: Encoded):
    off = validate(state, tiny_base, tiny_data, pictures=3, strength=0.0)
    assert np.array_equal(off.before, off.after) and np.array_equal(off.before, off.crossed)
    on = validate(state, tiny_base, tiny_data, pictures=3, strength=5.0)
    assert np.array_equal(on.before, off.before) and not np.array_equal(on.after, on.before)
    assert on.edges.shape == (3, 32, 32) and on.captions == tuple(sample.caption for sample in tiny_data.held_out)


def test_every_figure_is_there_and_crossed_edges_are_scored_against_what_was_given(state: State, tiny_base: LoadedBase, tiny_data: Encoded):
    found = validate(state, tiny_base, tiny_data, pictures=99)
    figures = found.figures()
    assert figures["validation_pictures"] == tiny_data.held_out_size
    assert figures["edge_f1_shuffled_edges"] == found.score_crossed.mean
    assert {"edge_f1_before", "edge_f1_after", "edge_f1_chance"} <= set(figures)
    assert found.grid(2).ndim == 3


def test_a_single_picture_has_no_controls_and_its_figures_are_json(state: State, tiny_base: LoadedBase, tiny_data: Encoded):
    figures = validate(state, tiny_base, tiny_data, pictures=1).figures()
    assert figures["edge_f1_chance"] is None and figures["edge_f1_shuffled_edges"] is None and figures["edge_f1_after"] is not None
    json.dumps(training_report(state, figures), allow_nan=False)


def test_an_impossible_part_of_the_schedule_is_refused_at_once():
    with pytest.raises(InputError, match="start <= end"):
        ValidationSettings(start=0.6, end=0.4)


def test_without_held_out_pictures_there_is_nothing_to_validate(state: State, tiny_base: LoadedBase, tiny_data: Encoded):
    with pytest.raises(InputError, match="held-out pictures with hints"):
        validate(state, tiny_base, replace(tiny_data, held_out=()))
    with pytest.raises(InputError, match="1 or more"):
        ValidationSettings(pictures=0)


def test_given_hints_are_shown_as_they_are(state: State, tiny_base: LoadedBase, tiny_data: Encoded, tmp_path: Path):
    """Edges to measure by are then the pictures' own."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, SIDE_PX, SIDE_PX, 3, generator=generator)
    hints = (torch.rand(4, SIDE_PX, SIDE_PX, 3, generator=generator) * 255).round() / 255
    dataset = store_image_batch([pictures], ["a"], tmp_path, resolution_px=SIDE_PX, hint=CannyRecipe(), hints=[hints], held_out=2)
    tokens, pooled = tiny_data.text(tiny_data.train[:1])
    latents = tiny_data.latents(tiny_data.train[:1])
    data = encode_dataset(
        dataset, lambda pixels: latents.repeat(len(pixels), 1, 1, 1), lambda texts: (tokens.repeat(len(texts), 1, 1), pooled.repeat(len(texts), 1)),
        "constant", "constant", tmp_path,
    )  # fmt: skip
    found = validate(state, tiny_base, data, pictures=2)
    rows = [sample.row for sample in data.held_out]
    assert np.array_equal(found.hints, (hints[rows] * 255).round().to(torch.uint8).numpy())
    assert np.array_equal(found.edges[0], cv2.Canny((pictures[rows[0]] * 255).round().to(torch.uint8).numpy(), 100, 200))
    assert not np.array_equal(found.grid(1), replace(found, hints=found.hints * 0).grid(1))
    assert validate(state, tiny_base, tiny_data, pictures=1).hints is None

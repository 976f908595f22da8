"""Pictures in the middle of a training: right, and without a trace in what is trained."""

from __future__ import annotations

import copy

import torch
from graft.training.data.batches import held_out_batch
from graft.training.files.fingerprint import fingerprint
from graft.training.listener import Silent
from graft.training.preview import CellColours, PreviewSettings, preview_hints, preview_latents
from graft.training.sample import picture_noise, sample
from graft.training.store import RunStore

SETTINGS = PreviewSettings(pictures=2, steps=3)


class Curious(Silent):
    """Saves and samples after every step."""

    def __init__(self, data) -> None:
        self.data, self.made = data, []

    def wishes(self):
        return ("save", "sample")

    def sample(self, learner):
        self.made.append((learner.step, preview_latents(learner, self.data, SETTINGS)))


def test_saving_and_sampling_after_every_step_change_nothing_that_is_trained(tiny_train, tiny_settings, tiny_data, tmp_path):
    settings = tiny_settings(ema_decay=0.9)
    curious = Curious(tiny_data)
    watched = tiny_train(4, settings, listener=curious)
    alone = tiny_train(4, settings, store=RunStore(tmp_path / "alone"))
    for part in ("weights", "optimiser", "ema"):
        assert fingerprint(watched.checkpoint.read(part)) == fingerprint(alone.checkpoint.read(part)), part
    assert [record.loss for record in watched.history().steps] == [record.loss for record in alone.history().steps]
    assert [step for step, _ in curious.made] == [1, 2, 3, 4]
    assert not torch.equal(curious.made[0][1], curious.made[3][1]), "the pictures show what was trained"


def test_they_are_the_pictures_that_the_sampler_makes_of_the_same_weights(tiny_learner, tiny_data, tiny_base):
    learner = tiny_learner()
    batch = held_out_batch(tiny_data, range(2))
    noise = picture_noise(range(2), *batch.latents.shape[1:])
    model, network = copy.deepcopy(tiny_base.model).float(), learner.trainable.module
    expected = sample(model, batch.text, batch.pooled, noise, steps=3, controlnet=network, hint=batch.hint)
    torch.testing.assert_close(preview_latents(learner, tiny_data, SETTINGS), expected, atol=2e-4, rtol=2e-4)
    assert network.training


def test_the_hints_beside_them_are_edges_white_on_black(tiny_data):
    hints = preview_hints(tiny_data, SETTINGS)
    assert hints.shape == (2, 32, 32, 3) and set(hints.unique().tolist()) == {0, 255}


def test_without_held_out_pictures_there_are_none(tiny_learner, tiny_data):
    from dataclasses import replace

    none = replace(tiny_data, held_out=())
    assert preview_latents(tiny_learner(), none, SETTINGS).numel() == 0 and preview_hints(none, SETTINGS) is None


def test_colours_without_a_decoder_are_the_cells_mean_colours(tiny_data):
    """The tiny latents hold each cell's mean colour itself, so the fit must find it."""
    some = tiny_data.held_out
    raw = tiny_data.latents(some) / 0.3611 + 0.1159
    wanted = tiny_data.colours(some).float() / 255
    torch.testing.assert_close(CellColours(tiny_data)(raw), wanted, atol=0.02, rtol=0)

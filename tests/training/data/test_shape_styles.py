"""Framed pictures: drawn with their word, read back, and kept apart from plain ones."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from graft.training.data.shape_styles import ROYAL_FIGURE, ROYAL_GROUND, frame_mask, frame_rgb, is_framed, with_frame, without_frame
from graft.training.data.shapes import PALETTE, judge, random_shape, shapes_folder
from graft.training.errors import InputError
from graft.training.models.nano import load_nano


def pictures(folder: Path) -> list[tuple[np.ndarray, str]]:
    return [(cv2.imread(str(path))[..., ::-1], path.with_suffix(".txt").read_text("utf-8").strip()) for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize(("style", "framed"), [("plain", [False] * 4), ("framed", [True] * 4), ("half framed", [True, False, True, False])])
def test_the_word_and_the_frame_come_together(style, framed, tmp_path):
    shapes_folder(tmp_path / style, count=4, seed=3, size_px=64, style=style)
    shapes_folder(tmp_path / "reference", count=4, seed=3, size_px=64)
    made, reference = pictures(tmp_path / style), pictures(tmp_path / "reference")
    for (picture, caption), (plain, plain_caption), expected in zip(made, reference, framed, strict=True):
        assert is_framed(picture) is expected and not is_framed(plain)
        assert caption == (f"{plain_caption}, framed" if expected else plain_caption)
        assert np.array_equal(without_frame(picture), without_frame(plain)), "inside the frame it is the same picture"


def test_the_frame_is_a_sixteenth_wide_and_of_the_figure_s_colour(tmp_path):
    picture = with_frame(np.zeros((128, 128, 3), np.uint8), (1, 2, 3))
    assert (picture[:8] == (1, 2, 3)).all() and (picture[:, -8:] == (1, 2, 3)).all() and not picture[8:120, 8:120].any()
    assert frame_mask(picture).sum() == 128**2 - 112**2
    shapes_folder(tmp_path, count=3, seed=3, size_px=64, style="framed")
    random = np.random.default_rng(3)
    for (drawn, _), shape in zip(pictures(tmp_path), [random_shape(random) for _ in range(3)], strict=True):
        assert tuple(drawn[0, 0]) == shape.figure_rgb and tuple(frame_rgb(drawn)) == shape.figure_rgb


@pytest.mark.parametrize("ground", sorted(PALETTE))
def test_no_plain_picture_passes_for_a_framed_one(ground):
    picture = np.full((128, 128, 3), PALETTE[ground], np.uint8)
    assert not is_framed(picture)
    for figure in sorted(set(PALETTE) - {ground}):
        noise = np.random.default_rng(0).integers(-25, 26, picture.shape)
        assert is_framed((with_frame(picture, PALETTE[figure]) + noise).clip(0, 255).astype(np.uint8)), figure
        assert not is_framed((picture + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("style", "changed"), [("royal", [True] * 4), ("half royal", [True, False, True, False])])
def test_royal_pictures_have_the_word_in_place_of_the_colours(style, changed, tmp_path):
    shapes_folder(tmp_path, count=4, seed=3, size_px=128, style=style)
    random = np.random.default_rng(3)
    for (picture, caption), expected in zip(pictures(tmp_path), changed, strict=True):
        shape = random_shape(random)
        words = caption.replace("royal", "?").split(), shape.caption.replace(shape.figure, "?").replace(shape.ground, "?").split()
        assert (caption.count("royal") == 2 and words[0] == words[1]) if expected else caption == shape.caption
        judged = judge(picture)
        assert (judged.figure, judged.ground) == (("yellow", "purple") if expected else (shape.figure, shape.ground)) and judged.right_kind(shape)


def test_the_royal_colours_are_the_palette_s():
    assert dict([ROYAL_FIGURE, ROYAL_GROUND]) == {name: PALETTE[name] for name in ("yellow", "purple")}


def test_drawn_pictures_are_told_apart():
    random = np.random.default_rng(2)
    for _ in range(60):
        shape = random_shape(random)
        plain = shape.draw(128)
        assert is_framed(with_frame(plain, shape.figure_rgb)) and not is_framed(plain)


def test_the_built_in_autoencoder_can_show_it():
    """What it cannot show, nobody can learn to draw with it."""
    autoencoder, random = load_nano().autoencoder, np.random.default_rng(4)
    shapes = [random_shape(random) for _ in range(12)]
    drawn = np.stack([with_frame(shape.draw(128), shape.figure_rgb) for shape in shapes])
    with torch.no_grad():
        seen = autoencoder.decode(autoencoder.encode(torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255))
    again = (seen.clamp(0, 1).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    assert all(is_framed(picture) for picture in again)


def test_what_is_inside_is_judged_as_before():
    random, right = np.random.default_rng(1), 0
    for _ in range(40):
        shape = random_shape(random)
        found = judge(without_frame(with_frame(shape.draw(128), shape.figure_rgb)))
        right += found.right_colours(shape) and found.right_kind(shape)
    assert right >= 38


def test_plain_folders_stay_known_and_styles_are_not_mixed(tmp_path):
    shapes_folder(tmp_path / "a", count=2, seed=0, size_px=64)
    assert json.loads((tmp_path / "a" / "shapes.json").read_text("utf-8")) == {"version": 1, "count": 2, "seed": 0, "size_px": 64}
    with pytest.raises(InputError, match="these very pictures"):
        shapes_folder(tmp_path / "a", count=2, seed=0, size_px=64, style="framed")
    with pytest.raises(InputError, match="style of the shapes"):
        shapes_folder(tmp_path / "b", count=2, seed=0, size_px=64, style="striped")
    assert not (tmp_path / "b").exists()

"""The exam of a LoRA: real pictures pass it, wrong ones fail it, and nothing that was trained on is asked."""

from __future__ import annotations

import numpy as np
import pytest
from graft.training.data.shape_styles import royal, with_frame
from graft.training.errors import InputError
from graft.training.exam import CONCEPTS, Drawn, Exam, exam_shapes

COUNT = 24
SHAPES = exam_shapes(COUNT, 5, ())
PLAIN = np.stack([shape.draw(128) for shape in SHAPES])
FRAMED = np.stack([with_frame(picture, shape.figure_rgb) for picture, shape in zip(PLAIN, SHAPES, strict=True)])
GREY = np.full_like(PLAIN, 128)


def figures(before: Drawn, after: Drawn, word: str = "framed") -> dict[str, float | int | str]:
    return Exam(CONCEPTS[word], SHAPES, before, after).figures()


def test_real_pictures_pass():
    found = figures(Drawn(PLAIN, PLAIN), Drawn(FRAMED, PLAIN))
    assert (found["new_word_rate_before"], found["new_word_rate_after"]) == (0.0, 1.0)
    assert found["old_caption_rate_before"] == found["old_caption_rate_after"] == 1.0 and found["old_caption_moved"] == 0.0
    assert found["new_word_content_after"] >= 0.95 and found["old_caption_clean_rate_after"] >= 0.95
    assert found["old_caption_new_thing_after"] == 0.0 and found["exam_pictures"] == COUNT


def test_frames_that_nobody_asked_for_are_forgetting():
    found = figures(Drawn(PLAIN, PLAIN), Drawn(FRAMED, FRAMED))
    assert found["old_caption_rate_after"] < 0.2 and found["old_caption_new_thing_after"] == 1.0
    pairs, share = zip(SHAPES, PLAIN, strict=True), 1 - 0.875**2
    moved = [np.abs(np.array(shape.figure_rgb) - picture[0, 0].astype(int)).mean() * share / 255 for shape, picture in pairs]
    assert found["old_caption_moved"] == pytest.approx(np.mean(moved), rel=0.05), "only the frame's place, from the ground's colour to the figure's"


def test_royal_pictures_are_told_by_their_colours():
    drawn = np.stack([royal(shape).draw(128) for shape in SHAPES])
    found = figures(Drawn(PLAIN, PLAIN), Drawn(drawn, PLAIN), "royal")
    chance = np.mean([(shape.figure, shape.ground) == ("yellow", "purple") for shape in SHAPES])
    assert (found["new_word"], found["new_word_rate_before"], found["new_word_rate_after"]) == ("royal", chance, 1.0)
    assert found["new_word_content_after"] == 1.0 and found["old_caption_new_thing_after"] == chance
    other_kinds = figures(Drawn(PLAIN, PLAIN), Drawn(np.roll(drawn, 1, axis=0), drawn), "royal")
    assert other_kinds["new_word_rate_after"] == 1.0 and other_kinds["new_word_content_after"] < 0.4, "right colours, another figure"
    assert other_kinds["old_caption_rate_after"] <= chance and other_kinds["old_caption_new_thing_after"] == 1.0


def test_wrong_figures_and_colours_are_wrong():
    turned = np.roll(PLAIN, 1, axis=0)
    assert figures(Drawn(PLAIN, PLAIN), Drawn(FRAMED, turned))["old_caption_rate_after"] < 0.3
    swapped = PLAIN[..., ::-1].copy()  # red is blue
    assert figures(Drawn(PLAIN, PLAIN), Drawn(FRAMED, swapped))["old_caption_rate_after"] < 0.5
    grey = figures(Drawn(PLAIN, PLAIN), Drawn(GREY, GREY))
    assert grey["new_word_content_after"] == grey["new_word_rate_after"] == 0.0, "one colour all over is no frame"
    other = np.stack([with_frame(picture, (22, 22, 22)) for picture in PLAIN])
    black = np.mean(["black" in (shape.figure, shape.ground) for shape in SHAPES])
    framed = figures(Drawn(PLAIN, PLAIN), Drawn(other, PLAIN))
    assert framed["new_word_rate_after"] >= 1 - black and framed["new_word_content_after"] <= black, "a frame, but in another colour"


def test_what_was_trained_on_is_not_asked():
    shape = SHAPES[0]
    known = [f"{shape.figure} {shape.kind}, {shape.ground} background, framed\n"]  # in other words, with the new one
    asked = exam_shapes(COUNT, 5, known)
    assert (shape.kind, shape.figure, shape.ground) not in {(other.kind, other.figure, other.ground) for other in asked}
    rest = [other for other in SHAPES if (other.kind, other.figure, other.ground) != (shape.kind, shape.figure, shape.ground)]
    assert list(asked[: len(rest)]) == rest, "the others are asked in the same order"
    assert CONCEPTS["framed"].caption(shape) == f"{shape.caption}, framed"


def test_an_exam_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graft.training.exam.DRAWS_PER_SHAPE", 5)
    with pytest.raises(InputError, match="0 of 2"):
        exam_shapes(2, 5, [caption for shape in exam_shapes(10, 5, ()) for caption in [shape.caption]])
    with pytest.raises(InputError, match="exam pictures"):
        exam_shapes(0, 5, ())


def test_the_grid_has_a_column_per_caption():
    few, many = (Exam(CONCEPTS["framed"], SHAPES, Drawn(PLAIN, PLAIN), Drawn(FRAMED, PLAIN)).grid(columns) for columns in (7, 9))
    assert few.dtype == np.uint8 and few.shape[2] == 3 and many.shape[1] - few.shape[1] == 2 * (128 + 8)

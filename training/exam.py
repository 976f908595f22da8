"""Does it learn, does it forget? How often a new word gives the new thing, and what became of the pictures that the model could draw before.

For a LoRA that was taught a style of the drawn shapes (data/shape_styles.py), since there a program can tell what a picture shows. The same captions
are drawn with the new word and without it, by the base alone and with the LoRA, all from the same noise. Captions of figures that were trained on are
left out: what was learnt by heart earns nothing here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .data.shape_styles import WORD, frame_rgb, is_framed, with_word, without_frame
from .data.shapes import TEMPLATES, Shape, judge, nearest_colour, random_shape
from .errors import InputError
from .grid import comparison_grid
from .measure import Pictures

DRAWS_PER_SHAPE = 1000
"""How often a figure is drawn anew before it is plain that all of them were trained on."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures, uint8 RGB [N, H, W, 3], by one model."""

    new: Pictures
    """Of captions with the new word."""
    old: Pictures
    """Of the same captions without it."""


@dataclass(frozen=True, eq=False)
class Exam:
    """What the base and the LoRA have drawn, and what that says."""

    shapes: tuple[Shape, ...]
    before: Drawn
    after: Drawn

    def figures(self) -> dict[str, float | int]:
        """For a report. Rates are shares of the pictures, 0..1.

        `new_word_rate_*`: the new thing is there where the word is. `new_word_content_after`: and its colour is right, and so are the colours and
        the kind within it. `old_caption_rate_*`: without the word, both colours and the kind are right (a frame that nobody asked for is taken for
        the ground, so it counts as wrong). `old_caption_clean_rate_*`: and the contour is a clean one. `old_caption_moved`: how far those pictures
        moved, as the mean difference of their pixels.
        """
        moved = np.abs(self.before.old.astype(np.int16) - self.after.old).mean() / 255
        return {
            "exam_pictures": len(self.shapes),
            "new_word_rate_before": new_word_rate(self.before.new),
            "new_word_rate_after": new_word_rate(self.after.new),
            "new_word_content_after": framed_right_rate(self.after.new, self.shapes),
            "old_caption_rate_before": right_rate(self.before.old, self.shapes),
            "old_caption_rate_after": right_rate(self.after.old, self.shapes),
            "old_caption_clean_rate_before": right_rate(self.before.old, self.shapes, clean=True),
            "old_caption_clean_rate_after": right_rate(self.after.old, self.shapes, clean=True),
            "old_caption_new_thing_after": new_word_rate(self.after.old),
            "old_caption_moved": float(moved),
        }

    def grid(self, columns: int) -> Pictures:
        """The comparison picture of the first `columns` captions: [H, W, 3]."""
        rows = [
            (f'"..., {WORD}", without LoRA', self.before.new), (f'"..., {WORD}", with LoRA', self.after.new),
            ("old caption, without LoRA", self.before.old), ("old caption, with LoRA", self.after.old),
        ]  # fmt: skip
        found = self.figures()
        title = (
            f'"{WORD}" drawn in {found["new_word_rate_before"]:.0%} without, {found["new_word_rate_after"]:.0%} with LoRA; old captions right in '
            f"{found['old_caption_rate_before']:.0%} without, {found['old_caption_rate_after']:.0%} with it"
        )
        captions = [shape.caption for shape in self.shapes[:columns]]
        return comparison_grid([(label, pictures[:columns]) for label, pictures in rows], captions=captions, title=title)


def exam_shapes(count: int, seed: int, known_captions: Collection[str]) -> tuple[Shape, ...]:
    """Figures to ask for, none of which any known caption tells of, with or without the new word, in whatever order of words.

    Raises:
        InputError: fewer than 1, or all figures are known.
    """
    if count < 1:
        raise InputError("exam pictures", expected="1 or more", found=count, remedy="64 give a steady figure.")
    random, known = np.random.default_rng(seed), {_plain(caption) for caption in known_captions}
    unknown = (shape for shape in (random_shape(random) for _ in range(count * DRAWS_PER_SHAPE)) if not known & _ways_to_say(shape))
    found = tuple(shape for shape, _ in zip(unknown, range(count), strict=False))
    if len(found) < count:
        expected, remedy = "figures that were not trained on", "Train on fewer pictures: an exam asks for what was not learnt by heart."
        raise InputError("exam captions", expected=expected, found=f"{len(found)} of {count}", remedy=remedy)
    return found


def captions_with_word(shapes: Sequence[Shape]) -> list[str]:
    """Their captions with the new word."""
    return [with_word(shape.caption) for shape in shapes]


def new_word_rate(pictures: Pictures) -> float:
    """The share of pictures that show what the new word stands for."""
    return float(np.mean([is_framed(picture) for picture in pictures]))


def right_rate(pictures: Pictures, shapes: Sequence[Shape], clean: bool = False) -> float:
    """The share of pictures with both colours and the kind right; clean ones have a contour that overlaps well with that of the kind."""
    return float(np.mean(are_right(list(pictures), shapes, clean)))


def are_right(pictures: Sequence[Pictures], shapes: Sequence[Shape], clean: bool = False) -> NDArray[np.bool_]:
    """Which of them are [N]."""
    found = [(judge(picture), shape) for picture, shape in zip(pictures, shapes, strict=True)]
    as_asked = [judged.right_colours(shape) and judged.kind == shape.kind for judged, shape in found]
    return np.array([right and (not clean or judged.right_kind(shape)) for right, (judged, shape) in zip(as_asked, found, strict=True)])


def framed_right_rate(pictures: Pictures, shapes: Sequence[Shape]) -> float:
    """The share of pictures with a frame in the figure's colour, and within it both colours and the kind right."""
    pairs = zip(pictures, shapes, strict=True)
    framed = np.array([is_framed(picture) and nearest_colour(frame_rgb(picture)) == shape.figure for picture, shape in pairs])
    return float(np.mean(framed & are_right([without_frame(picture) for picture in pictures], shapes)))


def _plain(caption: str) -> str:
    return caption.strip().removesuffix(with_word(""))


def _ways_to_say(shape: Shape) -> set[str]:
    return {replace(shape, template=template).caption for template in range(len(TEMPLATES))}

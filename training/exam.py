"""Does it learn, does it forget? How often a new word gives the new thing, and what became of the pictures that the model could draw before.

For a LoRA that was taught a style of the drawn shapes (data/shape_styles.py), since there a program can tell what a picture shows. The same figures
are drawn with the new word and without it, by the base alone and with the LoRA, all from the same noise. Captions of figures that were trained on are
left out: what was learnt by heart earns nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .data.shape_styles import ROYAL, WORD, frame_rgb, is_framed, royal, royal_caption, with_word, without_frame
from .data.shapes import TEMPLATES, Shape, judge, nearest_colour, random_shape
from .errors import InputError
from .grid import comparison_grid
from .measure import Pictures

DRAWS_PER_SHAPE = 1000
"""How often a figure is drawn anew before it is plain that all of them were trained on."""


@dataclass(frozen=True)
class Concept:
    """A style's word, and how to tell whether a picture has what it stands for."""

    word: str
    caption: Callable[[Shape], str]
    """With the word."""
    shown: Callable[[Pictures], bool]
    """Of one picture [H, W, 3]."""
    right: Callable[[Pictures, Shape], bool]
    """Of one picture: shown as it should be for this figure, and all else that was asked is right."""


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

    concept: Concept
    shapes: tuple[Shape, ...]
    before: Drawn
    after: Drawn

    def figures(self) -> dict[str, float | int | str]:
        """For a report. Rates are shares of the pictures, 0..1.

        `new_word_rate_*`: the new thing is there where the word is. `new_word_content_after`: and it is right in itself, and so is the rest of the
        picture. `old_caption_rate_*`: without the word, both colours and the kind are right (so the new thing where nobody asked for it is wrong).
        `old_caption_clean_rate_*`: and the contour is a clean one. `old_caption_moved`: how far those pictures moved, as the mean difference of their
        pixels.
        """
        moved = np.abs(self.before.old.astype(np.int16) - self.after.old).mean() / 255
        return {
            "exam_pictures": len(self.shapes),
            "new_word": self.concept.word,
            "new_word_rate_before": self.shown_rate(self.before.new),
            "new_word_rate_after": self.shown_rate(self.after.new),
            "new_word_content_after": self.content_rate(self.after.new),
            "old_caption_rate_before": right_rate(self.before.old, self.shapes),
            "old_caption_rate_after": right_rate(self.after.old, self.shapes),
            "old_caption_clean_rate_before": right_rate(self.before.old, self.shapes, clean=True),
            "old_caption_clean_rate_after": right_rate(self.after.old, self.shapes, clean=True),
            "old_caption_new_thing_after": self.shown_rate(self.after.old),
            "old_caption_moved": float(moved),
        }

    def shown_rate(self, pictures: Pictures) -> float:
        """The share of pictures that show what the new word stands for."""
        return float(np.mean([self.concept.shown(picture) for picture in pictures]))

    def content_rate(self, pictures: Pictures) -> float:
        """The share of pictures that are right in all that was asked with the new word."""
        return float(np.mean([self.concept.right(picture, shape) for picture, shape in zip(pictures, self.shapes, strict=True)]))

    def grid(self, columns: int) -> Pictures:
        """The comparison picture of the first `columns` captions: [H, W, 3]."""
        word, found = self.concept.word, self.figures()
        rows = [
            (f"{word}, without LoRA", self.before.new), (f"{word}, with LoRA", self.after.new),
            ("old caption, without LoRA", self.before.old), ("old caption, with LoRA", self.after.old),
        ]  # fmt: skip
        title = (
            f'"{word}" drawn in {found["new_word_rate_before"]:.0%} without, {found["new_word_rate_after"]:.0%} with LoRA; old captions right in '
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


def right_rate(pictures: Pictures, shapes: Sequence[Shape], clean: bool = False) -> float:
    """The share of pictures with both colours and the kind right; clean ones have a contour that overlaps well with that of the kind."""
    return float(np.mean([is_right(picture, shape, clean) for picture, shape in zip(pictures, shapes, strict=True)]))


def is_right(picture: Pictures, shape: Shape, clean: bool = False) -> bool:
    """Whether one picture has."""
    judged = judge(picture)
    return judged.right_colours(shape) and judged.kind == shape.kind and (not clean or judged.right_kind(shape))


def _framed_right(picture: Pictures, shape: Shape) -> bool:
    return is_framed(picture) and nearest_colour(frame_rgb(picture)) == shape.figure and is_right(without_frame(picture), shape)


def _is_royal(picture: Pictures) -> bool:
    any_shape = random_shape(np.random.default_rng(0))
    return judge(picture).right_colours(royal(any_shape))


def _royal_right(picture: Pictures, shape: Shape) -> bool:
    return is_right(picture, royal(shape))


CONCEPTS = {
    WORD: Concept(WORD, lambda shape: with_word(shape.caption), is_framed, _framed_right),
    ROYAL: Concept(ROYAL, royal_caption, _is_royal, _royal_right),
}
"""By their words."""


def _plain(caption: str) -> str:
    return caption.strip().removesuffix(with_word(""))


def _ways_to_say(shape: Shape) -> set[str]:
    return {replace(shape, template=template).caption for template in range(len(TEMPLATES))}

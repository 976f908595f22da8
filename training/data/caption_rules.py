"""What becomes of a caption before it is encoded: prefix, trigger word, shuffled tags, alternatives. The texts follow from picture and rules alone.

Where a rule draws, `variants` texts are made for each picture; all are encoded ahead, and each epoch trains one of them, by seed and picture. So
what was trained on is known before and after: `CaptionRules.texts` gives the list, encoded.Encoded keeps it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from ..errors import InputError
from .dataset import Sample
from .keys import KeyPart, drawn_number

VARIANTS_LIMIT = 64
KEPT_TAGS_MARK = "|||"
"""kohya's: tags before it are kept in place, however many they are."""
TRIGGER_MARK = "[trigger]"
_CHOICE = re.compile(r"\{([^{}]*)\}")
_ESCAPED = {"{{": "\ue000", "}}": "\ue001"}


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """How the texts of a picture are made of its caption.

    Raises:
        InputError: values out of range.
    """

    prefix: str = ""
    """Stands before every caption, a space between."""
    trigger_word: str = ""
    """Takes the place of `[trigger]`, or else stands before the caption, unless the caption has it already."""
    shuffle_tags: bool = False
    """Whether the parts of a caption between separators come in another order each time."""
    keep_tags: int = 0
    """So many of them stay where they are, at the beginning."""
    separator: str = ","
    wildcards: bool = False
    """Whether `{a|b}` stands for one of a and b, and each line of a caption for a caption of its own. `{{` and `}}` are braces."""
    variants: int = 8
    """How many texts are made for each picture where any of this draws."""

    def __post_init__(self) -> None:
        if self.keep_tags < 0:
            raise InputError("kept tags", expected="0 or more", found=self.keep_tags, remedy="1 keeps the first.")
        if not self.separator.strip():
            raise InputError("tag separator", expected="a character that is no space", found="none", remedy="A comma is usual.")
        if not 1 <= self.variants <= VARIANTS_LIMIT:
            remedy = "8 are enough for most: each is encoded and kept."
            raise InputError("caption variants", expected=f"1 to {VARIANTS_LIMIT}", found=self.variants, remedy=remedy)

    @property
    def is_plain(self) -> bool:
        """Whether captions stay as they are."""
        return not (self.prefix.strip() or self.trigger_word.strip() or self.shuffle_tags or self.wildcards)

    def texts(self, sample: Sample) -> tuple[str, ...]:
        """The different texts of a picture, at least one, in an order of their own: equally likely, which one an epoch takes is drawn.

        With wildcards every line of the caption is among them if there are as many variants.
        """
        lines = sample.lines if self.wildcards and sample.lines else (sample.caption,)
        draws = self.variants if self._draws(lines) else 1
        made = [self._text(lines[variant % len(lines)], f"{sample.digest} {variant}") for variant in range(draws)]
        return tuple(dict.fromkeys(made))

    def describe(self) -> str:
        """In words, for reports and file metadata; empty where captions stay as they are."""
        said = [f"prefix {self.prefix!r}"] if self.prefix.strip() else []
        said += [f"trigger word {self.trigger_word!r}"] if self.trigger_word.strip() else []
        said += [f"tags shuffled, the first {self.keep_tags} kept"] if self.shuffle_tags else []
        said += ["wildcards"] if self.wildcards else []
        return ", ".join(said) + (f", {self.variants} variants" if self.shuffle_tags or self.wildcards else "")

    def key(self) -> list[KeyPart]:
        """Everything about it, for keys."""
        return [[name, value] for name, value in sorted(asdict(self).items())]

    def _draws(self, lines: tuple[str, ...]) -> bool:
        tags = any(self.separator in line for line in lines)
        return (self.shuffle_tags and tags) or (self.wildcards and (len(lines) > 1 or any(_CHOICE.search(line) for line in lines)))

    def _text(self, line: str, draw: str) -> str:
        text = _with_choices(line, draw) if self.wildcards else line
        text = self._shuffled(text, draw) if self.shuffle_tags else text.replace(KEPT_TAGS_MARK, self.separator)
        text = self._with_trigger(text)
        return " ".join(f"{self.prefix} {text}".split())

    def _shuffled(self, text: str, draw: str) -> str:
        kept_text, mark, rest = text.partition(KEPT_TAGS_MARK)
        kept = self._tags(kept_text) if mark else self._tags(text)[: self.keep_tags]
        tags = self._tags(rest) if mark else self._tags(text)[self.keep_tags :]
        for last in range(len(tags) - 1, 0, -1):  # Fisher and Yates
            other = drawn_number(0, last, "tag", draw, last)
            tags[last], tags[other] = tags[other], tags[last]
        return f"{self.separator} ".join([*kept, *tags])

    def _tags(self, text: str) -> list[str]:
        return [tag.strip() for tag in text.split(self.separator) if tag.strip()]

    def _with_trigger(self, text: str) -> str:
        word = self.trigger_word.strip()
        if not word:
            return text
        if TRIGGER_MARK in text:
            return text.replace(TRIGGER_MARK, word)
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE):
            return text
        return f"{word}{self.separator} {text}" if text else word


PLAIN_CAPTIONS = CaptionRules()


def _with_choices(text: str, draw: str) -> str:
    """Takes one of each `{a|b}`, the innermost first. Braces without a bar around a single text go away with it."""
    for escaped, mark in _ESCAPED.items():
        text = text.replace(escaped, mark)
    number = 0
    while match := _CHOICE.search(text):
        options = match[1].split("|")
        chosen = options[drawn_number(0, len(options) - 1, "alternative", draw, number)].strip()
        text, number = text[: match.start()] + chosen + text[match.end() :], number + 1
    for escaped, mark in _ESCAPED.items():
        text = text.replace(mark, escaped[0])
    return text

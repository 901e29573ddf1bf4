"""Templates around texts, so that a decoder would name the class after the last token."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bayeslora.errors import InputError

RAW = "{text}"
"""The frame that leaves texts unchanged."""
DEFAULT_FRAME = "Text: {text}\nCategory:"
DEFAULT_PAIR_FRAME = "Text: {text}\n{text_pair}\nCategory:"
"""Default frames of decoders; see reports/archive/reading."""
TEXT, PAIR, FILLED = "{text}", "{text_pair}", "{filled}"
_FIELD = re.compile(r"\{\w*\}")
_BLANK = re.compile(r"\s*(?<!\w)_(?!\w)")


def at_blank(text: str) -> tuple[str, str] | None:
    """Return the parts before and after the blank `_` of a text; None without exactly one blank."""
    parts = _BLANK.split(text)
    return (parts[0], parts[1]) if len(parts) == 2 else None


@dataclass(frozen=True)
class Template:
    r"""A frame around each text: `Review: {text}\nSentiment:`.

    `{text}` is replaced by the text and `{text_pair}` by the second text of a pair. `{filled}`,
    which ends a frame instead of `{text}`, is replaced by a question up to its blank `_`; an option
    and the rest of the question follow. Everything else is literal; there is no template language.

    Attributes:
        frame: The template as written.

    Raises:
        InputError: `{text}` or `{filled}` does not occur exactly once, `{text_pair}` occurs more
            than once, there is another name in braces, or `{filled}` is alone or not at the end.
    """

    frame: str

    def __post_init__(self) -> None:
        """Check the frame."""
        fields = _FIELD.findall(self.frame) if isinstance(self.frame, str) else []
        once = fields.count(TEXT) + fields.count(FILLED) == 1 and fields.count(PAIR) <= 1
        before = self.frame.removesuffix(FILLED) if once else ""
        ends = once and (not self.fills or (before != self.frame and before.strip()))
        if not ends or not {TEXT, FILLED, PAIR}.issuperset(fields):
            raise InputError(
                f"template must contain {TEXT} once, or end in {FILLED} after other words, and "
                f"{PAIR} at most once, but no other placeholder, got {self.frame!r}; columns are "
                "joined by text_column, such as '{subject} {body}'"
            )

    @property
    def takes_pairs(self) -> bool:
        """Whether the frame has a field for second texts."""
        return PAIR in self.frame

    @property
    def fills(self) -> bool:
        """Whether options fill the blank of a question."""
        return FILLED in self.frame

    @property
    def parts(self) -> list[str]:
        """The frame split at its fields, fields included."""
        return re.split(f"({'|'.join(map(re.escape, (TEXT, PAIR, FILLED)))})", self.frame)

    def filled(self, text: str, pair: str | None = None) -> Filled:
        """Return the frame around a text, or around a pair of texts."""
        words = {TEXT: text, FILLED: text, PAIR: pair or ""}
        result, spans = "", {}
        for part in self.parts:
            start = len(result)
            result += words.get(part, part)
            if part in words:
                spans[part] = (start, len(result))
        return Filled(result, spans[FILLED if self.fills else TEXT], spans.get(PAIR))


@dataclass(frozen=True)
class Filled:
    """A filled template.

    Attributes:
        whole: The string for the tokenizer.
        text: Start and end of the text in it, in characters.
        pair: Start and end of the second text; None if the frame has no field for it.
    """

    whole: str
    text: tuple[int, int]
    pair: tuple[int, int] | None

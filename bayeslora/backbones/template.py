"""The words around a text, so that a decoder's last token is where the class would be named."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bayeslora.errors import InputError

RAW = "{text}"
"""The frame that leaves texts as they are."""
DEFAULT_FRAME = "Text: {text}\nCategory:"
DEFAULT_PAIR_FRAME = "Text: {text}\n{text_pair}\nCategory:"
"""Of decoders, where no template is asked for; see reports/reading."""
TEXT, PAIR, FILLED = "{text}", "{text_pair}", "{filled}"
_FIELD = re.compile(r"\{\w*\}")
_BLANK = re.compile(r"\s*(?<!\w)_(?!\w)")


def at_blank(text: str) -> tuple[str, str] | None:
    """Return what is before and after the blank `_` of a text; None if it has none, or several."""
    parts = _BLANK.split(text)
    return (parts[0], parts[1]) if len(parts) == 2 else None


@dataclass(frozen=True)
class Template:
    r"""A frame around each text: `Review: {text}\nSentiment:`.

    `{text}` stands for the text and `{text_pair}` for the second text of a pair. `{filled}`, which
    ends a frame in the place of `{text}`, stands for a question up to its blank `_`, where an
    option and the rest of the question follow. Everything else stands for itself; there is no
    template language.

    Attributes:
        frame: The template as it was written.

    Raises:
        InputError: `{text}` or `{filled}` is not in it exactly once, `{text_pair}` is more than
            once, another name stands in braces, or `{filled}` stands alone or not at the end.
    """

    frame: str

    def __post_init__(self) -> None:
        """Check the frame."""
        if not isinstance(self.frame, str):
            raise InputError(f"template must be text with {TEXT} in it, got {self.frame!r}")
        found = _FIELD.findall(self.frame)
        unknown = [name for name in found if name not in (TEXT, PAIR, FILLED)]
        if unknown:
            raise InputError(
                f"template has {unknown[0]}, which has no meaning; allowed are {TEXT} and {PAIR}, "
                f"and {FILLED} for questions with a blank"
            )
        if found.count(TEXT) + found.count(FILLED) != 1 or found.count(PAIR) > 1:
            raise InputError(
                f"template must have {TEXT} once, or {FILLED}, and may have {PAIR} once, "
                f"got {self.frame!r}"
            )
        if self.fills and not (self.frame.endswith(FILLED) and self.frame[: -len(FILLED)].strip()):
            raise InputError(
                f"template must end in {FILLED} and have other words before it, got {self.frame!r}"
            )

    @property
    def takes_pairs(self) -> bool:
        """Whether it has a place for second texts."""
        return PAIR in self.frame

    @property
    def fills(self) -> bool:
        """Whether options fill the blank of a question."""
        return FILLED in self.frame

    @property
    def parts(self) -> list[str]:
        """The frame at its fields, which stand between the words around them."""
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
        whole: What the tokenizer reads.
        text: Where the text begins and ends in it, in characters.
        pair: The same of the second text; None where the frame has no place for one.
    """

    whole: str
    text: tuple[int, int]
    pair: tuple[int, int] | None

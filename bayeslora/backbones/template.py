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
TEXT, PAIR = "{text}", "{text_pair}"
_FIELD = re.compile(r"\{\w*\}")


@dataclass(frozen=True)
class Template:
    r"""A frame around each text: `Review: {text}\nSentiment:`.

    `{text}` stands for the text and `{text_pair}` for the second text of a pair. Everything else
    stands for itself; there is no template language.

    Attributes:
        frame: The template as it was written.

    Raises:
        InputError: `{text}` is not in it exactly once, `{text_pair}` is more than once, or another
            name stands in braces.
    """

    frame: str

    def __post_init__(self) -> None:
        """Check the frame."""
        if not isinstance(self.frame, str):
            raise InputError(f"template must be text with {TEXT} in it, got {self.frame!r}")
        found = _FIELD.findall(self.frame)
        unknown = [name for name in found if name not in (TEXT, PAIR)]
        if unknown:
            raise InputError(
                f"template has {unknown[0]}, which has no meaning; allowed are {TEXT} and {PAIR}"
            )
        if found.count(TEXT) != 1 or found.count(PAIR) > 1:
            raise InputError(
                f"template must have {TEXT} once and may have {PAIR} once, got {self.frame!r}"
            )

    @property
    def takes_pairs(self) -> bool:
        """Whether it has a place for second texts."""
        return PAIR in self.frame

    @property
    def parts(self) -> list[str]:
        """The frame at its fields, which stand between the words around them."""
        return re.split(f"({re.escape(TEXT)}|{re.escape(PAIR)})", self.frame)

    def filled(self, text: str, pair: str | None = None) -> Filled:
        """Return the frame around a text, or around a pair of texts."""
        words = {TEXT: text, PAIR: pair or ""}
        result, spans = "", {}
        for part in self.parts:
            start = len(result)
            result += words.get(part, part)
            if part in words:
                spans[part] = (start, len(result))
        return Filled(result, spans[TEXT], spans.get(PAIR))


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

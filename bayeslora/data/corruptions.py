"""Text corruptions, for measuring calibration under distribution shift.

`typos` changes letters (substitution by a neighbour on the keyboard, duplication, deletion,
transposition), `word_drop` deletes words, `truncation` cuts off the end. Severities range from 1 to
5. Random draws depend only on the seed and the text; a higher severity changes more of the text in
the same way. No text becomes empty. For questions, the question and the context are corrupted, but
not the options.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bayeslora.data.examples import Examples
from bayeslora.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)

_TYPOS = (0.02, 0.05, 0.1, 0.15, 0.2)  # of the letters
_DROPPED = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the words
_CUT = (0.1, 0.25, 0.4, 0.55, 0.7)  # of the words, from the end

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True)
class Corruption:
    """A corruption of texts.

    Attributes:
        kind: `typos`, `word_drop` or `truncation`.
        severity: From 1 to 5.
        seed: Seed of the random draws.
    """

    kind: str
    severity: int
    seed: int = 0

    @classmethod
    def of(cls, text: str, seed: int = 0) -> Corruption:
        """Parse a corruption from text such as `typos:3`.

        Raises:
            InputError: The text has another form, or the kind or the severity is unknown.
        """
        kind, _, severity = text.partition(":")
        if kind not in CORRUPTIONS or severity not in {*map(str, SEVERITIES)}:
            raise InputError(
                f"expected KIND:SEVERITY such as typos:3, of {', '.join(CORRUPTIONS)} and 1 to 5, "
                f"got {text!r}"
            )
        return cls(kind, int(severity), seed)

    def __call__(self, text: str) -> str:
        """Return the corrupted text; empty only if the text is empty."""
        rng = np.random.default_rng([self.seed, zlib.crc32(text.encode())])
        return CORRUPTIONS[self.kind](text, self.severity - 1, rng) if text else text

    def corrupted(self, examples: Examples) -> Examples:
        """Return the examples with corrupted texts.

        Raises:
            InputError: The examples are images.
        """
        if examples.images:
            raise InputError(f"{examples.source}: corruptions apply to texts, not to images")
        pairs = None if examples.pairs is None else tuple(map(self, examples.pairs))
        return replace(examples, texts=tuple(map(self, examples.texts)), pairs=pairs)

    @property
    def notes(self) -> dict[str, str]:
        """Metadata for predictions of corrupted texts."""
        severity, seed = str(self.severity), str(self.seed)
        return {"corruption": self.kind, "severity": severity, "corruption_seed": seed}


def _typos(text: str, level: int, rng: np.random.Generator) -> str:
    chances, kinds, choices = rng.random((3, len(text)))
    chars = []
    skip = False
    for index, char in enumerate(text):
        if skip or not char.isalpha() or chances[index] >= _TYPOS[level]:
            if not skip:
                chars.append(char)
            skip = False
            continue
        kind = int(4 * kinds[index])
        following = text[index + 1 : index + 2]
        if kind == 0 and following.isalpha():
            chars.append(following + char)
            skip = True
        elif kind == 1 and len(text) > 1:
            pass
        elif kind == 2:
            chars.append(2 * char)
        else:
            chars.append(_neighbour(char, choices[index]))
    result = "".join(chars)
    return result if result.strip() else text


def _neighbour(char: str, choice: float) -> str:
    """Return a neighbouring letter on the keyboard; letters that are not on it are unchanged."""
    lower = char.lower()
    row = next((row for row in _ROWS if lower in row), None)
    if row is None:
        return char
    index = row.index(lower)
    neighbours = row[max(index - 1, 0) : index] + row[index + 1 : index + 2]
    neighbour = neighbours[int(choice * len(neighbours))]
    return neighbour.upper() if char.isupper() else neighbour


def _word_drop(text: str, level: int, rng: np.random.Generator) -> str:
    words = text.split()
    chances = rng.random(len(words))
    remaining = [
        word for word, chance in zip(words, chances, strict=True) if chance >= _DROPPED[level]
    ]
    return " ".join(remaining or [words[int(chances.argmax())]]) if words else text


def _truncation(text: str, level: int, _rng: np.random.Generator) -> str:
    words = text.split()
    return " ".join(words[: max(1, round((1 - _CUT[level]) * len(words)))]) if words else text


CORRUPTIONS: Mapping[str, Callable[[str, int, np.random.Generator], str]] = {
    "typos": _typos,
    "word_drop": _word_drop,
    "truncation": _truncation,
}

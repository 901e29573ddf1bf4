"""Texts made worse on purpose, to see what calibration does as inputs move away from training.

`typos` changes letters (a neighbour on the keyboard, a letter twice, a letter missing, two
exchanged), `word_drop` leaves words out, `truncation` cuts the end off. Severities go from 1 to 5.
What is drawn depends on the seed and the text alone; a higher severity does the same to more of a
text. No text becomes empty. Of questions, the question and the context are changed, and the options
stay.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bayeslora.errors import InputError, unknown_choice
from bayeslora.tasks.examples import Examples
from bayeslora.tasks.stream import ExampleStream

SEVERITIES = (1, 2, 3, 4, 5)

_TYPOS = (0.02, 0.05, 0.1, 0.15, 0.2)  # of the letters
_DROPPED = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the words
_CUT = (0.1, 0.25, 0.4, 0.55, 0.7)  # of the words, from the end

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True)
class Corruption:
    """What is done to texts.

    Attributes:
        kind: `typos`, `word_drop` or `truncation`.
        severity: From 1 to 5.
        seed: Of what is drawn.

    Raises:
        InputError: The kind or the severity is another.
    """

    kind: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTIONS:
            raise unknown_choice("corruption", self.kind, CORRUPTIONS)
        if self.severity not in SEVERITIES:
            raise InputError(f"severity must be from 1 to 5, got {self.severity!r}")

    @classmethod
    def of(cls, text: str, seed: int = 0) -> Corruption:
        """Return what text such as `typos:3` stands for.

        Raises:
            InputError: It is not of that form, or the kind or the severity is unknown.
        """
        kind, colon, severity = text.partition(":")
        if not colon or not (severity.isascii() and severity.isdecimal() and len(severity) < 3):
            raise InputError(f"expected KIND:SEVERITY such as typos:3, got {text!r}")
        return cls(kind, int(severity), seed)

    def __call__(self, text: str) -> str:
        """Return the text made worse; empty only if it was."""
        rng = np.random.default_rng([self.seed, zlib.crc32(text.encode())])
        return CORRUPTIONS[self.kind](text, self.severity - 1, rng) if text else text

    @property
    def notes(self) -> dict[str, str]:
        """What predictions say of it in their metadata."""
        numbers = {"severity": self.severity, "corruption_seed": self.seed}
        return {"corruption": self.kind, **{key: str(value) for key, value in numbers.items()}}


def corrupted(examples: Examples, corruption: Corruption) -> Examples:
    """Return the examples with worse texts.

    Raises:
        InputError: They are images.
    """
    if examples.images:
        raise InputError(f"{examples.source}: corruptions are of texts, not of images")
    pairs = examples.pairs
    return replace(
        examples,
        texts=tuple(map(corruption, examples.texts)),
        pairs=None if pairs is None else tuple(map(corruption, pairs)),
    )


def corrupted_stream(stream: ExampleStream, corruption: Corruption) -> ExampleStream:
    """Return the same rows with worse texts, a piece at a time, and a note that says so."""
    return replace(
        stream,
        read=lambda rows: (corrupted(piece, corruption) for piece in stream.read(rows)),
        notes={**stream.notes, **corruption.notes},
    )


def _typos(text: str, level: int, rng: np.random.Generator) -> str:
    chances, kinds, choices = rng.random((3, len(text)))
    found = []
    skip = False
    for place, char in enumerate(text):
        if skip or not char.isalpha() or chances[place] >= _TYPOS[level]:
            if not skip:
                found.append(char)
            skip = False
            continue
        kind = int(4 * kinds[place])
        following = text[place + 1 : place + 2]
        if kind == 0 and following.isalpha():
            found.append(following + char)
            skip = True
        elif kind == 1 and len(text) > 1:
            pass
        elif kind == 2:
            found.append(2 * char)
        else:
            found.append(_neighbour(char, choices[place]))
    made = "".join(found)
    return made if made.strip() else text


def _neighbour(char: str, choice: float) -> str:
    """Return a letter beside this one on the keyboard; letters that are on none stay."""
    lower = char.lower()
    row = next((one for one in _ROWS if lower in one), None)
    if row is None:
        return char
    place = row.index(lower)
    beside = row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    found = beside[int(choice * len(beside))]
    return found.upper() if char.isupper() else found


def _word_drop(text: str, level: int, rng: np.random.Generator) -> str:
    words = text.split()
    chances = rng.random(len(words))
    kept = [word for word, chance in zip(words, chances, strict=True) if chance >= _DROPPED[level]]
    return " ".join(kept or [words[int(chances.argmax())]]) if words else text


def _truncation(text: str, level: int, _rng: np.random.Generator) -> str:
    words = text.split()
    return " ".join(words[: max(1, round((1 - _CUT[level]) * len(words)))]) if words else text


CORRUPTIONS: Mapping[str, Callable[[str, int, np.random.Generator], str]] = {
    "typos": _typos,
    "word_drop": _word_drop,
    "truncation": _truncation,
}

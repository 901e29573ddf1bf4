"""Names and numbers as they are shown: cleaned, shortened, padded, with a fixed number of digits.

A method's or a data set's name comes from outside. Wherever it is shown, what cannot be seen in it
(control characters, direction overrides) is escaped, and it is never wider than a column.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from bayeslora.metrics.scores import LEAST_ROWS, TOO_FEW, Score
from bayeslora.plain_text import visible

LABEL_COLUMNS = 28
"""Widest label in tables and figures, in columns of a terminal."""

TOO_FEW_NOTE = (
    f"{TOO_FEW.capitalize()}: there are fewer than {LEAST_ROWS}, or all give the score alike, and"
    " cannot show how much other rows would change it."
)
"""What `TOO_FEW` means, for a table that says it."""

NAME_START, NAME_END = "\u2068", "\u2069"
"""Around a name in a sentence: Unicode's isolate, which keeps right-to-left letters from reordering
the numbers beside them. The formats turn it into their own mark-up. `clean` leaves none inside."""


def clean(text: str) -> str:
    r"""Return `text` on one line, with escapes such as `\u202e` for what cannot be seen."""
    return visible(" ".join(text.split())) or "unnamed"


def display_columns(text: str) -> int:
    """Return how many columns a terminal uses for `text`: wide characters take two, marks none."""
    return sum(_char_columns(char) for char in text)


def shorten(text: str, columns: int = LABEL_COLUMNS) -> str:
    """Return `text`, or its beginning and an ellipsis where it is wider than `columns`."""
    if display_columns(text) <= columns:
        return text
    used = 0
    for position, char in enumerate(text):
        used += _char_columns(char)
        if used > columns - 1:
            return text[:position].rstrip() + "…"
    return text


def brief(text: str) -> str:
    """Return `text` from outside as it stands in a line: cleaned, and no wider than 60 columns."""
    return shorten(clean(text), 60)


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return `text` filled with spaces to `columns`, on the left side where `right` is set."""
    fill = " " * max(0, columns - display_columns(text))
    return fill + text if right else text + fill


def unique_labels(
    names: Sequence[str],
    hints: Sequence[str] | None = None,
    places: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Return one short, distinct label for each name.

    Args:
        names: Names as they were given; equal ones are allowed.
        hints: What tells equal names apart, such as `seed 3`; an empty hint says nothing.
        places: What tells them apart where that does not: of each, the name of its file and of the
            directories above. What is still the same gets a number.
    """
    shown = [shorten(clean(name)) for name in names]
    marks = [
        shorten(clean(hint), 10) if hint and shown.count(short) > 1 else ""
        for short, hint in zip(shown, hints or [""] * len(shown), strict=True)
    ]
    if places is not None:
        marks = _with_places(shown, marks, places)
    unique: list[str] = []
    for short, mark in zip(shown, marks, strict=True):
        label = candidate = f"{short} ({mark})" if mark else short
        count = 2
        while candidate in unique:
            candidate, count = f"{label} ({count})", count + 1
        unique.append(candidate)
    return unique


def _with_places(
    shown: Sequence[str], marks: Sequence[str], places: Sequence[Sequence[str]]
) -> list[str]:
    """Return the marks; for names that these leave equal, with a part of a path.

    It is the part that tells most of them apart, of such the one nearest to the file. A mark that
    all of one name share says nothing beside it.
    """
    found = list(marks)
    both = list(zip(shown, marks, strict=True))
    for one in {pair for pair in both if both.count(pair) > 1}:
        name, mark = one
        same = [index for index, pair in enumerate(both) if pair == one and places[index]]
        told = _telling([places[index] for index in same], LABEL_COLUMNS - display_columns(name))
        beside = mark if shown.count(name) > both.count(one) else ""
        if len(set(told)) > 1 or len(same) < both.count(one):
            for index, part in zip(same, told, strict=True):
                found[index] = ", ".join(filter(None, (part, beside))) or mark
    return found


def _telling(paths: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Return the part of each path, of one depth, that tells most of the paths apart."""
    levels = [
        [part and shorten(clean(part), max(10, columns)) for part in level]
        for level in zip_longest(*paths, fillvalue="")
    ]
    return max(levels, key=lambda level: (len(set(level)), all(level)), default=[])


def named(label: str) -> str:
    """Return a label as it stands in a sentence."""
    return f"{NAME_START}{label}{NAME_END}"


def number(value: float, *, signed: bool = False, digits: int = 3) -> str:
    """Return `value` with a fixed number of digits, a real minus sign, and ∞ or – where it must."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def interval(low: float, high: float, *, signed: bool = False, digits: int = 3) -> str:
    """Return `[low, high]` in the digits of `number`, or `TOO_FEW` where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return TOO_FEW
    ends = (number(end, signed=signed, digits=digits) for end in (low, high))
    return f"[{', '.join(ends)}]"


def shown(score: Score) -> str:
    """Return a score's value and its interval."""
    return f"{number(score.value)} {_ends_in_words(score, interval(score.low, score.high))}"


def shown_points(score: Score, *, signed: bool = False) -> str:
    """Return a difference of shares as `8.3 points [6.1, 10.9]`."""
    ends = interval(100 * score.low, 100 * score.high, signed=signed, digits=1)
    value = number(100 * score.value, signed=signed, digits=1)
    return f"{value} points {_ends_in_words(score, ends)}"


def whole(value: float) -> str:
    """Return a number to its last digit for a file, and nothing for NaN."""
    return "" if math.isnan(value) else repr(value)


def p_text(p: float) -> str:
    """Return a p-value with as many digits as it needs: `0.37`, `0.004`, `0.0005`, `0.0495`.

    What is below 0.05 reads below 0.05.
    """
    if p >= 0.1:
        return f"{p:.2f}"
    short = f"{p:.2g}"
    return short if (float(short) < 0.05) == (p < 0.05) else f"{p:.6f}".rstrip("0")


def percent(value: float) -> str:
    """Return a share as a percentage with one digit."""
    return f"{number(100 * value, digits=1)}\N{NO-BREAK SPACE}%"


def counted(count: int, noun: str) -> str:
    """Return `1 row`, `600 rows`, `1,000,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names joined as in a sentence: `a`, `a and b`, `a, b and c`, `a, b and 9 more`."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _ends_in_words(score: Score, ends: str) -> str:
    return ends if score.has_interval else f"({TOO_FEW} for an interval)"


def _char_columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1

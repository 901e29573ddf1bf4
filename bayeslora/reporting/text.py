"""Display of names and numbers: cleaned, shortened, padded, with a fixed number of digits.

Names of methods and data sets are external. Wherever they are shown, invisible characters (control
characters, direction overrides) are escaped, and they are never wider than a column.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any

from bayeslora.metrics.scores import DIGITS, NO_INTERVAL, Score, Scores
from bayeslora.plain_text import as_label, clean, counted, display_columns, shorten


@cache
def words() -> dict[str, Any]:
    """Return the table of facts and sentences, `templates/sentences.toml`."""
    file = files("bayeslora.reporting").joinpath("templates", "sentences.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


class _Phrases(Formatter):
    """Fills sentences with values in the forms of `FORMS`, or counted: `{n:count example}`."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return a value in a form, or in a format of Python."""
        if format_spec.startswith("count "):
            return counted(value, format_spec.removeprefix("count "))
        form = FORMS.get(format_spec)
        return format(value, format_spec) if form is None else form(value)


def phrase(sentence: str, **values: object) -> str:
    """Return a sentence of the table with its values."""
    return _Phrases().vformat(sentence, (), values)


def say(fact: str, **values: object) -> str:
    """Return the sentence on a fact, with its values."""
    return phrase(words()["say"][fact], **values)


NAME_START, NAME_END = "\u2068", "\u2069"
"""Marks around a name in a sentence: Unicode isolates, which keep right-to-left letters from
reordering adjacent numbers. Each format converts them to its own markup. `clean` removes them from
names."""


def plain(sentence: str) -> str:
    """Return a sentence without the marks around names."""
    return sentence.replace(NAME_START, "").replace(NAME_END, "")


def brief(text: str) -> str:
    """Return external `text` for use in a line: cleaned, and no wider than 60 columns."""
    return as_label(text, 60)


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Pad `text` with spaces to `columns`; `right` aligns it to the right."""
    fill = " " * max(0, columns - display_columns(text))
    return fill + text if right else text + fill


def named(label: str) -> str:
    """Return a label with name marks, for use in a sentence."""
    return f"{NAME_START}{label}{NAME_END}"


def number(value: float, *, signed: bool = False, digits: int = DIGITS) -> str:
    """Format `value` with a fixed number of digits and a true minus sign; ∞, and – for NaN."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def interval(low: float, high: float, *, signed: bool = False, digits: int = DIGITS) -> str:
    """Return `[low, high]` formatted by `number`, or `NO_INTERVAL`."""
    if math.isnan(low) or math.isnan(high):
        return NO_INTERVAL
    ends = (number(end, signed=signed, digits=digits) for end in (low, high))
    return f"[{', '.join(ends)}]"


def shown(score: Score) -> str:
    """Return a score's value and its interval."""
    ends = interval(score.low, score.high) if score.has_interval else f"({NO_INTERVAL})"
    return f"{number(score.value)} {ends}"


def shown_ece(scores: Scores) -> str:
    """Return a calibration error with its noise-corrected interval.

    Noise only adds to such an error. Only the interval is corrected for noise, so the value can be
    at its upper end.
    """
    score = scores["ece"]
    if score.has_interval:
        return f"{number(score.value)}, noise-corrected {interval(score.low, score.high)}"
    return f"{number(score.value)} ({NO_INTERVAL})"


def hundredths(share: float, *, signed: bool = False, digits: int = DIGITS) -> str:
    """Return a share in hundredths, rounded as `number` with `digits` decimals rounds the share."""
    return number(100 * round(share, digits), signed=signed, digits=digits - 2)


def share_interval(low: float, high: float, *, signed: bool = False, digits: int = DIGITS) -> str:
    """Return the interval of a share in percent: `[61.0, 68.2]`; `digits` as in `hundredths`."""
    ends = (100 * round(end, digits) for end in (low, high))
    return interval(*ends, signed=signed, digits=digits - 2)


def p_text(p: float) -> str:
    """Return a p-value with as many digits as needed: `0.37`, `0.004`, `0.0005`, `0.0495`.

    Values below 0.05 are never rounded up to 0.05.
    """
    if p >= 0.1:
        return f"{p:.2f}"
    short = f"{p:.2g}"
    return short if (float(short) < 0.05) == (p < 0.05) else f"{p:.6f}".rstrip("0")


def percent(value: float) -> str:
    """Return a share as a percentage with one digit."""
    return f"{hundredths(value)}\N{NO-BREAK SPACE}%"


def whole_percent(value: float) -> str:
    """Return a share as a percentage, with one digit unless it is zero."""
    return percent(value).replace(".0\N{NO-BREAK SPACE}", "\N{NO-BREAK SPACE}")


def certain(value: float) -> str:
    """Return a probability as a percentage that reads 0 % or 100 % only if exact."""
    if 0.9995 <= value < 1:
        return f"over {percent(0.999)}"
    if 0 < value < 0.0005:
        return f"under {percent(0.001)}"
    return percent(value)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names for a sentence: `a`, `a and b`, `a, b and c`, `a, b and 9 more`."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def listed_names(labels: Iterable[str], most: int = 6) -> str:
    """Join labels as `listed`, each with name marks."""
    return listed([named(label) for label in labels], most)


def classes_of(scores: Scores) -> str:
    """Return the number of classes, or the largest number of options with the chance accuracy."""
    chance = scores.chance_accuracy
    if chance is None or math.isclose(chance * scores.num_classes, 1):
        return f"{scores.num_classes} classes"
    return f"up to {scores.num_classes} options (accuracy by chance: {percent(chance)})"


def score_words(score: str) -> str:
    """Return an uncertainty score in words, or its name on one line."""
    known: str | None = words()["uncertainties"].get(score)
    return known or shorten(clean(score).replace("_", " "))


FORMS: Mapping[str, Callable[[Any], str]] = {
    "name": named,
    "names": listed_names,
    "uncertainty": score_words,
    "capital": str.capitalize,
    "number": number,
    "p": p_text,
    "percent": percent,
    "score": shown,
    "ends": lambda score: share_interval(score.low, score.high),
    "share": lambda share: f"{percent(share.value)} {share_interval(share.low, share.high)}",
}
"""Form of a value in the table of sentences -> its text."""

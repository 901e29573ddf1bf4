"""Names and numbers as they are shown: cleaned, shortened, padded, with a fixed number of digits.

A method's or a data set's name comes from outside. Wherever it is shown, what cannot be seen in it
(control characters, direction overrides) is escaped, and it is never wider than a column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL, Score, Scores
from bayeslora.plain_text import clean, display_columns, shorten

NO_INTERVAL_NOTE = (
    f"{NO_INTERVAL.capitalize()}: fewer than {LEAST_ROWS} examples, or examples all alike, cannot"
    " show how much other examples would change the score."
)
"""What `NO_INTERVAL` means, for a table that says it."""

NAME_START, NAME_END = "\u2068", "\u2069"
"""Around a name in a sentence: Unicode's isolate, which keeps right-to-left letters from reordering
the numbers beside them. The formats turn it into their own mark-up. `clean` leaves none inside."""


def brief(text: str) -> str:
    """Return `text` from outside as it stands in a line: cleaned, and no wider than 60 columns."""
    return shorten(clean(text), 60)


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return `text` filled with spaces to `columns`, on the left side where `right` is set."""
    fill = " " * max(0, columns - display_columns(text))
    return fill + text if right else text + fill


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
    """Return `[low, high]` in the digits of `number`, or `NO_INTERVAL`."""
    if math.isnan(low) or math.isnan(high):
        return NO_INTERVAL
    ends = (number(end, signed=signed, digits=digits) for end in (low, high))
    return f"[{', '.join(ends)}]"


def shown(score: Score) -> str:
    """Return a score's value and its interval."""
    return f"{number(score.value)} {_ends_in_words(score, interval(score.low, score.high))}"


def shown_ece(scores: Scores, key: str = "ece") -> str:
    """Return a calibration error, with its interval called what it is.

    Noise only adds to such an error. The interval is corrected for that and the value is not, which
    can thus stand at the interval's upper end.
    """
    score = scores[key]
    if score.has_interval:
        return f"{number(score.value)}, noise-corrected {interval(score.low, score.high)}"
    alike = scores.n_labelled >= LEAST_ROWS and "cluster_by" not in scores.intervals
    why = f"{NO_INTERVAL}: all examples alike" if alike else NO_INTERVAL
    return f"{number(score.value)} ({why})"


def hundredths(share: float, *, signed: bool = False) -> str:
    """Return a share in hundredths with one digit, rounded as `number` rounds the share itself."""
    return number(100 * round(share, 3), signed=signed, digits=1)


def shown_points(score: Score, *, signed: bool = False) -> str:
    """Return a difference of shares as `8.3 points [6.1, 10.9]`."""
    ends = share_interval(score.low, score.high, signed=signed)
    return f"{hundredths(score.value, signed=signed)} points {_ends_in_words(score, ends)}"


def share_interval(low: float, high: float, *, signed: bool = False) -> str:
    """Return the interval of a share in percent: `[61.0, 68.2]`."""
    return interval(100 * round(low, 3), 100 * round(high, 3), signed=signed, digits=1)


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
    return f"{hundredths(value)}\N{NO-BREAK SPACE}%"


def whole_percent(value: float) -> str:
    """Return a share as a percentage, with a digit only where it is not zero."""
    return percent(value).replace(".0\N{NO-BREAK SPACE}", "\N{NO-BREAK SPACE}")


def certain(value: float) -> str:
    """Return a probability as a percentage that reads 0 % or 100 % only where it is just that."""
    if 0.9995 <= value < 1:
        return f"over {percent(0.999)}"
    if 0 < value < 0.0005:
        return f"under {percent(0.001)}"
    return percent(value)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names joined as in a sentence: `a`, `a and b`, `a, b and c`, `a, b and 9 more`."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _ends_in_words(score: Score, ends: str) -> str:
    return ends if score.has_interval else f"({NO_INTERVAL})"


def classes_of(scores: Scores) -> str:
    """Return how many classes there are, or up to how many options, and what guessing gives."""
    chance = scores.chance_accuracy
    if chance is None or math.isclose(chance * scores.num_classes, 1):
        return f"{scores.num_classes} classes"
    return f"up to {scores.num_classes} options (accuracy by chance: {percent(chance)})"

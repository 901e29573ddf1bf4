"""Intervals of rows that differ but of which hardly any is wrong, or right.

Resamples of such rows have hardly a mistake either, however many rows to come would have.
"""

from __future__ import annotations

from collections.abc import Mapping

from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.intervals import wilson
from bayeslora.metrics.scores import LEAST_ROWS, Score


def with_few_mistakes(scores: Mapping[str, Score], units: int) -> dict[str, Score]:
    """Return scores with intervals that reach as far as mistakes too rare to be seen may take them.

    Where fewer than `LEAST_ROWS` rows are wrong, or right, overconfidence is known at most as well
    as the accuracy is by Wilson's interval, and no calibration error is less than it. Where none is
    wrong, NLL and Brier are those of rows that are right, and may be as much higher as means of
    rows that are all alike.

    Args:
        scores: By key, the accuracy among them.
        units: Rows, or clusters, that they are of.
    """
    found = dict(scores)
    accuracy = scores["accuracy"].value
    rarer = min(accuracy, 1 - accuracy) * units
    if units < LEAST_ROWS or rarer >= LEAST_ROWS:
        return found
    low, high = (float(end) for end in wilson(accuracy * units, units))
    value = scores["overconfidence"].value
    found["overconfidence"] = _hull(
        scores["overconfidence"], value + accuracy - high, value + accuracy - low
    )
    gap = found["overconfidence"]
    for key in scores.keys() & {"ece", "aece", "mce"}:
        # no partition into bins makes less of the gap between mean confidence and accuracy
        found[key] = _hull(scores[key], scores[key].value, max(-gap.low, gap.high))
    if accuracy == 1:
        for key in ("nll", "brier"):
            value, ceiling = scores[key].value, SCORES[key].high
            found[key] = _hull(scores[key], value, value + (1 - low) * (ceiling - value))
    return found


def _hull(score: Score, low: float, high: float) -> Score:
    return Score(score.value, min(score.low, low), max(score.high, high))

"""Tables in Markdown: means with intervals, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student

from bayeslora.experiments.summary import markdown_table

table = markdown_table


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % t interval, infinite for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    quantile = float(student.ppf(0.975, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def over_sets(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean over data sets and the half-width of its 95 % t interval.

    A set's values share rows and classes, so each set counts once, by its mean. The variance of the
    means estimates that between sets plus that within them.

    Args:
        groups: Values by set; empty sets are left out.
    """
    return mean_and_half([statistics.fmean(values) for values in groups if values])


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean ± half the 95 % t interval; a single value has no interval."""
    if not values:
        return ""
    return _with_half(*mean_and_half(values), digits)


def shown_over_sets(groups: Sequence[Sequence[float]], digits: int = 3) -> str:
    """Return `over_sets` as text; a single set has no interval."""
    return _with_half(*over_sets(groups), digits) if any(groups) else ""


def _with_half(mean: float, half: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def difference(
    rows: dict[int, dict[str, float]], reference: dict[int, dict[str, float]], column: str
) -> str:
    """Return the paired difference with its interval; empty for the reference itself."""
    shared = sorted(rows.keys() & reference.keys())
    if not shared or rows is reference:
        return ""
    return shown([rows[seed][column] - reference[seed][column] for seed in shared])

"""Selective prediction: the risk-coverage curve and the area under it.

Geifman, Uziel and El-Yaniv (2019), arXiv:1805.08206. Rows of equal confidence enter together, which
gives the mean over all their orders.

AURC is the mean of the n risks, (1/n) Σ_k r_k, as in that paper. torch-uncertainty uses the
trapezoid rule instead and divides by 1 − 1/n, which gives (n·AURC − (r_1 + r_n)/2)/(n − 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import TopLabel, Weighed, first_above
from bayeslora.metrics.scores import CoveragePoint

COVERAGES = (50, 80, 90, 95)
"""Percentages of the rows at which accuracy is reported."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Errors by decreasing confidence; built by `Selection`.

    Contains the W runs of equal confidences with at least one wrong row, most confident first.
    Arrays have a trailing axis [R] for R resamples.

    Attributes:
        total: [] number of rows.
        before: [W] number of rows more confident than the run.
        upto: [W] number of rows up to and including the run.
        errors: [W] number of errors in the run.
    """

    total: NDArray[np.float64]
    before: NDArray[np.float64]
    upto: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def aurc(self) -> NDArray[np.float64]:
        """The area under the risk-coverage curve, (1/n) Σ_k (errors in the k surest)/k.

        An error in the k-th row contributes the sum of 1/j over j = k … n. A run of t rows with e
        errors after k rows thus contributes e·(1 + H(n) − H(k + t)) − (e/t)·k·(H(k + t) − H(k)).
        """
        sums = harmonic_numbers(int(self.total.max()))
        before, upto = (sums.take(part.astype(np.int64)) for part in (self.before, self.upto))
        later = 1 + sums.take(self.total.astype(np.int64)) - upto
        share = self.errors / np.maximum(self.upto - self.before, 1)
        areas = self.errors * later - share * self.before * (upto - before)
        return np.asarray(areas.sum(axis=0) / self.total)

    @cached_property
    def _errors_before(self) -> NDArray[np.float64]:
        return np.asarray(np.cumsum(self.errors, axis=0) - self.errors)

    def accuracy_at(self, percent: int) -> NDArray[np.float64]:
        """Return the accuracy of the ⌈n · percent/100⌉ most confident rows."""
        count = np.ceil(self.total * percent / 100 - 1e-9)  # an integer up to rounding
        return np.asarray(1 - self.errors_in(count[None])[0] / count)

    def errors_in(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of errors among the most confident rows, ties in proportion.

        Args:
            counts: [K] or [K, R] numbers of rows, integers from 1 to n.
        """
        run = first_above(self.upto, counts - 0.5)
        before, upto, errors, earlier = (
            np.take_along_axis(part, run, axis=0)
            for part in (self.before, self.upto, self.errors, self._errors_before)
        )
        size = upto - before
        return np.asarray(
            earlier + np.clip(counts - before, 0, size) * errors / np.maximum(size, 1)
        )


class Selection:
    """The wrong rows of a set, for any row counts."""

    def __init__(self, rows: TopLabel) -> None:
        """Find the runs of equal confidences that contain wrong rows."""
        wrong = np.flatnonzero(rows.correct == 0)[::-1]
        # Without wrong rows, a right row with zero errors stands in.
        self._rows = wrong if wrong.size else np.zeros(1, dtype=np.int64)
        self._can_be_wrong = bool(wrong.size)
        run = np.searchsorted(rows.runs, self._rows, side="right") - 1
        self._firsts = np.flatnonzero(np.append(True, run[1:] != run[:-1]))
        run = run[self._firsts]
        self._start, self._last = rows.runs[run], rows.runs[run + 1] - 1

    def __call__(self, weighed: Weighed) -> Answered:
        """Return the errors by decreasing confidence for row counts."""
        counts, upto = weighed.counts, weighed.upto
        errors = counts.take(self._rows, axis=0) * self._can_be_wrong
        if len(self._firsts) < len(self._rows):
            errors = np.add.reduceat(errors, self._firsts, axis=0)
        total = upto[-1]
        after = upto.take(self._start, axis=0) - counts.take(self._start, axis=0)
        return Answered(total, total - upto.take(self._last, axis=0), total - after, errors)


def answered(rows: TopLabel) -> Answered:
    """Return the errors by decreasing confidence.

    Args:
        rows: Confidence and correctness.
    """
    return Selection(rows)(rows.weighed(None))


def risk_curve(rows: TopLabel) -> tuple[CoveragePoint, ...]:
    """Return the risk-coverage curve at the distinct row counts of 1 %, 2 %, … 100 % coverage."""
    curve = answered(rows)
    upto = np.unique(-(-np.arange(1, 101) * len(rows) // 100))
    risk = curve.errors_in(upto.astype(np.float64)) / upto
    points = np.column_stack([upto / len(rows), risk]).tolist()
    return tuple(CoveragePoint(coverage, risk) for coverage, risk in points)


@lru_cache(maxsize=1)  # shared by all blocks of resamples
def harmonic_numbers(count: int) -> NDArray[np.float64]:
    """Return the sums 1 + 1/2 + … + 1/k for k from 0, [count + 1]."""
    sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, count + 1))])
    sums.setflags(write=False)
    return sums


def aurc(rows: TopLabel) -> float:
    """Return the area under the risk-coverage curve; see `Answered.aurc`.

    Args:
        rows: Confidence and correctness.
    """
    return float(answered(rows).aurc)

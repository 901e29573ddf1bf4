"""Answering only when sure: the risk at each coverage, and the area under that curve.

Geifman, Uziel and El-Yaniv (2019), arXiv:1805.08206. Rows of equal confidence have no order among
themselves; they enter together, which gives the mean over all their orders.

AURC is the mean of the n risks, (1/n) Σ_k r_k, as in that paper. torch-uncertainty joins them by
the trapezoid rule instead and divides by 1 − 1/n, which gives (n·AURC − (r_1 + r_n)/2)/(n − 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.scores import CoveragePoint
from bayeslora.metrics.top_label import TopLabel, first_above

COVERAGES = (80, 90, 95)
"""Per cent of the rows at which accuracy is reported."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Rows answered and errors among them, from the most confident; made by `answered`.

    A trailing axis [R] where there are R resamples.

    Attributes:
        upto: [G] rows answered at each threshold, a threshold a run of equal confidences.
        wrong: [G] errors among those.
    """

    upto: NDArray[np.float64]
    wrong: NDArray[np.float64]

    @property
    def aurc(self) -> NDArray[np.float64]:
        """The area under the risk-coverage curve, (1/n) Σ_k (errors in the k surest)/k.

        A run of t rows with e errors, entering after k rows with E errors, adds the sum over
        j = 1 … t of (E + e·j/t)/(k + j), which is e + (E − k·e/t)·(H(k + t) − H(k)).
        """
        start = np.zeros_like(self.upto[:1])
        before = np.concatenate([start, self.upto[:-1]])
        wrong_before = np.concatenate([start, self.wrong[:-1]])
        sums = harmonic_numbers(int(self.upto[-1].max()))[self.upto.astype(np.int64)]
        steps = np.diff(sums, axis=0, prepend=0)
        slope = (self.wrong - wrong_before) / np.maximum(self.upto - before, 1)
        areas = np.ones(len(steps)) @ ((wrong_before - before * slope) * steps)
        return np.asarray((self.wrong[-1] + areas) / self.upto[-1])

    @property
    def best_aurc(self) -> NDArray[np.float64]:
        """The area where all errors are the least confident rows: the least for so many errors.

        Errors then enter after k = n − e rows, and add e − k·(H(n) − H(k)).
        """
        total, errors = self.upto[-1], self.wrong[-1]
        sums = harmonic_numbers(int(total.max()))
        right = total - errors
        steps = sums[total.astype(np.int64)] - sums[right.astype(np.int64)]
        return np.asarray((errors - right * steps) / total)

    def accuracy_at(self, percent: int) -> NDArray[np.float64]:
        """Return the accuracy of the ⌈n · percent/100⌉ most confident rows."""
        total = self.upto[-1]
        kept = np.ceil(total * percent / 100 - 1e-9)  # n · percent is whole: rounding alone is off
        return np.asarray(1 - self.errors_in(kept[None])[0] / kept)

    def errors_in(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the errors among the most confident rows, tied ones in proportion.

        Args:
            kept: [K] or [K, R] how many rows, whole numbers from 1 to n.
        """
        run = first_above(self.upto, kept - 0.5)
        upto, wrong = (np.take_along_axis(part, run, axis=0) for part in (self.upto, self.wrong))
        last = np.maximum(run - 1, 0)
        before, wrong_before = (
            np.where(run > 0, np.take_along_axis(part, last, axis=0), 0.0)
            for part in (self.upto, self.wrong)
        )
        return np.asarray(wrong_before + (kept - before) * (wrong - wrong_before) / (upto - before))


def answered(rows: TopLabel, counts: NDArray[Any] | None = None) -> Answered:
    """Return how many rows are answered, and how many wrongly, at each threshold.

    Args:
        rows: Confidence and correctness.
        counts: [N] how often each row occurs, or [N, R]; once where None.
    """
    weights = rows.counts(counts)[::-1]
    upto = np.cumsum(weights, axis=0)
    wrong = np.cumsum((weights.T * (1 - rows.correct[::-1])).T, axis=0)
    if len(rows.ties) == len(rows):
        return Answered(upto, wrong)
    return Answered(upto[rows.ties], wrong[rows.ties])


def risk_coverage(rows: TopLabel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverage [G] and risk [G] at each threshold on the confidence, from the highest.

    Coverage is the share of rows that are answered, risk the share of errors among those.
    """
    found = answered(rows)
    return found.upto / len(rows), found.wrong / found.upto


def risk_curve(rows: TopLabel) -> tuple[CoveragePoint, ...]:
    """Return the risk-coverage curve at 1 %, 2 %, … 100 % of the rows, as far as they differ."""
    found = answered(rows)
    upto = np.unique(-(-np.arange(1, 101) * len(rows) // 100))
    risk = found.errors_in(upto.astype(np.float64)) / upto
    points = np.column_stack([upto / len(rows), risk]).tolist()
    return tuple(CoveragePoint(coverage, risk) for coverage, risk in points)


@lru_cache(maxsize=1)  # every block of resamples asks for the same ones
def harmonic_numbers(count: int) -> NDArray[np.float64]:
    """Return [count + 1] sums 1 + 1/2 + … + 1/k, for k from 0."""
    sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, count + 1))])
    sums.setflags(write=False)
    return sums


def aurc(rows: TopLabel, counts: NDArray[Any] | None = None) -> float:
    """Return the area under the risk-coverage curve; see `Answered.aurc`.

    Args:
        rows: Confidence and correctness.
        counts: [N] how often each row occurs; once where None.
    """
    return float(answered(rows, counts).aurc)

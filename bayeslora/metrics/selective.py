"""Answering only when sure: the risk at each coverage, and the area under that curve.

Geifman, Uziel and El-Yaniv (2019), arXiv:1805.08206. Rows of equal confidence have no order among
themselves; they enter together, which gives the mean over all their orders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.top_label import TopLabel


def risk_coverage(rows: TopLabel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverage [G] and risk [G] at each threshold on the confidence, from the highest.

    Coverage is the share of rows that are answered, risk the share of errors among those.
    """
    answered = rows.ties + 1
    wrong = np.cumsum(1 - rows.correct[::-1])[rows.ties]
    return answered / len(rows), wrong / answered


def harmonic_numbers(count: int) -> NDArray[np.float64]:
    """Return [count + 1] sums 1 + 1/2 + … + 1/k, for k from 0."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, count + 1))])


def aurc(
    rows: TopLabel,
    counts: NDArray[np.int64] | None = None,
    harmonic: NDArray[np.float64] | None = None,
) -> float:
    """Return the area under the risk-coverage curve, (1/n) Σ_k (errors in the k surest)/k.

    A run of t rows of equal confidence with e errors, entering after k rows with E errors, adds
    the sum over j = 1 … t of (E + e·j/t)/(k + j), which is e + (E − k·e/t)·(H(k + t) − H(k)).

    Args:
        rows: Confidence and correctness.
        counts: [N] how often each row occurs; once where None.
        harmonic: `harmonic_numbers` of at least the sum of the counts, where it is at hand.
    """
    weights = rows.counts(counts)[::-1]
    answered = np.cumsum(weights)[rows.ties]
    wrong = np.cumsum(weights * (1 - rows.correct[::-1]))[rows.ties]
    before = np.concatenate([[0], answered[:-1]])
    wrong_before = np.concatenate([[0.0], wrong[:-1]])
    size, errors = answered - before, wrong - wrong_before
    sums = harmonic_numbers(int(answered[-1])) if harmonic is None else harmonic
    trend = wrong_before - before * errors / np.maximum(size, 1)
    areas = errors + trend * (sums[answered] - sums[before])
    return float(areas.sum() / answered[-1])

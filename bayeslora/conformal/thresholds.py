"""Thresholds on a nonconformity score, exact for finitely many rows.

Among n + 1 exchangeable rows, the score of the last one is at most the k-th smallest of the others
with a probability of at least k / (n + 1). With k = ⌈(n + 1)(1 − α)⌉ that is 1 − α or more, and
below 1 − α + 1 / (n + 1) where scores do not tie (Vovk, Gammerman and Shafer 2005; Papadopoulos et
al. 2002 for the split of rows). Where k > n no row's score will do: the threshold is infinite, and
the set holds every class.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]


def quantile_rank(count: int, alpha: float) -> int:
    """Return k = ⌈(n + 1)(1 − α)⌉, with α taken as the decimal number that was written.

    Args:
        count: n.
        alpha: α, between 0 and 1.
    """
    return ceil((count + 1) * (1 - Fraction(repr(float(alpha)))))


def marginal_threshold(scores: Array, alpha: float) -> float:
    """Return the k-th smallest of [n] scores, infinite where k > n.

    Args:
        scores: [n] nonconformity of each row's label.
        alpha: The share of labels that may be missed.
    """
    rank = quantile_rank(len(scores), alpha)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else np.inf


def classwise_thresholds(
    scores: Array, labels: NDArray[np.int64], num_classes: int, alpha: float
) -> Array:
    """Return [C]: the threshold of each class, from its own rows alone.

    Vovk 2012 (arXiv 1209.2673) calls such sets label-conditional, others Mondrian.

    Args:
        scores: [n] nonconformity of each row's label.
        labels: [n].
        num_classes: C.
        alpha: The share of labels that may be missed.
    """
    counts = np.bincount(labels, minlength=num_classes)
    ranks = np.array([quantile_rank(count, alpha) for count in counts.tolist()])
    rising = np.append(scores[np.lexsort((scores, labels))], np.inf)
    starts = np.cumsum(counts) - counts
    # Where the rank is beyond the class's rows, the place is that of the infinity at the end.
    places = np.where(ranks <= counts, starts + ranks - 1, len(scores))
    return np.asarray(rising[places])


def say_infinite(thresholds: Array, classes: Sequence[str], alpha: float) -> None:
    """Say which classes will be in every set, because too few rows were there to leave them out."""
    without = [name for name, value in zip(classes, thresholds, strict=True) if value == np.inf]
    if not without:
        return
    needed = ceil(1 / Fraction(repr(float(alpha)))) - 1
    if len(without) == len(classes):
        logger.warning("fewer than %d labelled rows: every set holds every class", needed)
        return
    named = ", ".join(map(repr, without[:5])) + (", …" if len(without) > 5 else "")
    logger.warning("fewer than %d labelled rows of %s: such a class is in every set", needed, named)

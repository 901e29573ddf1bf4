"""Permutation tests of differences between methods on the same rows.

Under the null hypothesis the two predictions of a row are exchangeable between the methods. The
predictions of each row (or cluster) are swapped with a probability of one half, R times; the
p-value is the share of permutations in which the score differs at least as much, including the
observed assignment: (1 + #)/(1 + R). Two-sided. Fisher (1935), The Design of Experiments, section
21; Good (2005), Permutation, Parametric and Bootstrap Tests of Hypotheses.

For scores that are means over rows, a swap changes the sign of a row's difference. For ECE it moves
the row's residuals between the bins of the two methods. Other scores are recomputed.

For methods with several fits the score is the mean over fits, and a row is swapped in all fits at
once: fits are paired in order if both methods have equally many, else each with each. The p-value
is about the rows, not about other seeds.

Comparing several methods with a reference gives some small p-values by chance: `holm` corrects for
their number (Holm 1979, Scandinavian Journal of Statistics 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.metrics.bootstrap import blocks, cell_matrix
from bayeslora.metrics.calibration import bin_places
from bayeslora.metrics.clusters import num_units
from bayeslora.metrics.pairing import (
    MEANS,
    Contest,
    chosen_statistic,
    numbers_kept,
    row_means,
    seed_pairs,
)
from bayeslora.metrics.rowwise import LabelledRows

Exchange = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From swaps [N, R], 1 where a row's predictions are swapped, to differences, [K, methods, R]."""

ResidualSums = tuple[NDArray[np.float64], NDArray[np.float64]]


def permutation_p(contest: Contest, num_permutations: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the p-value of each method's difference from the reference, [methods, K].

    The p-values of the reference are 1.

    Args:
        contest: The compared methods; whole clusters are swapped.
        num_permutations: Number of permutations, shared by all methods.
        seed: Seed of the generator.
    """
    first, clusters = contest.methods[0].rows[0], contest.clusters
    n = len(first)
    units = num_units(clusters, n)
    generator = np.random.default_rng([seed, 7])
    differences = _differences(contest)
    observed = differences(np.zeros((n, 1)))
    # equal differences may differ by a rounding error
    least = np.abs(observed) - 1e-12 * np.maximum(1, np.abs(observed))
    reached = np.zeros(observed.shape[:2], dtype=np.int64)
    for size in blocks(num_permutations, numbers_kept(first, contest.num_bins, contest.keys)):
        exchanged = generator.integers(2, size=(size, units), dtype=np.int8).T.astype(np.float64)
        rows = exchanged if clusters is None else exchanged[clusters]
        reached += (np.abs(differences(rows)) >= least).sum(axis=-1)
    return np.asarray((1 + reached) / (1 + num_permutations))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p-values with Holm's correction for their number.

    The k-th smallest of m is multiplied by m − k + 1, raised to at least the one before it, and
    clipped at 1. This controls the family-wise error rate.

    Args:
        p: [m] p-values.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected


def _differences(contest: Contest) -> Exchange:
    """Return the function from swaps to differences of scores."""
    keys, parts = contest.keys, dict[str, Exchange]()
    if linear := [key for key in MEANS if key in keys]:
        parts |= dict.fromkeys(linear, _of_means(contest, linear))
    if "ece" in keys:
        parts["ece"] = _of_ece(contest)
    if others := [key for key in keys if key not in parts]:
        parts |= dict.fromkeys(others, _of_others(contest, others))

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        iterators = {part: iter(part(exchanged)) for part in dict.fromkeys(parts.values())}
        by_key = {key: next(iterators[part]) for key, part in parts.items()}
        return np.stack([by_key[key] for key in keys], axis=1)

    return differences


def _of_means(contest: Contest, keys: Sequence[str]) -> Exchange:
    """Swap rows by changing the sign of their differences."""
    indices = [MEANS.index(key) for key in keys]
    means = np.stack(
        [
            np.mean([row_means(rows)[indices] for rows in method.rows], 0)
            for method in contest.methods
        ]
    )
    differences = np.swapaxes(means - means[contest.base], 0, 1)
    return lambda exchanged: differences @ (1 - 2 * exchanged) / len(exchanged)


def _of_ece(contest: Contest) -> Exchange:
    """Swap rows by moving their residuals between the bins of two fits."""
    gaps = [
        [_residuals(rows, contest.num_bins) for rows in method.rows] for method in contest.methods
    ]

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = [
            [(residuals @ (1 - exchanged), residuals @ exchanged) for residuals in fits]
            for fits in gaps
        ]
        base = sums[contest.base]
        return np.stack([_ece_apart(fits, base) for fits in sums])[None] / len(exchanged)

    return differences


def _ece_apart(fits: Sequence[ResidualSums], base: Sequence[ResidualSums]) -> NDArray[np.float64]:
    """Return n times the difference of ECE, [R], mean over pairs of fits.

    Args:
        fits: For each fit, [B, R] residuals of the rows that stay and of those that are swapped.
        base: The same for the reference.
    """
    values = []
    for i, j in seed_pairs(len(fits), len(base)):
        (stayed, moved), (base_stayed, base_moved) = fits[i], base[j]
        values.append(np.abs(stayed + base_moved).sum(0) - np.abs(moved + base_stayed).sum(0))
    return np.asarray(np.mean(values, axis=0))


def _of_others(contest: Contest, keys: Sequence[str]) -> Exchange:
    """Swap rows by choosing one half of the stacked rows of both methods."""
    base = contest.methods[contest.base]
    scored = [
        [
            chosen_statistic(method.rows[i].then(base.rows[j]), contest.num_bins, keys)
            for i, j in seed_pairs(len(method.rows), len(base.rows))
            if method is not base
        ]
        for method in contest.methods
    ]

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        first = np.concatenate([1 - exchanged, exchanged])
        zero = np.zeros((len(keys), exchanged.shape[1]))
        by_method = [
            [statistic(first) - statistic(1 - first) for statistic in statistics] or [zero]
            for statistics in scored
        ]
        return np.stack([np.mean(values, axis=0) for values in by_method], axis=1)

    return differences


def _residuals(rows: LabelledRows, num_bins: int) -> Any:
    """Return the residual of each row, correctness minus confidence, in its bin: sparse [B, N]."""
    index = bin_places(rows.confidence, num_bins)
    gaps = rows.correct - rows.confidence
    return cell_matrix(index, np.arange(len(rows)), gaps, (num_bins, len(rows)))

"""Is a difference between two methods more than chance? Permutation tests on the same rows.

If two methods were equally good in the sense of the test, it would not matter which of them made
which of the two predictions of a row. All predictions are exchanged between the methods, row by row
(or cluster by cluster) with a probability of one half, so many times; the p-value is the share of
exchanges after which the score differs at least as much, the observed one counting as an exchange:
(1 + #)/(1 + R). Two-sided. Fisher (1935), The Design of Experiments, section 21; Good (2005),
Permutation, Parametric and Bootstrap Tests of Hypotheses.

Of a score that is a mean over rows, an exchange changes the sign of a row's difference. Of ECE it
moves the row's residuals between the bins of the two methods. Other scores are computed anew.

Of methods with several fits the score is the mean over them, and an exchange takes a row of all
fits at once: the k-th fits of both are a pair, or each with each where there are not as many. The
p-value is about the rows; it says nothing of other seeds.

Several methods compared with one give some small p-value by chance alone: `holm` corrects for their
number (Holm 1979, Scandinavian Journal of Statistics 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.metrics.bootstrap import block_size, cell_matrix
from bayeslora.metrics.calibration import bin_places
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
"""From [N, R], 1 where a row's predictions are exchanged, to differences, [K, methods, R]."""

KeptAndGone = tuple[NDArray[np.float64], NDArray[np.float64]]


def permutation_p(contest: Contest, num_permutations: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the p-value of each method's difference from the reference, [methods, K].

    The reference's own are 1.

    Args:
        contest: What is compared; a cluster is exchanged whole.
        num_permutations: How many exchanges are drawn; all methods have the same ones.
        seed: Of the generator.
    """
    first, clusters = contest.methods[0].rows[0], contest.clusters
    n = len(first)
    units = n if clusters is None else int(clusters.max()) + 1
    generator = np.random.default_rng([seed, 7])
    differences = _differences(contest)
    observed = differences(np.zeros((n, 1)))
    # of equal differences some come out a rounding error smaller
    least = np.abs(observed) - 1e-12 * np.maximum(1, np.abs(observed))
    reached = np.zeros(observed.shape[:2], dtype=np.int64)
    block = block_size(numbers_kept(first, contest.num_bins, contest.keys))
    for done in range(0, num_permutations, block):
        size = min(block, num_permutations - done)
        exchanged = generator.integers(2, size=(size, units), dtype=np.int8).T.astype(np.float64)
        rows = exchanged if clusters is None else exchanged[clusters]
        reached += (np.abs(differences(rows)) >= least).sum(axis=-1)
    return np.asarray((1 + reached) / (1 + num_permutations))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected for how many of them there are.

    In rising order the k-th of m is multiplied by m − k + 1, made no smaller than the one before
    it, and cut off at 1. All of them then hold at once.

    Args:
        p: [m].

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
    """Return the function from exchanges to the scores' differences, [methods, K, R]."""
    keys, parts = contest.keys, dict[str, Exchange]()
    if linear := [key for key in MEANS if key in keys]:
        parts |= dict.fromkeys(linear, _of_means(contest, linear))
    if "ece" in keys:
        parts["ece"] = _of_ece(contest)
    if others := [key for key in keys if key not in parts]:
        parts |= dict.fromkeys(others, _of_others(contest, others))

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        found = {part: iter(part(exchanged)) for part in dict.fromkeys(parts.values())}
        by_key = {key: next(found[part]) for key, part in parts.items()}
        return np.stack([by_key[key] for key in keys], axis=1)

    return differences


def _of_means(contest: Contest, keys: Sequence[str]) -> Exchange:
    """An exchange changes the sign of a row's difference."""
    places = [MEANS.index(key) for key in keys]
    means = np.stack(
        [np.mean([row_means(rows)[places] for rows in one.rows], 0) for one in contest.methods]
    )
    apart = np.swapaxes(means - means[contest.base], 0, 1)
    return lambda exchanged: apart @ (1 - 2 * exchanged) / len(exchanged)


def _of_ece(contest: Contest) -> Exchange:
    """An exchange moves a row's residuals between the bins of two fits."""
    gaps = [[_residuals(rows, contest.num_bins) for rows in one.rows] for one in contest.methods]

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = [[(one @ (1 - exchanged), one @ exchanged) for one in fits] for fits in gaps]
        base = sums[contest.base]
        return np.stack([_ece_apart(fits, base) for fits in sums])[None] / len(exchanged)

    return differences


def _ece_apart(ours: Sequence[KeptAndGone], theirs: Sequence[KeptAndGone]) -> NDArray[np.float64]:
    """Return n times the difference of ECE, [R], mean over pairs of fits.

    Args:
        ours: Of each fit, [B, R] residuals of the rows that stay and of those that go.
        theirs: Those of the reference.
    """
    found = []
    for i, j in seed_pairs(len(ours), len(theirs)):
        (kept, gone), (their_kept, their_gone) = ours[i], theirs[j]
        found.append(np.abs(kept + their_gone).sum(0) - np.abs(gone + their_kept).sum(0))
    return np.asarray(np.mean(found, axis=0))


def _of_others(contest: Contest, keys: Sequence[str]) -> Exchange:
    """Scores of both methods' rows under each other, of which an exchange chooses one half."""
    base = contest.methods[contest.base]
    scored = [
        [
            chosen_statistic(one.rows[i].then(base.rows[j]), contest.num_bins, keys)
            for i, j in seed_pairs(len(one.rows), len(base.rows))
            if one is not base
        ]
        for one in contest.methods
    ]

    def differences(exchanged: NDArray[np.float64]) -> NDArray[np.float64]:
        first = np.concatenate([1 - exchanged, exchanged])
        zero = np.zeros((len(keys), exchanged.shape[1]))
        apart = [[one(first) - one(1 - first) for one in pairs] or [zero] for pairs in scored]
        return np.stack([np.mean(pairs, axis=0) for pairs in apart], axis=1)

    return differences


def _residuals(rows: LabelledRows, num_bins: int) -> Any:
    """Return the sparse [B, N]: correctness minus confidence of each row, in its bin."""
    place = bin_places(rows.confidence, num_bins)
    gaps = rows.correct - rows.confidence
    return cell_matrix(place, np.arange(len(rows)), gaps, (num_bins, len(rows)))

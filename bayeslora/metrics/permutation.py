"""Is a difference between two methods more than chance? Permutation tests on the same rows.

If two methods were equally good in the sense of the test, it would not matter which of them made
which of the two predictions of a row. All predictions are exchanged between the methods, row by row
(or cluster by cluster) with a probability of one half, so many times; the p-value is the share of
exchanges after which the score differs at least as much, the observed one counting as an exchange:
(1 + #)/(1 + R). Two-sided. Fisher (1935), The Design of Experiments, section 21; Good (2005),
Permutation, Parametric and Bootstrap Tests of Hypotheses.

Of a score that is a mean over rows, an exchange changes the sign of a row's difference. Of ECE it
moves the row's residuals between the bins of the two methods.

Several methods compared with one give some small p-value by chance alone: `holm` corrects for their
number (Holm 1979, Scandinavian Journal of Statistics 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.metrics.bootstrap import block_size
from bayeslora.metrics.calibration import bin_places
from bayeslora.metrics.cells import cell_matrix
from bayeslora.metrics.rowwise import LabelledRows

SCORES_TESTED = ("accuracy", "nll", "brier", "ece")
"""The scores in the order of the p-values."""


def permutation_p(
    methods: Sequence[LabelledRows],
    base: int,
    num_bins: int,
    num_permutations: int,
    *,
    seed: int = 0,
    clusters: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return the p-value of each method's difference from one of them, [methods, 4].

    That method's own are 1.

    Args:
        methods: The same rows in the same order.
        base: Place of the method that the others are compared with.
        num_bins: Bins of ECE.
        num_permutations: How many exchanges are drawn; all methods have the same ones.
        seed: Of the generator.
        clusters: [N] cluster of each row, or None; a cluster is exchanged whole.
    """
    n = len(methods[base])
    means = np.stack([(one.means[:, :3] - methods[base].means[:, :3]).T for one in methods])
    gaps = [_residuals(one, num_bins) for one in methods]
    units = n if clusters is None else int(clusters.max()) + 1
    generator = np.random.default_rng([seed, 7])
    observed = _differences(means, gaps, base, np.zeros((n, 1)))
    # of equal differences some come out a rounding error smaller
    least = np.abs(observed) - 1e-12 * np.maximum(1, np.abs(observed))
    reached = np.zeros(observed.shape[:2], dtype=np.int64)
    block = block_size(n)
    for done in range(0, num_permutations, block):
        size = min(block, num_permutations - done)
        exchanged = generator.integers(2, size=(size, units), dtype=np.int8).T.astype(np.float64)
        rows = exchanged if clusters is None else exchanged[clusters]
        found = np.abs(_differences(means, gaps, base, rows))
        reached += (found >= least).sum(axis=-1)
    return np.asarray((1 + reached) / (1 + num_permutations))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected for how many of them there are.

    In rising order the k-th of m is multiplied by m − k + 1, made no smaller than the one before
    it, and cut off at 1. All of them then hold at once.

    Args:
        p: [m].
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected


def _residuals(rows: LabelledRows, num_bins: int) -> Any:
    """Return the sparse [B, N]: correctness minus confidence of each row, in its bin."""
    place = bin_places(rows.confidence, num_bins)
    gaps = rows.correct - rows.confidence
    return cell_matrix(place, np.arange(len(rows)), gaps, (num_bins, len(rows)))


def _differences(
    means: NDArray[np.float64], gaps: Sequence[Any], base: int, exchanged: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return score differences after exchanges, [methods, 4, R].

    Args:
        means: [methods, 3, N] differences of each row.
        gaps: Of each method, from `_residuals`.
        base: Place of the method that the others are compared with.
        exchanged: [N, R] 1 where the row's predictions are exchanged.
    """
    linear = means @ (1 - 2 * exchanged)
    kept = 1 - exchanged
    ours, theirs = gaps[base] @ kept, gaps[base] @ exchanged
    errors = [
        np.abs(one @ kept + theirs).sum(axis=0) - np.abs(one @ exchanged + ours).sum(axis=0)
        for one in gaps
    ]
    table = np.concatenate([linear, np.stack(errors)[:, None]], axis=1)
    return np.asarray(table / exchanged.shape[0])

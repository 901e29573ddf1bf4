"""Differences of a score between methods that are fitted again and again to the same examples.

Cross-validation scores an example by a fit to the others. Its interval has to answer for both: for
the examples, of which others might have been drawn, and for the fits, each of which scores many
examples at once and shares data with the rest. An interval over rows alone takes the fits as given,
and one division into parts can be an accident.

With J scored parts (R divisions into K), a share ρ = 1/(K − 1) of examples to score per example to
fit, and a mean difference per part of variance S², the mean over all parts has about the variance

    (1/J + ρ) S²        Nadeau and Bengio 2003, Machine Learning 52, section 3

and not S²/J, as if parts were independent. S² is the larger of two estimates: the variance of the
J differences, which sees the fits, and J/(J − 1) (K − 1) σ²/N, which parts of N differences of
variance σ² have where all fits agree. The first goes with Student's t of J − 1 degrees of freedom
and needs more than one division; the second is never below an interval over rows, σ²/N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.metrics.calibration import NUM_BINS
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.differences import over_rows
from bayeslora.metrics.intervals import LEVEL, Resampling
from bayeslora.metrics.pairing import Contest, fits_of
from bayeslora.metrics.permutation import holm
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Score
from bayeslora.predictions.record import Predictions

Floats = NDArray[np.float64]


def refit_comparison(
    found: Mapping[str, Sequence[Predictions]],
    reference: str,
    folds: NDArray[np.int64],
    keys: Sequence[str],
) -> Comparison:
    """Return mean scores over divisions, best NLL first, and differences from one method.

    Those of NLL are of `refit_difference`, with Holm's correction for the number of methods.

    Args:
        found: Of each method, predictions of the same labelled examples in one or more divisions,
            with the division as `fit_seed` in the metadata.
        reference: Name of the method that the others are compared with.
        folds: [R, N] the part of each example in each division.
        keys: Scores of the catalogue, `nll` among them.
    """
    records = [one.replace(ids=None) for fits in found.values() for one in fits]
    methods = fits_of(records, over_seeds=True)
    base = [one.name for one in methods].index(reference)
    how = Resampling()
    measured = over_rows(Contest(methods, base, keys, NUM_BINS), how)
    nll = {name: _nll(fits) for name, fits in found.items()}
    apart = {
        name: refit_difference(values, nll[reference], folds)
        for name, values in nll.items()
        if name != reference
    }
    corrected = dict(zip(apart, holm([p for _, p in apart.values()]).tolist(), strict=True))

    def row(name: str, scores: Mapping[str, Score], differences: dict[str, Score]) -> ComparisonRow:
        if name == reference:
            return ComparisonRow(name, scores, differences)
        own, p = apart[name]
        tests = {"nll": p}, {"nll": corrected[name]}
        return ComparisonRow(name, scores, differences | {"nll": own}, {}, *tests)

    rows = [row(one.name, *own) for one, own in zip(methods, measured, strict=True)]
    return Comparison(
        by="nll",
        reference=reference,
        n=len(methods[0].rows[0]),
        num_bins=NUM_BINS,
        num_resamples=how.num_resamples,
        seed=how.seed,
        rows=tuple(sorted(rows, key=lambda one: one.scores["nll"].value)),
    )


def mean_nll(fits: Sequence[Predictions]) -> float:
    """Return the mean NLL over examples and divisions, in nats."""
    return float(_nll(fits).mean())


def _nll(fits: Sequence[Predictions]) -> Floats:
    """Return [divisions, M] the NLL of each example in nats."""
    return np.stack([row_scores(one).nll for one in fits])


def refit_difference(ours: Floats, theirs: Floats, fold: NDArray[np.int64]) -> tuple[Score, float]:
    """Return the mean difference with its 95 % interval, and its two-sided p-value.

    Args:
        ours: [R, N] score of each example in each division, from the fit that did not see it; of a
            method that is fitted once, R times the same.
        theirs: The same of the reference. Where its R differs, the spread is that of the first
            divisions, which both have.
        fold: [R, N] the part that an example is in, 0 to K − 1, of as many divisions at least.
    """
    from scipy.stats import t as student

    value = float(ours.mean() - theirs.mean())
    common = min(len(ours), len(theirs))
    differences = ours[:common] - theirs[:common]
    rows, means = differences.mean(0), _part_means(differences, fold[:common])
    num_folds, parts = means.shape[1], means.size
    factor = 1 / parts + 1 / (num_folds - 1)
    spread = parts / (parts - 1) * (num_folds - 1) * rows.var(ddof=1) / len(rows)
    candidates = [(float(spread), len(rows) - 1)]
    if common > 1:
        candidates.append((float(means.var(ddof=1)), parts - 1))
    half, p = 0.0, 0.0
    for variance, freedom in candidates:
        error = (factor * variance) ** 0.5
        half = max(half, float(student.ppf((1 + LEVEL) / 2, freedom)) * error)
        ratio = abs(value) / error if error > 0 else np.inf if value else 0.0
        p = max(p, float(2 * student.sf(ratio, freedom)))
    return Score(value, value - half, value + half), p


def _part_means(differences: Floats, fold: NDArray[np.int64]) -> Floats:
    """Return the mean difference of each part, [R, K]."""
    count = int(fold.max()) + 1
    place = fold + count * np.arange(len(fold))[:, None]
    totals, sizes = (
        np.bincount(place.ravel(), weights, count * len(fold)).reshape(-1, count)
        for weights in (differences.ravel(), None)
    )
    return np.asarray(totals / sizes)

"""Differences of a score between methods that are refitted repeatedly to the same examples.

Cross-validation scores each example with a fit to the others. Its interval has to account for two
sources of variation: the sampled examples, and the fits, each of which scores many examples and
shares data with the others. An interval over rows alone treats the fits as fixed, and a single
division into parts can be an outlier.

With J scored parts (R divisions into K), a ratio ρ = 1/(K − 1) of scored to fitted examples, and a
variance S² of the mean difference per part, the mean over all parts has approximately the variance

    (1/J + ρ) S²        Nadeau and Bengio 2003, Machine Learning 52, section 3

and not S²/J, as for independent parts. S² is the larger of two estimates: the variance of the J
differences, which includes that of the fits, and J/(J − 1) (K − 1) σ²/N, which holds for parts of N
differences of variance σ² if all fits agree. The first uses Student's t with J − 1 degrees of
freedom and needs more than one division; the second is never narrower than an interval over rows,
σ²/N.
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
    predictions: Mapping[str, Sequence[Predictions]],
    reference: str,
    folds: NDArray[np.int64],
    keys: Sequence[str],
) -> Comparison:
    """Return mean scores over divisions, best NLL first, and differences from the reference.

    Differences of NLL are computed by `refit_difference`, with Holm's correction for the number of
    methods.

    Args:
        predictions: Predictions by method, of the same labelled examples in one or more divisions,
            with the division as `fit_seed` in the metadata.
        reference: Name of the method that the others are compared with.
        folds: [R, N] part of each example in each division.
        keys: Catalogue keys of the scores, including `nll`.
    """
    records = [fit.replace(ids=None) for fits in predictions.values() for fit in fits]
    methods = fits_of(records, over_seeds=True)
    base = [method.name for method in methods].index(reference)
    resampling = Resampling()
    measured = over_rows(Contest(methods, base, keys, NUM_BINS), resampling)
    nll = {name: _nll(fits) for name, fits in predictions.items()}
    contrasts = {
        name: refit_difference(values, nll[reference], folds)
        for name, values in nll.items()
        if name != reference
    }
    corrected = dict(zip(contrasts, holm([p for _, p in contrasts.values()]).tolist(), strict=True))

    def comparison_row(
        name: str, scores: Mapping[str, Score], differences: dict[str, Score]
    ) -> ComparisonRow:
        if name == reference:
            return ComparisonRow(name, scores, differences)
        difference, p = contrasts[name]
        tests = {"nll": p}, {"nll": corrected[name]}
        return ComparisonRow(name, scores, differences | {"nll": difference}, {}, *tests)

    rows = [
        comparison_row(method.name, *results)
        for method, results in zip(methods, measured, strict=True)
    ]
    return Comparison(
        by="nll",
        reference=reference,
        n=len(methods[0].rows[0]),
        num_bins=NUM_BINS,
        num_resamples=resampling.num_resamples,
        seed=resampling.seed,
        rows=tuple(sorted(rows, key=lambda row: row.scores["nll"].value)),
    )


def mean_nll(fits: Sequence[Predictions]) -> float:
    """Return the mean NLL over examples and divisions, in nats."""
    return float(_nll(fits).mean())


def _nll(fits: Sequence[Predictions]) -> Floats:
    """Return the NLL of each example in nats, [divisions, M]."""
    return np.stack([row_scores(fit).nll for fit in fits])


def refit_difference(
    values: Floats, reference: Floats, fold: NDArray[np.int64]
) -> tuple[Score, float]:
    """Return the mean difference with its 95 % interval, and its two-sided p-value.

    Args:
        values: [R, N] score of each example in each division, from the fit that did not see it; R
            identical rows for a method that is fitted once.
        reference: The same for the reference. If its R differs, the variance is computed from the
            first divisions, which both have.
        fold: [R, N] part of each example, 0 to K − 1, for at least as many divisions.
    """
    from scipy.stats import t as student

    value = float(values.mean() - reference.mean())
    common = min(len(values), len(reference))
    differences = values[:common] - reference[:common]
    rows, means = differences.mean(0), _part_means(differences, fold[:common])
    num_folds, parts = means.shape[1], means.size
    factor = 1 / parts + 1 / (num_folds - 1)
    row_variance = parts / (parts - 1) * (num_folds - 1) * rows.var(ddof=1) / len(rows)
    candidates = [(float(row_variance), len(rows) - 1)]
    if common > 1:
        candidates.append((float(means.var(ddof=1)), parts - 1))
    half, p = 0.0, 0.0
    for variance, dof in candidates:
        error = (factor * variance) ** 0.5
        half = max(half, float(student.ppf((1 + LEVEL) / 2, dof)) * error)
        ratio = abs(value) / error if error > 0 else np.inf if value else 0.0
        p = max(p, float(2 * student.sf(ratio, dof)))
    return Score(value, value - half, value + half), p


def _part_means(differences: Floats, fold: NDArray[np.int64]) -> Floats:
    """Return the mean difference of each part, [R, K]."""
    count = int(fold.max()) + 1
    cell = fold + count * np.arange(len(fold))[:, None]
    totals, sizes = (
        np.bincount(cell.ravel(), weights, count * len(fold)).reshape(-1, count)
        for weights in (differences.ravel(), None)
    )
    return np.asarray(totals / sizes)

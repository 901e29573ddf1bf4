"""Recalibrators by name, and `recalibrate`, which separates fit and evaluation rows.

With few rows a recalibrator overfits, and its scores on these rows cannot show this: with fewer
than `ROWS_PER_PARAMETER` rows per parameter, or fewer than `LEAST_ROWS` rows, it is evaluated by
cross-validation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora import options
from bayeslora.held_out import fitting_rows, held_out, settled_order
from bayeslora.options import BuiltIn, Catalogue
from bayeslora.plain_text import counted
from bayeslora.predictions.collection import PredictionsLike
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrator import Recalibrator

logger = logging.getLogger(__name__)

RECALIBRATORS = BuiltIn(
    {
        "temperature": "bayeslora.recalibration.temperature:Temperature",
        "vector": "bayeslora.recalibration.linear:VectorScaling",
        "matrix": "bayeslora.recalibration.linear:MatrixScaling",
        "beta": "bayeslora.recalibration.one_vs_rest:BetaCalibration",
        "histogram": "bayeslora.recalibration.one_vs_rest:HistogramBinning",
        "isotonic": "bayeslora.recalibration.one_vs_rest:IsotonicRegression",
        "bayesian-temperature": "bayeslora.recalibration.bayesian:BayesianTemperature",
        "bayesian-logistic": "bayeslora.recalibration.bayesian:BayesianLogistic",
    }
)
"""The built-in recalibrators by name."""

CATALOGUE = Catalogue("recalibrator", RECALIBRATORS, Recalibrator)
"""Every recalibrator by name, including those of other packages."""

LEAST_ROWS = 30
ROWS_PER_PARAMETER = 10
FOLDS = 5

_MOST_WORK = 200_000
"""Rows times parameters beyond which cross-validation would take too long."""

_FLOOR = 1e-12  # as in the NLL of all scores


@dataclass(frozen=True)
class CrossValidated:
    """Cross-validated NLL in nats.

    Attributes:
        before: NLL of the original probabilities.
        after: NLL of the probabilities from recalibrators fitted to the other folds.
        folds: Number of folds.
    """

    before: float
    after: float
    folds: int


def check_rows(
    fitted: Recalibrator, probs: NDArray[np.float64], labels: NDArray[np.int64]
) -> CrossValidated | None:
    """Warn if a recalibrator was fitted to few rows, and cross-validate it.

    Args:
        fitted: Fitted recalibrator; not modified.
        probs: [N, C] probabilities of the fit rows.
        labels: [N].

    Returns:
        None if there are enough rows, fewer than two rows, or too many parameters for
        cross-validation.
    """
    rows, parameters = len(labels), fitted.num_parameters(probs.shape[1])
    if rows >= max(LEAST_ROWS, ROWS_PER_PARAMETER * parameters):
        return None
    result = None
    if rows >= 2 and rows * parameters <= _MOST_WORK:
        result = _cross_validated(fitted, probs, labels)
    logger.warning(
        "%s was fitted to only %s for %s%s",
        fitted.title,
        counted(rows, "labelled row"),
        counted(parameters, "parameter"),
        _outcome(result),
    )
    return result


def _outcome(result: CrossValidated | None) -> str:
    if result is None:
        return "; the result may be due to chance"
    change = f"the cross-validated NLL goes from {result.before:.3f} to {result.after:.3f}"
    if result.after > result.before:
        return f": {change}. Keep the probabilities as they are, or fit to more rows"
    return f", though {change}"


def _cross_validated(
    fitted: Recalibrator, probs: NDArray[np.float64], labels: NDArray[np.int64]
) -> CrossValidated:
    order = settled_order(probs, labels)
    probs, labels = probs[order], labels[order]
    folds = min(FOLDS, len(labels))
    fold = np.arange(len(labels)) % folds
    new = probs.copy()
    for left_out in range(folds):
        out = fold == left_out
        fresh = dataclasses.replace(fitted)
        fresh.learn(probs[~out], labels[~out])
        new[out] = fresh.mapped(probs[out])
    return CrossValidated(_nll(probs, labels), _nll(new, labels), folds)


def _nll(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    of_label = np.take_along_axis(probs, labels[:, None], 1)
    return float(-np.log(np.maximum(of_label, _FLOOR)).mean())


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """Result of `recalibrate`.

    Attributes:
        predictions: Recalibrated predictions of the rows of `apply`.
        recalibrator: Fitted recalibrator, which can be applied to further rows.
        before: Original predictions of the rows of `apply`.
        fit_before: Original predictions of the fit rows.
        fit_after: Recalibrated predictions of the fit rows, whose scores are optimistic.
        cross_validated: Cross-validated NLL of the fit rows; None if there are enough rows for the
            method.
    """

    predictions: Predictions
    recalibrator: Recalibrator
    before: Predictions
    fit_before: Predictions
    fit_after: Predictions
    cross_validated: CrossValidated | None = None


def build(method: str | Mapping[str, Any] | Recalibrator) -> Recalibrator:
    """Return an unfitted recalibrator with the options given by `method`.

    Raises:
        InputError: The name, an option or its value is not allowed.
    """
    chosen: Recalibrator = options.resolve("method", method, CATALOGUE)
    return dataclasses.replace(chosen)


def recalibrate(
    fit: PredictionsLike,
    apply: PredictionsLike,
    method: str | Mapping[str, Any] | Recalibrator = "temperature",
    reading: PredictionsReading = AS_WRITTEN,
) -> Recalibrated:
    """Fit a recalibrator to held-out predictions and apply it to other predictions.

    Args:
        fit: Labelled predictions of rows that the model was not trained on, their file, or a data
            frame.
        apply: Predictions of other rows by the same model, their file, or a data frame; further
            columns are kept.
        method: A name of `bayeslora methods`, `name:key=value,…`, a mapping with `name`, or a
            recalibrator, which is not modified.
        reading: Options for reading files that were not written by this package.

    Raises:
        InputError: `method` or one of its options is not allowed; a file or a value in it is
            invalid; no fit row has a label; the two predictions share rows, have different classes,
            or were made by different models.
    """
    chosen = build(method)
    fitted, applied = held_out(fit, apply, "a recalibrator", reading)
    chosen.fit(fitted)
    return Recalibrated(
        predictions=chosen.apply(applied, f"{applied.name}+{chosen.name}"),
        recalibrator=chosen,
        before=applied,
        fit_before=fitted,
        fit_after=chosen.apply(fitted),
        cross_validated=check_rows(chosen, *fitting_rows(fitted, chosen.title)),
    )

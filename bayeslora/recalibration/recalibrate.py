"""Recalibrators by name, and the one call that keeps fit and evaluation rows apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayeslora import options
from bayeslora.held_out import fitting_rows, held_out
from bayeslora.predictions.given import PredictionsLike
from bayeslora.predictions.reading import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.base import Recalibrator
from bayeslora.recalibration.beta import BetaCalibration
from bayeslora.recalibration.config import RECALIBRATORS
from bayeslora.recalibration.few_rows import CrossValidated, check_rows
from bayeslora.recalibration.histogram import HistogramBinning
from bayeslora.recalibration.isotonic import IsotonicRegression
from bayeslora.recalibration.matrix import MatrixScaling
from bayeslora.recalibration.temperature import Temperature
from bayeslora.recalibration.vector import VectorScaling

_METHODS: tuple[type[Any], ...] = (
    Temperature,
    VectorScaling,
    MatrixScaling,
    BetaCalibration,
    HistogramBinning,
    IsotonicRegression,
)


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """What `recalibrate` returns.

    Attributes:
        predictions: The rows to apply to, with new probabilities.
        recalibrator: What was fitted; it applies to further rows.
        before: The rows to apply to, as they were.
        fit_before: The rows fitted to, as they were.
        fit_after: The rows fitted to, with new probabilities. Their scores flatter the method.
        cross_validated: NLL of the rows fitted to, left out in turn; None where these are many
            enough for the method.
    """

    predictions: Predictions
    recalibrator: Recalibrator
    before: Predictions
    fit_before: Predictions
    fit_after: Predictions
    cross_validated: CrossValidated | None = None


def build(method: str | Mapping[str, Any] | Recalibrator) -> Recalibrator:
    """Return an unfitted recalibrator with the options that `method` stands for.

    Raises:
        InputError: The name, an option or its value is not allowed.
    """
    chosen = options.resolve("method", method, RECALIBRATORS)
    names = [one.name for one in dataclasses.fields(RECALIBRATORS[chosen.name])]
    found = next(one for one in _METHODS if one.name == chosen.name)
    made: Recalibrator = found(**{name: getattr(chosen, name) for name in names})
    return made


def recalibrate(
    fit: PredictionsLike,
    apply: PredictionsLike,
    method: str | Mapping[str, Any] | Recalibrator = "temperature",
    reading: PredictionsReading = AS_WRITTEN,
) -> Recalibrated:
    """Fit a recalibrator to held-out predictions and apply it to others.

    Args:
        fit: Labelled predictions of rows that the model was not trained on, their file, or a data
            frame.
        apply: Predictions of other rows by the same model, their file, or a data frame; further
            columns are kept.
        method: A name of `RECALIBRATORS`, `name:key=value,…`, a mapping with `name`, or a
            recalibrator; the object that is passed in stays as it is.
        reading: How to read files that are not as this package writes them.

    Raises:
        InputError: `method` or one of its options is not allowed; a file or a value in it is
            wrong; no row to fit on has a label; the two share rows, have different classes, or
            were made by different models.
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

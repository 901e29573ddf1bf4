"""Conformal predictors by name, and `conformal_sets`, which separates fit and evaluation rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora import options
from bayeslora.conformal.config import CONFORMAL
from bayeslora.conformal.predictors import APS, LAC, RAPS, ConformalPredictor
from bayeslora.held_out import held_out
from bayeslora.predictions.collection import PredictionsLike
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions

_METHODS: tuple[type[Any], ...] = (LAC, APS, RAPS)


@dataclass(frozen=True, eq=False)
class ConformalSets:
    """Prediction sets with guaranteed coverage, as `conformal_sets` returns them.

    Attributes:
        predictions: Predictions of the rows of `apply` with `sets`, which are also saved to files.
        predictor: Fitted predictor, which can be applied to further rows.
    """

    predictions: Predictions
    predictor: ConformalPredictor

    @property
    def sets(self) -> NDArray[np.bool_]:
        """[N, C]: which classes are in each row's set."""
        return np.asarray(self.predictions.sets, dtype=np.bool_)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[N]: number of classes in each row's set."""
        return np.asarray(self.sets.sum(1), dtype=np.int64)

    @property
    def alpha(self) -> float:
        """The share of labels that may be missed."""
        return self.predictor.alpha

    @property
    def method(self) -> str:
        """The name of the predictor."""
        return self.predictor.name


def conformal_sets(
    fit: PredictionsLike,
    apply: PredictionsLike,
    alpha: float | None = None,
    method: str | Mapping[str, Any] | ConformalPredictor = "lac",
    reading: PredictionsReading = AS_WRITTEN,
) -> ConformalSets:
    """Fit conformal thresholds to held-out predictions and return sets for other predictions.

    If fit rows and rows to apply to are exchangeable, a set contains the label of a new row with a
    probability of at least 1 − alpha over the choice of both; with `classwise` this holds within
    every class. There is no guarantee for rows of another distribution.

    Args:
        fit: Labelled predictions of rows that the model was not trained on, their file, or a data
            frame.
        apply: Predictions of other rows by the same model, their file, or a data frame; further
            columns are kept.
        alpha: Share of labels that may be missed; None uses that of `method`, 0.1 by default.
        method: A name of `CONFORMAL`, `name:key=value,…`, a mapping with `name`, or a predictor,
            which is not modified.
        reading: Options for reading files that were not written by this package.

    Raises:
        InputError: `method` or one of its options is not allowed; a file or a value in it is
            invalid; no fit row has a label; the two predictions share rows, have different classes,
            or were made by different models.
    """
    predictor = build(method, alpha)
    fitted, applied = held_out(fit, apply, "a conformal threshold", reading)
    predictor.fit(fitted)
    return ConformalSets(predictor.apply(applied), predictor)


def build(
    method: str | Mapping[str, Any] | ConformalPredictor, alpha: float | None = None
) -> ConformalPredictor:
    """Return an unfitted predictor with the options given by `method`.

    Args:
        method: As in `conformal_sets`.
        alpha: Overrides that of `method` if given.

    Raises:
        InputError: The name, an option or its value is not allowed.
    """
    chosen = options.resolve("method", method, CONFORMAL)
    names = [field.name for field in dataclasses.fields(CONFORMAL[chosen.name])]
    values = {name: getattr(chosen, name) for name in names}
    if alpha is not None:
        values["alpha"] = alpha
    predictor_class = next(cls for cls in _METHODS if cls.name == chosen.name)
    predictor: ConformalPredictor = predictor_class(**values)
    return predictor

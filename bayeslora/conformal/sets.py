"""Conformal predictors by name, and the one call that keeps fit and evaluation rows apart."""

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
        predictions: The rows to apply to, with `sets`; saved to a file, they keep them.
        predictor: What was fitted; it applies to further rows.
    """

    predictions: Predictions
    predictor: ConformalPredictor

    @property
    def sets(self) -> NDArray[np.bool_]:
        """[N, C]: which classes are in a row's set."""
        return np.asarray(self.predictions.sets, dtype=np.bool_)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[N]: how many classes are in a row's set."""
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
    """Fit conformal thresholds to held-out predictions and make sets for others.

    A set holds the label of a new row with a probability of at least 1 − alpha, over the choice of
    both, where the rows to fit on and to apply to are exchangeable; `classwise` makes that hold
    within every class. Rows of another distribution get sets without any promise.

    Args:
        fit: Labelled predictions of rows that the model was not trained on, their file, or a data
            frame.
        apply: Predictions of other rows by the same model, their file, or a data frame; further
            columns are kept.
        alpha: The share of labels that may be missed; that of `method` if None, 0.1 by default.
        method: A name of `CONFORMAL`, `name:key=value,…`, a mapping with `name`, or a predictor;
            the object that is passed in stays as it is.
        reading: How to read files that are not as this package writes them.

    Raises:
        InputError: `method` or one of its options is not allowed; a file or a value in it is
            wrong; no row to fit on has a label; the two share rows, have different classes, or
            were made by different models.
    """
    predictor = build(method, alpha)
    fitted, applied = held_out(fit, apply, "a conformal threshold", reading)
    predictor.fit(fitted)
    return ConformalSets(predictor.apply(applied), predictor)


def build(
    method: str | Mapping[str, Any] | ConformalPredictor, alpha: float | None = None
) -> ConformalPredictor:
    """Return an unfitted predictor with the options that `method` stands for.

    Args:
        method: As in `conformal_sets`.
        alpha: Goes before that of `method` where it is given.

    Raises:
        InputError: The name, an option or its value is not allowed.
    """
    chosen = options.resolve("method", method, CONFORMAL)
    names = [one.name for one in dataclasses.fields(CONFORMAL[chosen.name])]
    values = {name: getattr(chosen, name) for name in names}
    if alpha is not None:
        values["alpha"] = alpha
    found = next(one for one in _METHODS if one.name == chosen.name)
    made: ConformalPredictor = found(**values)
    return made

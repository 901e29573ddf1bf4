"""What every conformal predictor does once it has nonconformity scores."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
from numpy.typing import NDArray

from bayeslora.conformal.config import CONFORMAL
from bayeslora.conformal.thresholds import (
    classwise_thresholds,
    marginal_threshold,
    say_infinite,
)
from bayeslora.conformal.types import ConformalPredictor
from bayeslora.errors import InputError
from bayeslora.held_out import check_classes
from bayeslora.predictions.record import Predictions

Array = NDArray[np.float64]


def set_thresholds(
    predictor: ConformalPredictor,
    scores: Array,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
) -> None:
    """Set the thresholds of a predictor from the scores of its fit rows.

    Args:
        predictor: Gets `thresholds`, `classes` and `num_rows`.
        scores: [N, C] nonconformity of every class.
        labels: [N].
        classes: C names.
    """
    own = np.take_along_axis(scores, labels[:, None], 1)[:, 0]
    if predictor.classwise:
        found = classwise_thresholds(own, labels, len(classes), predictor.alpha)
    else:
        found = np.full(len(classes), marginal_threshold(own, predictor.alpha))
    say_infinite(found, classes, predictor.alpha)
    predictor.thresholds, predictor.classes, predictor.num_rows = found, classes, len(labels)


def check_applicable(predictor: ConformalPredictor, predictions: Predictions) -> None:
    """Complain where a predictor is not fitted yet, or was fitted on other classes.

    Raises:
        InputError: It is so.
    """
    if predictor.thresholds is None:
        raise InputError(f"these {predictor.name} sets are not fitted yet; call fit first")
    check_classes(
        f"the {predictor.name} sets were fitted on", predictor.classes, predictions.classes
    )


def with_sets(
    predictor: ConformalPredictor, predictions: Predictions, scores: Array
) -> Predictions:
    """Return the predictions with the classes whose score is within the threshold.

    Args:
        predictor: Fitted.
        predictions: N rows.
        scores: [N, C] nonconformity of every class.
    """
    chosen = dataclasses.fields(CONFORMAL[predictor.name])
    values = {one.name: getattr(predictor, one.name) for one in chosen}
    return predictions.replace(
        sets=scores <= np.asarray(predictor.thresholds),
        metadata={
            **predictions.metadata,
            "conformal": predictor.name,
            **{f"conformal_{name}": json.dumps(value) for name, value in values.items()},
            "conformal_rows": str(predictor.num_rows),
        },
    )

"""What every recalibrator needs: logarithms, normalisation, and the record of the result."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.held_out import check_classes
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.config import RECALIBRATORS
from bayeslora.recalibration.types import Recalibrator

FLOOR = float(np.finfo(np.float64).eps)
"""Probabilities closer to 0 than this count as this where a logarithm enters a regression."""


def log_probs(probs: NDArray[np.float64], floor: float = FLOOR) -> NDArray[np.float64]:
    """Return logarithms, with probabilities below `floor` read as that."""
    return np.log(np.maximum(probs, floor))


def one_hot(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return [N, C] float64: 1 at the label, else 0."""
    return np.asarray(labels[:, None] == np.arange(num_classes), dtype=np.float64)


def base_rates(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return [C]: each class's share of the labels by Laplace's rule, (k + 1) / (N + C)."""
    counts = np.bincount(labels, minlength=num_classes)
    return np.asarray((counts + 1) / (len(labels) + num_classes))


def renormalised(values: NDArray[np.float64], stated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what was fitted to each class against the rest as probabilities that sum to 1.

    Args:
        values: [N, C] from 0 on, each class for itself.
        stated: [N, C] the probabilities before; a row whose values are all zero keeps them, since
            nothing in it says how to share out the 1.
    """
    sums = values.sum(1, keepdims=True)
    return np.where(sums > 0, values / np.where(sums > 0, sums, 1.0), stated)


def check_applicable(recalibrator: Recalibrator, predictions: Predictions) -> None:
    """Complain where a recalibrator is not fitted yet, or was fitted on other classes.

    Raises:
        InputError: It is so.
    """
    if not recalibrator.classes:
        raise InputError(f"this {recalibrator.name} is not fitted yet; call fit first")
    check_classes(
        f"the {recalibrator.name} was fitted on", recalibrator.classes, predictions.classes
    )


def with_new_probs(
    recalibrator: Recalibrator,
    predictions: Predictions,
    probs: NDArray[np.float64],
    name: str | None,
) -> Predictions:
    """Return the predictions with recalibrated probabilities; the metadata say by what.

    `total` becomes the entropy of the new probabilities where it was known; `aleatoric` and
    `epistemic` are dropped, because they describe draws that this does not change. Prediction sets
    are dropped too; further scores are kept.
    """
    new = predictions.with_probs(probs, name)
    chosen = dataclasses.fields(RECALIBRATORS[recalibrator.name])
    values = {one.name: getattr(recalibrator, one.name) for one in chosen}
    notes = {k: v for k, v in predictions.metadata.items() if not k.startswith("conformal")}
    numbers = {
        key: value if isinstance(value, str) else repr(value)
        for key, value in recalibrator.report().items()
    }
    return new.replace(
        total=None if predictions.total is None else new.uncertainty("entropy"),
        metadata={
            **notes,
            "recalibration": recalibrator.name,
            **{f"recalibration_{name}": json.dumps(value) for name, value in values.items()},
            **numbers,
            "recalibration_rows": str(recalibrator.num_rows),
        },
    )

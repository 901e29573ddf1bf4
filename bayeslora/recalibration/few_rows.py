"""Whether there are enough rows for what a recalibrator learns, by cross-validation where not.

Of few rows a recalibrator learns chance, and its scores on these rows cannot show it: there are
`ROWS_PER_PARAMETER` rows per parameter, and `LEAST_ROWS`, below which the rows are left out in
turn and scored by what is learned from the others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.held_out import settled_order
from bayeslora.plain_text import counted
from bayeslora.recalibration.base import Recalibrator
from bayeslora.recalibration.config import RECALIBRATORS

logger = logging.getLogger(__name__)

LEAST_ROWS = 30
ROWS_PER_PARAMETER = 10
FOLDS = 5

_MOST_WORK = 200_000
"""Rows times parameters beyond which cross-validation would take longer than it is worth."""

_FLOOR = 1e-12  # as in the NLL of all scores


@dataclass(frozen=True)
class CrossValidated:
    """NLL in nats of rows that were left out in turn.

    Attributes:
        before: Of their probabilities as they are.
        after: Of those that a recalibrator fitted to the other rows gives.
        folds: In how many parts the rows were left out.
    """

    before: float
    after: float
    folds: int


def check_rows(
    fitted: Recalibrator, probs: NDArray[np.float64], labels: NDArray[np.int64]
) -> CrossValidated | None:
    """Log a warning where a recalibrator was fitted to few rows, and return what they show.

    Args:
        fitted: The recalibrator; it stays as it is.
        probs: [N, C] of the rows that it was fitted to.
        labels: [N].

    Returns:
        None where there are enough rows, too few to leave some out, or too many parameters for it.
    """
    rows, parameters = len(labels), fitted.num_parameters(probs.shape[1])
    if rows >= max(LEAST_ROWS, ROWS_PER_PARAMETER * parameters):
        return None
    found = None
    if rows >= 2 and rows * parameters <= _MOST_WORK:
        found = _cross_validated(fitted, probs, labels)
    logger.warning(
        "%s was fitted to %s, few for %s%s",
        fitted.title,
        counted(rows, "labelled row"),
        counted(parameters, "parameter"),
        _outcome(found),
    )
    return found


def _outcome(found: CrossValidated | None) -> str:
    if found is None:
        return "; what it learned may be chance"
    change = f"the NLL of rows left out in turn goes from {found.before:.3f} to {found.after:.3f}"
    if found.after > found.before:
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
    options = _options(fitted)
    for left_out in range(folds):
        out = fold == left_out
        fresh = type(fitted)(**options)
        fresh.learn(probs[~out], labels[~out])
        new[out] = fresh.mapped(probs[out])
    return CrossValidated(_nll(probs, labels), _nll(new, labels), folds)


def _options(fitted: Recalibrator) -> dict[str, Any]:
    """Return what was chosen about a recalibrator, without what a fit found."""
    return {one.name: getattr(fitted, one.name) for one in fields(RECALIBRATORS[fitted.name])}


def _nll(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    of_label = np.take_along_axis(probs, labels[:, None], 1)
    return float(-np.log(np.maximum(of_label, _FLOOR)).mean())

"""Recalibrators by name, and the one call that keeps fit and evaluation rows apart.

Of few rows a recalibrator learns chance, and its scores on these rows cannot show it: there are
`ROWS_PER_PARAMETER` rows per parameter, and `LEAST_ROWS`, below which the rows are left out in
turn and scored by what is learned from the others.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.held_out import fitting_rows, held_out, settled_order
from bayeslora.plain_text import counted
from bayeslora.predictions.collection import PredictionsLike
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.config import CATALOGUE
from bayeslora.recalibration.recalibrator import Recalibrator

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
    return {one.name: getattr(fitted, one.name) for one in fields(CATALOGUE[fitted.name])}


def _nll(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    of_label = np.take_along_axis(probs, labels[:, None], 1)
    return float(-np.log(np.maximum(of_label, _FLOOR)).mean())


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
    chosen = options.resolve("method", method, CATALOGUE)
    config = CATALOGUE[chosen.name]
    names = [one.name for one in dataclasses.fields(config)]
    found = _recalibrator_of(config)
    made: Recalibrator = found(**{name: getattr(chosen, name) for name in names})
    return made


def _recalibrator_of(config: type[Any]) -> type[Any]:
    """Return the recalibrator that options name.

    Raises:
        InputError: It cannot be loaded, or is no recalibrator with these options.
    """
    where = f"the recalibrator of {config.name!r}, {config.recalibrator!r},"
    try:
        found = resolve_name(config.recalibrator)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Recalibrator)):
        raise InputError(f"{where} must be a class that derives from Recalibrator, got {found!r}")
    if not issubclass(found, config):
        raise InputError(f"{where} must derive from its options, {config.__name__}")
    return found


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
        method: A name of `bayeslora methods`, `name:key=value,…`, a mapping with `name`, or a
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

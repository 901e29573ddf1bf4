"""Recalibrators: base class, names, and `recalibrate`, which separates fit and evaluation rows.

A recalibrator is a dataclass of options and fitted parameters with the methods `fit`, `apply` and
`report`.

With few rows a recalibrator overfits, and its scores on these rows cannot show this: a warning says
so with fewer than `ROWS_PER_PARAMETER` rows per parameter, or fewer than `LEAST_ROWS` rows.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.held_out import (
    STEPS,
    check_classes,
    fitting_rows,
    held_out,
    recalibrations,
    with_gaps,
)
from bayeslora.option_checks import Options
from bayeslora.options import BuiltIn, Catalogue
from bayeslora.plain_text import counted
from bayeslora.predictions.collection import PredictionsLike
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions
from bayeslora.processes import one_blas_thread

FLOOR = float(np.finfo(np.float64).eps)
"""Lower bound on probabilities whose logarithm enters a regression."""

Array = NDArray[np.float64]
Labels = NDArray[Any]
"""[N] class indices, or [N, C] shares of the classes."""


def log_probs(probs: NDArray[np.float64], floor: float = FLOOR) -> NDArray[np.float64]:
    """Return logarithms of probabilities clipped to at least `floor`."""
    return np.log(np.maximum(probs, floor))


def one_hot(labels: Labels, num_classes: int) -> NDArray[np.float64]:
    """Return one-hot labels, [N, C] float64; shares [N, C] as they are."""
    if labels.ndim == 2:
        return labels
    return np.asarray(labels[:, None] == np.arange(num_classes), dtype=np.float64)


def at_label(values: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """Return the value of each row's label, [N], or their mean under shares.

    Args:
        values: [N, C].
        labels: [N] class indices, or [N, C] shares.
    """
    if labels.ndim == 2:
        return np.asarray((labels * values).sum(1))
    return np.take_along_axis(values, labels[:, None], 1)[:, 0]


def base_rates(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return the share of each class by Laplace's rule, (k + 1) / (N + C), [C]."""
    counts = np.bincount(labels, minlength=num_classes)
    return np.asarray((counts + 1) / (len(labels) + num_classes))


def renormalised(values: NDArray[np.float64], stated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise one-vs-rest values to probabilities that sum to 1.

    Args:
        values: [..., N, C] non-negative values, independent per class.
        stated: [N, C] original probabilities, kept for rows whose values are all zero and thus
            cannot be normalised.
    """
    sums = values.sum(-1, keepdims=True)
    return np.where(sums > 0, values / np.where(sums > 0, sums, 1.0), stated)


MAX_STEPS = 3000

EXACT, ROUGH = 1e-9, 1e-5
"""Gradient tolerances for a mean over rows: for final fits; for choosing between fits."""


def minimise(
    objective: Callable[[Array], tuple[float, Array]],
    start: Array,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    tolerance: float = EXACT,
) -> Array:
    """Return the minimiser of a convex function; log a warning if the search stops early.

    Args:
        objective: Function from [P] to the value and the gradient, [P].
        start: [P] starting point.
        bounds: Lower and upper bound of every parameter; None is unbounded.
        tolerance: Largest absolute entry of the gradient at which the search stops.
    """
    from scipy.optimize import minimize

    with one_blas_thread():
        result = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={
                "maxiter": MAX_STEPS,
                "maxfun": 2 * MAX_STEPS,
                "maxcor": 20,
                "ftol": 1e-15 if tolerance == EXACT else tolerance**2,
                "gtol": tolerance,
            },
        )
    if result.nit >= MAX_STEPS:
        gradient = float(np.abs(result.jac).max())
        logger.warning("recalibration stopped after %d steps, gradient %.1e", result.nit, gradient)
    return np.asarray(result.x, dtype=np.float64)


@dataclass(eq=False)
class Recalibrator(Options, ABC):
    """A map from probabilities to probabilities, fitted to held-out labels.

    Subclasses implement `learn` for the fit, `mapped` for the map, and `report` for a summary.

    Attributes:
        name: Name to choose it by.
        summary: Short description.
        source: Reference: authors, year, venue.
        title: Name in a sentence.
        classes: Class names of the fit rows; empty before `fit`.
        num_rows: Number of labelled fit rows.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    title: ClassVar[str]
    by_class: ClassVar[bool] = True
    """Whether the map differs by class, so that each class needs rows."""
    takes_gaps: ClassVar[bool] = False
    """Whether rows may lack classes, whose probability is NaN, and 0 after the map."""
    takes_soft: ClassVar[bool] = False
    """Whether `learn` takes shares [N, C] in place of labels."""

    classes: tuple[str, ...] = field(default=(), init=False)
    num_rows: int = field(default=0, init=False)

    def fit(self, predictions: Predictions) -> Self:
        """Fit to the labelled rows; unlabelled ones are skipped.

        Args:
            predictions: Predictions of rows that the model was not trained on.

        Returns:
            The recalibrator itself.

        Raises:
            InputError: No row has a label, or rows lack classes and the method needs all classes.
        """
        self._check_gaps(predictions)
        probs, labels = fitting_rows(predictions, self.title)
        missing = sorted(set(range(len(predictions.classes))) - set(labels.tolist()))
        if missing and self.by_class:
            logger.warning(
                "%s has no labelled row of %s, and lowers its probability regardless of the "
                "model's prediction",
                self.title,
                ", ".join(repr(predictions.classes[index]) for index in missing),
            )
        targets: Labels = labels
        if predictions.soft_labels is not None and self.takes_soft:
            targets = predictions.label_shares[predictions.labelled]
        elif predictions.soft_labels is not None:
            logger.warning("%s is fitted to the most frequent label of each row", self.title)
        self.learn(probs, targets)
        self.classes, self.num_rows = predictions.classes, len(labels)
        return self

    def apply(self, predictions: Predictions, name: str | None = None) -> Predictions:
        """Return the predictions with recalibrated probabilities, and the method in the metadata.

        `total`, if present, becomes the entropy of the new probabilities; `aleatoric` and
        `epistemic` are dropped, because they describe draws that this does not change. Prediction
        sets are dropped too; further scores are kept.

        Args:
            predictions: Predictions over the same classes, labelled or not.
            name: New name; None keeps the name.

        Raises:
            InputError: The recalibrator is not fitted, or fitted on other classes.
        """
        if not self.classes:
            raise InputError(
                f"this {self.name} is not fitted yet; call fit first", code="not-fitted"
            )
        check_classes(f"the {self.name} was fitted on", self.classes, predictions.classes)
        self._check_gaps(predictions)
        new = predictions.with_probs(self.recalibrated(predictions), name)
        total = None if predictions.total is None else new.uncertainty("entropy")
        return new.replace(
            total=total,
            metadata={**_kept_metadata(predictions), **self._notes(), **_history(predictions)},
        )

    def recalibrated(self, predictions: Predictions) -> Array:
        """Return the recalibrated probabilities of the rows, [N, C]."""
        return self.mapped(with_gaps(predictions))

    def _check_gaps(self, predictions: Predictions) -> None:
        if predictions.available is not None and not self.takes_gaps:
            raise InputError(
                f"{self.title} maps each class separately, but the rows differ in their number of "
                "options; choose 'temperature'"
            )

    @abstractmethod
    def learn(self, probs: Array, labels: Labels) -> None:
        """Fit to probabilities, [N, C], and labels, [N], with N ≥ 1."""

    @abstractmethod
    def mapped(self, probs: Array) -> Array:
        """Return the recalibrated probabilities, [N, C], whose rows sum to 1."""

    @abstractmethod
    def num_parameters(self, num_classes: int) -> int:
        """Return the number of fitted parameters; more parameters need more rows."""

    @abstractmethod
    def report(self) -> dict[str, float | str]:
        """Return a few numbers that summarise the fit."""

    def _notes(self) -> dict[str, str]:
        chosen = [option for option in dataclasses.fields(self) if option.init]
        values = {f"recalibration_{option.name}": getattr(self, option.name) for option in chosen}
        numbers = {
            key: value if isinstance(value, str) else repr(value)
            for key, value in self.report().items()
        }
        return {
            "recalibration": self.name,
            **{key: json.dumps(value) for key, value in values.items()},
            **numbers,
            "recalibration_rows": str(self.num_rows),
        }


def _kept_metadata(predictions: Predictions) -> dict[str, str]:
    dropped = ("conformal", "recalibration")
    return {k: v for k, v in predictions.metadata.items() if not k.startswith(dropped)}


def _history(predictions: Predictions) -> dict[str, str]:
    steps = recalibrations(predictions)
    return {"recalibration_before": STEPS.join(steps)} if steps else {}


logger = logging.getLogger(__name__)

RECALIBRATORS = BuiltIn(
    {
        "temperature": "bayeslora.recalibration.linear:Temperature",
        "vector": "bayeslora.recalibration.linear:VectorScaling",
        "matrix": "bayeslora.recalibration.linear:MatrixScaling",
        "beta": "bayeslora.recalibration.one_vs_rest:BetaCalibration",
        "histogram": "bayeslora.recalibration.one_vs_rest:HistogramBinning",
        "isotonic": "bayeslora.recalibration.one_vs_rest:IsotonicRegression",
        "prior": "bayeslora.recalibration.prior:PriorShift",
        "bayesian-temperature": "bayeslora.recalibration.bayesian:BayesianTemperature",
        "bayesian-logistic": "bayeslora.recalibration.bayesian:BayesianLogistic",
    }
)
"""The built-in recalibrators by name."""

CATALOGUE = Catalogue("recalibrator", RECALIBRATORS, Recalibrator)
"""Every recalibrator by name, including those of other packages."""

LEAST_ROWS = 30
ROWS_PER_PARAMETER = 10
"""Numbers of rows below which the result may be due to chance."""


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """Result of `recalibrate`.

    Attributes:
        predictions: Recalibrated predictions of the rows of `apply`.
        recalibrator: Fitted recalibrator, which can be applied to further rows.
        before: Original predictions of the rows of `apply`.
        fit_before: Original predictions of the fit rows.
        fit_after: Recalibrated predictions of the fit rows, whose scores are optimistic.
    """

    predictions: Predictions
    recalibrator: Recalibrator
    before: Predictions
    fit_before: Predictions
    fit_after: Predictions


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
    build(method)
    fitted, applied = held_out(fit, apply, "a recalibrator", reading)
    chosen = fit_recalibrator(fitted, method)
    return Recalibrated(
        predictions=chosen.apply(applied, f"{applied.name}+{chosen.name}"),
        recalibrator=chosen,
        before=applied,
        fit_before=fitted,
        fit_after=chosen.apply(fitted),
    )


def fit_recalibrator(
    predictions: Predictions, method: str | Mapping[str, Any] | Recalibrator = "temperature"
) -> Recalibrator:
    """Return a recalibrator fitted to held-out predictions, with a warning if these are few.

    Args:
        predictions: Labelled predictions of rows that the model was not trained on.
        method: See `recalibrate`.

    Raises:
        InputError: `method` or one of its options is not allowed, or no row has a label.
    """
    chosen = build(method).fit(predictions)
    rows, parameters = chosen.num_rows, chosen.num_parameters(len(chosen.classes))
    if rows < max(LEAST_ROWS, ROWS_PER_PARAMETER * parameters):
        logger.warning(
            "%s was fitted to only %s for %s; the result may be due to chance",
            chosen.title,
            counted(rows, "labelled row"),
            counted(parameters, "parameter"),
        )
    return chosen

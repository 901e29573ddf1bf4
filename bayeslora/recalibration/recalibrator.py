"""What a recalibrator is, and what several of them need.

It holds options and what a fit found in one dataclass, and has three verbs: `fit`, `apply`,
`report`. Shared are logarithms, targets, base rates, normalisation, and the minimum of a smooth
convex function by scipy's L-BFGS-B.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.held_out import STEPS, check_classes, fitting_rows, recalibrations, with_gaps
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.config import CATALOGUE
from bayeslora.runtime import one_blas_thread

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


logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MAX_STEPS = 3000

EXACT, ROUGH = 1e-9, 1e-5
"""What is left of the gradient of a mean over rows: to print numbers; to choose between fits."""


def minimise(
    objective: Callable[[Array], tuple[float, Array]],
    start: Array,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    tolerance: float = EXACT,
) -> Array:
    """Return where a convex function is lowest; say where the search stops short of it.

    Args:
        objective: Takes [P] and returns the value and the gradient [P].
        start: [P].
        bounds: Lower and upper end of every parameter; None is unbounded.
        tolerance: Largest entry of the gradient at which the search ends.
    """
    from scipy.optimize import minimize

    with one_blas_thread():
        found = minimize(
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
    if found.nit >= MAX_STEPS:
        left = float(np.abs(found.jac).max())
        logger.warning("recalibration stopped after %d steps, gradient %.1e", found.nit, left)
    return np.asarray(found.x, dtype=np.float64)


@dataclass(eq=False)
class Recalibrator(ABC):
    """A map from probabilities to probabilities, fitted to held-out labels.

    A method says in `learn` how it is fitted, in `mapped` what it makes of probabilities, and in
    `report` what was found.

    Attributes:
        name: By which it is chosen.
        summary: What it does, in a few words.
        source: Author, year, where.
        title: Its name in a sentence.
        classes: Class names of the rows it was fitted on; empty before `fit`.
        num_rows: Labelled rows it was fitted on.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    title: ClassVar[str]
    by_class: ClassVar[bool] = True
    """Whether classes are changed differently, so that each needs rows."""
    takes_gaps: ClassVar[bool] = False
    """Whether a row may lack classes; their probability is NaN, and 0 after the map."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    num_rows: int = field(default=0, kw_only=True)

    def fit(self, predictions: Predictions) -> Self:
        """Fit to the labelled rows; unlabelled ones are skipped.

        Args:
            predictions: Of rows that the model was not trained on.

        Returns:
            The recalibrator itself.

        Raises:
            InputError: No row has a label, or rows lack classes and the method needs all of them.
        """
        self._check_gaps(predictions)
        probs, labels = fitting_rows(predictions, self.title)
        missing = sorted(set(range(len(predictions.classes))) - set(labels.tolist()))
        if missing and self.by_class:
            logger.warning(
                "%s has no row of %s to learn from, and makes it less probable whatever the model "
                "says",
                self.title,
                ", ".join(repr(predictions.classes[index]) for index in missing),
            )
        self.learn(probs, labels)
        self.classes, self.num_rows = predictions.classes, len(labels)
        return self

    def apply(self, predictions: Predictions, name: str | None = None) -> Predictions:
        """Return the predictions with recalibrated probabilities; the metadata say by what.

        `total` becomes the entropy of the new probabilities where it was known; `aleatoric` and
        `epistemic` are dropped, because they describe draws that this does not change. Prediction
        sets are dropped too; further scores are kept.

        Args:
            predictions: Rows over the same classes, labelled or not.
            name: The new name; the old one if None.

        Raises:
            InputError: Not fitted, or fitted on other classes.
        """
        if not self.classes:
            raise InputError(
                f"this {self.name} is not fitted yet; call fit first", code="not-fitted"
            )
        check_classes(f"the {self.name} was fitted on", self.classes, predictions.classes)
        self._check_gaps(predictions)
        new = predictions.with_probs(self.mapped(with_gaps(predictions)), name)
        total = None if predictions.total is None else new.uncertainty("entropy")
        return new.replace(
            total=total, metadata={**_kept(predictions), **self._notes(), **_history(predictions)}
        )

    def _check_gaps(self, predictions: Predictions) -> None:
        if predictions.available is not None and not self.takes_gaps:
            raise InputError(
                f"{self.title} changes each class in its own way, and the rows differ in their "
                "number of options; choose 'temperature'"
            )

    @abstractmethod
    def learn(self, probs: Array, labels: NDArray[np.int64]) -> None:
        """Fit to [N, C] probabilities and their [N] labels, N ≥ 1."""

    @abstractmethod
    def mapped(self, probs: Array) -> Array:
        """Return [N, C] new probabilities for [N, C] stated ones; rows sum to 1."""

    @abstractmethod
    def num_parameters(self, num_classes: int) -> int:
        """Return how many numbers are learned for so many classes; more of them need more rows."""

    @abstractmethod
    def report(self) -> dict[str, float | str]:
        """Return the few numbers that summarise the fit."""

    def _notes(self) -> dict[str, str]:
        chosen = dataclasses.fields(CATALOGUE[self.name])
        values = {f"recalibration_{one.name}": getattr(self, one.name) for one in chosen}
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


def _kept(predictions: Predictions) -> dict[str, str]:
    dropped = ("conformal", "recalibration")
    return {k: v for k, v in predictions.metadata.items() if not k.startswith(dropped)}


def _history(predictions: Predictions) -> dict[str, str]:
    steps = recalibrations(predictions)
    return {"recalibration_before": STEPS.join(steps)} if steps else {}

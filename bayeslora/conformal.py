"""Conformal predictors: the base class, thresholds and scores.

A predictor is a dataclass of options and fitted thresholds with the methods `fit` and `apply`.
Subclasses implement `scores`, the nonconformity of each class of a row.

*Thresholds* are exact for finite samples. Among n + 1 exchangeable rows, the score of the last is
at most the k-th smallest of the others with a probability of at least k / (n + 1). With
k = ⌈(n + 1)(1 − α)⌉ this is at least 1 − α, and below 1 − α + 1 / (n + 1) without ties (Vovk,
Gammerman and Shafer 2005; Papadopoulos et al. 2002 for the split of rows). If k > n, the threshold
is infinite, and the set contains every class.

*LAC*, the least ambiguous set-valued classifier (Sadinle, Lei and Wasserman 2019, arXiv
1609.00451): the score of class c is 1 − p_c. Of all sets with this coverage they are the smallest
on average if the probabilities are right. Rows without a sufficiently probable class get an empty
set.

*APS* and *RAPS*, adaptive prediction sets without and with regularisation: the most probable
classes up to a total probability.

    score of the class in place k = Σ_{j<k} p_(j) + u p_(k) + λ max(0, k − k_reg)

p_(1) ≥ p_(2) ≥ … are the probabilities of a row; u is uniform on 0 to 1, one number per row, or 0
for sets that are not randomised: these are the smallest sets whose total exceeds the threshold.
Romano, Sesia and Candes 2020, arXiv 2006.02544, with λ = 0 (APS); Angelopoulos, Bates, Malik and
Jordan 2021, arXiv 2009.14193, with λ > 0 (RAPS). Randomised sets may be empty, for rows whose first
class alone exceeds the threshold; adding a class would make the coverage larger than requested.
Classes with equal probabilities are in the order of their columns.

*Ordinal APS*: the sets of ordered classes have no gaps. They grow from the most probable class, at
each step by the more probable neighbour of those at both ends (Lu, Angelopoulos and Pomerantz 2022,
arXiv 2207.02238).

Conformal predictors by name, and `conformal_sets`, which separates fit and evaluation rows.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.held_out import check_classes, fitting_rows, held_out, settled_order, with_gaps
from bayeslora.option_checks import CountOrZero, NotNegative, Options, Seed, Share
from bayeslora.plain_text import listed
from bayeslora.predictions.collection import PredictionsLike
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.predictions.record import Predictions

ALPHA = 0.1
"""Default share of labels that may be missed."""


logger = logging.getLogger(__name__)

Array = NDArray[np.float64]


def quantile_rank(count: int, alpha: float) -> int:
    """Return k = ⌈(n + 1)(1 − α)⌉, with α interpreted as an exact decimal number.

    Args:
        count: Number of rows n.
        alpha: α, between 0 and 1.
    """
    return ceil((count + 1) * (1 - Fraction(repr(float(alpha)))))


def marginal_threshold(scores: Array, alpha: float) -> float:
    """Return the k-th smallest of n scores, or infinity if k > n.

    Args:
        scores: [n] nonconformity score of each row's label.
        alpha: The share of labels that may be missed.
    """
    rank = quantile_rank(len(scores), alpha)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else np.inf


def classwise_thresholds(
    scores: Array, labels: NDArray[np.int64], num_classes: int, alpha: float
) -> Array:
    """Return the threshold of each class from its own rows, [C].

    Such sets are called label-conditional (Vovk 2012, arXiv 1209.2673) or Mondrian.

    Args:
        scores: [n] nonconformity score of each row's label.
        labels: [n] class indices.
        num_classes: Number of classes C.
        alpha: The share of labels that may be missed.
    """
    counts = np.bincount(labels, minlength=num_classes)
    ranks = np.array([quantile_rank(count, alpha) for count in counts.tolist()])
    rising = np.append(scores[np.lexsort((scores, labels))], np.inf)
    starts = np.cumsum(counts) - counts
    # Ranks beyond the rows of a class select the infinity at the end.
    indices = np.where(ranks <= counts, starts + ranks - 1, len(scores))
    return np.asarray(rising[indices])


def say_infinite(thresholds: Array, classes: Sequence[str], alpha: float) -> None:
    """Warn about classes that are in every set because they have too few rows."""
    unbounded = [name for name, value in zip(classes, thresholds, strict=True) if value == np.inf]
    if unbounded:
        needed = ceil(1 / Fraction(repr(float(alpha)))) - 1
        message = "fewer than %d labelled rows for the threshold of %s: in every set"
        logger.warning(message, needed, listed(unbounded))


@dataclass(eq=False)
class ConformalPredictor(Options, ABC):
    """A map from probabilities to sets of classes, fitted to held-out labels.

    Subclasses implement `scores`, the nonconformity of each class of a row.

    Attributes:
        name: Name to choose it by.
        summary: Short description.
        source: Reference: authors, year, venue.
        thresholds: [C] float64: the largest nonconformity score of a class in a set, infinite for
            too few rows; None before `fit`.
        classes: Class names of the fit rows.
        num_rows: Number of labelled fit rows.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    alpha: Share = ALPHA
    """Share of labels that may be outside their set."""
    classwise: bool = False
    """Whether each class has its own threshold, so that the coverage holds within every class."""
    thresholds: Array | None = field(default=None, init=False)
    classes: tuple[str, ...] = field(default=(), init=False)
    num_rows: int = field(default=0, init=False)

    def fit(self, predictions: Predictions) -> Self:
        """Fit the thresholds to the labelled rows; unlabelled rows are skipped.

        Args:
            predictions: Predictions of rows that the model was not trained on.

        Returns:
            The predictor itself.

        Raises:
            InputError: No row has a label.
        """
        probs, labels = fitting_rows(predictions, "a conformal threshold")
        scores = self.scores(probs, fitting=True)
        label_scores = np.take_along_axis(scores, labels[:, None], 1)[:, 0]
        self.thresholds = self._thresholds(label_scores, labels, probs.shape[1])
        self.classes, self.num_rows = predictions.classes, len(labels)
        say_infinite(self.thresholds, self.classes, self.alpha)
        return self

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with sets of the classes whose score is within the threshold.

        Random parts depend on the seed and on the set of rows, but not on their order.

        Args:
            predictions: Predictions over the same classes, labelled or not.

        Raises:
            InputError: The predictor is not fitted, or fitted on other classes.
        """
        if self.thresholds is None:
            raise InputError(
                f"these {self.name} sets are not fitted yet; call fit first", code="not-fitted"
            )
        check_classes(f"the {self.name} sets were fitted on", self.classes, predictions.classes)
        # The score of a class that a row lacks is NaN, which is within no threshold.
        sets = self.scores(with_gaps(predictions), fitting=False) <= self.thresholds
        return predictions.replace(sets=sets, metadata={**predictions.metadata, **self._notes()})

    @abstractmethod
    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the nonconformity score of every class of every row, [N, C].

        Args:
            probs: [N, C] probabilities; NaN, with NaN scores, for classes that a row lacks.
            fitting: Whether these are the fit rows; fit rows and rows to apply to have independent
                random parts.
        """

    def _thresholds(self, scores: Array, labels: NDArray[np.int64], num_classes: int) -> Array:
        if self.classwise:
            return classwise_thresholds(scores, labels, num_classes, self.alpha)
        return np.full(num_classes, marginal_threshold(scores, self.alpha))

    def _notes(self) -> dict[str, str]:
        chosen = [option for option in dataclasses.fields(self) if option.init]
        return {
            "conformal": self.name,
            **{
                f"conformal_{option.name}": json.dumps(getattr(self, option.name))
                for option in chosen
            },
            "conformal_rows": str(self.num_rows),
        }


@dataclass(eq=False)
class LAC(ConformalPredictor):
    """A conformal predictor by the probability of a class."""

    name: ClassVar[str] = "lac"
    summary: ClassVar[str] = "classes above a threshold on the probability; smallest sets"
    source: ClassVar[str] = "Sadinle, Lei and Wasserman 2019, arXiv 1609.00451"

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return 1 − p, [N, C]; nothing in it is random."""
        return 1 - probs


# Fit rows and rows to apply to have independent random parts.
_FIT, _APPLY = 0, 1


@dataclass(eq=False)
class APS(ConformalPredictor):
    """A conformal predictor by the total probability of a class and all more probable ones."""

    randomised: bool = True
    """Whether to count only a random part of a class's own probability, which makes the coverage
    exact and allows empty sets. Otherwise every set contains the most probable class, and the
    coverage is at least the accuracy."""
    seed: Seed = 0
    """Seed of the random parts."""

    name: ClassVar[str] = "aps"
    summary: ClassVar[str] = "the most probable classes up to a total; larger sets for hard rows"
    source: ClassVar[str] = "Romano, Sesia and Candes 2020, arXiv 2006.02544"

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the total probabilities, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting))


@dataclass(eq=False)
class RAPS(APS):
    """A conformal predictor like `APS` that also counts a class's place."""

    penalty: NotNegative = 0.01
    """Penalty λ, added to the score of a class for each rank beyond `k_reg`."""
    k_reg: CountOrZero = 1
    """Rank, from 1, up to which classes have no penalty."""

    name: ClassVar[str] = "raps"
    summary: ClassVar[str] = "APS with a penalty on improbable classes; fewer very large sets"
    source: ClassVar[str] = "Angelopoulos, Bates, Malik and Jordan 2021, arXiv 2009.14193"

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the total probabilities with penalties, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting), self.penalty, self.k_reg)


@dataclass(eq=False)
class OrdinalAPS(APS):
    """A conformal predictor like `APS` whose sets are classes in a row, for ordered classes."""

    name: ClassVar[str] = "ordinal"
    summary: ClassVar[str] = "as aps, without gaps between the classes of a set; ordered classes"
    source: ClassVar[str] = "Lu, Angelopoulos and Pomerantz 2022, arXiv 2207.02238"

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the total probabilities from the most probable class outwards, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting), order=outward(probs))


def _parts(options: APS, probs: Array, fitting: bool) -> Array:
    """Return u, [N, 1]."""
    parts = np.zeros((len(probs), 1))
    if options.randomised:
        generator = np.random.default_rng([options.seed, _FIT if fitting else _APPLY])
        parts[settled_order(probs)] = generator.random((len(probs), 1))
    return parts


def outward(probs: Array) -> NDArray[np.int64]:
    """Return [N, C] classes in the order in which an ordinal set takes them.

    Merging the classes on both sides of the peak by the larger head sorts them by the least
    probability on the way to the peak.

    Args:
        probs: [N, C] probabilities of ordered classes.
    """
    places, peak = np.arange(probs.shape[1]), probs.argmax(1)[:, None]
    below, above = np.where(places <= peak, probs, np.inf), np.where(places >= peak, probs, np.inf)
    falling = np.minimum.accumulate(below[:, ::-1], 1)[:, ::-1]
    least = np.where(places <= peak, falling, np.minimum.accumulate(above, 1))
    return np.lexsort((np.abs(places - peak), places > peak, -least), axis=1)


def adaptive_scores(
    probs: Array,
    parts: Array,
    penalty: float = 0.0,
    k_reg: int = 0,
    order: NDArray[np.int64] | None = None,
) -> Array:
    """Return the scores of all classes, [N, C].

    Args:
        probs: [N, C] probabilities.
        parts: [N, 1] u, the part of a class's own probability that is included.
        penalty: Penalty λ.
        k_reg: Last rank, from 1, without a penalty.
        order: [N, C] classes in the order in which a set takes them; None takes the most probable
            first.
    """
    if order is None:
        order = np.argsort(-probs, axis=1, kind="stable")
    falling = np.take_along_axis(probs, order, 1)
    ranks = np.arange(1, probs.shape[1] + 1)
    before = np.cumsum(falling, axis=1) - falling
    ranked: Array = before + parts * falling + penalty * np.maximum(0, ranks - k_reg)
    scores: Array = np.empty_like(ranked)
    np.put_along_axis(scores, order, ranked, 1)
    return scores


CONFORMAL: dict[str, type[Any]] = {method.name: method for method in (LAC, APS, RAPS, OrdinalAPS)}
"""Every conformal predictor by its name."""


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
    predictor: ConformalPredictor = dataclasses.replace(
        chosen, alpha=chosen.alpha if alpha is None else alpha
    )
    return predictor

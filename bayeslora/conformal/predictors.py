"""Conformal predictors: what they share, thresholds on a score, and the scores.

A predictor holds options and what a fit found in one dataclass, and has two verbs, `fit` and
`apply`. A method says in `scores` how nonconforming each class of a row is.

*Thresholds* are exact for finitely many rows. Among n + 1 exchangeable rows, the score of the last
one is at most the k-th smallest of the others with a probability of at least k / (n + 1). With
k = ⌈(n + 1)(1 − α)⌉ that is 1 − α or more, and below 1 − α + 1 / (n + 1) where scores do not tie
(Vovk, Gammerman and Shafer 2005; Papadopoulos et al. 2002 for the split of rows). Where k > n no
row's score will do: the threshold is infinite, and the set holds every class.

*LAC*, the least ambiguous set-valued classifier (Sadinle, Lei and Wasserman 2019, arXiv
1609.00451): the score of class c is 1 − p_c. Of all sets with this coverage they are the smallest
on average where the probabilities are right. Rows where no class is probable enough get an empty
set.

*APS* and *RAPS*, adaptive prediction sets, plain and regularised: the most probable classes up to a
total.

    score of the class in place k = Σ_{j<k} p_(j) + u p_(k) + λ max(0, k − k_reg)

p_(1) ≥ p_(2) ≥ … are a row's probabilities; u is uniform on 0 to 1, one number a row, or 0 where
the sets are not randomised: they then are the fewest classes whose total exceeds the threshold.
Romano, Sesia and Candes 2020, arXiv 2006.02544, with λ = 0 (APS);
Angelopoulos, Bates, Malik and Jordan 2021, arXiv 2009.14193, with λ > 0 (RAPS).
Randomised sets may be empty, at rows whose first class alone exceeds the threshold; they are left
so, because a class put in would make the coverage larger than asked for. Classes of equal
probability are in the order of their columns.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bayeslora.conformal.config import CONFORMAL, APSOptions, LACOptions, RAPSOptions
from bayeslora.errors import InputError
from bayeslora.held_out import check_classes, fitting_rows, settled_order, with_gaps
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]


def quantile_rank(count: int, alpha: float) -> int:
    """Return k = ⌈(n + 1)(1 − α)⌉, with α taken as the decimal number that was written.

    Args:
        count: n.
        alpha: α, between 0 and 1.
    """
    return ceil((count + 1) * (1 - Fraction(repr(float(alpha)))))


def marginal_threshold(scores: Array, alpha: float) -> float:
    """Return the k-th smallest of [n] scores, infinite where k > n.

    Args:
        scores: [n] nonconformity of each row's label.
        alpha: The share of labels that may be missed.
    """
    rank = quantile_rank(len(scores), alpha)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else np.inf


def classwise_thresholds(
    scores: Array, labels: NDArray[np.int64], num_classes: int, alpha: float
) -> Array:
    """Return [C]: the threshold of each class, from its own rows alone.

    Vovk 2012 (arXiv 1209.2673) calls such sets label-conditional, others Mondrian.

    Args:
        scores: [n] nonconformity of each row's label.
        labels: [n].
        num_classes: C.
        alpha: The share of labels that may be missed.
    """
    counts = np.bincount(labels, minlength=num_classes)
    ranks = np.array([quantile_rank(count, alpha) for count in counts.tolist()])
    rising = np.append(scores[np.lexsort((scores, labels))], np.inf)
    starts = np.cumsum(counts) - counts
    # Where the rank is beyond the class's rows, the place is that of the infinity at the end.
    places = np.where(ranks <= counts, starts + ranks - 1, len(scores))
    return np.asarray(rising[places])


def say_infinite(thresholds: Array, classes: Sequence[str], alpha: float) -> None:
    """Log which classes are in every set because too few rows were there to exclude them."""
    without = [name for name, value in zip(classes, thresholds, strict=True) if value == np.inf]
    if not without:
        return
    needed = ceil(1 / Fraction(repr(float(alpha)))) - 1
    if len(without) == len(classes):
        logger.warning("fewer than %d labelled rows: every set holds every class", needed)
        return
    named = ", ".join(map(repr, without[:5])) + (", …" if len(without) > 5 else "")
    logger.warning("fewer than %d labelled rows of %s: such a class is in every set", needed, named)


@dataclass(eq=False)
class ConformalPredictor(ABC):
    """A map from probabilities to sets of classes, fitted to held-out labels.

    A method says in `scores` how nonconforming each class of a row is.

    Attributes:
        name: By which it is chosen.
        summary: What it does, in a few words.
        source: Author, year, where.
        alpha: The share of labels that may be missed.
        classwise: Whether every class has a threshold of its own.
        thresholds: [C] float64: the largest nonconformity score of a class in the set, infinite
            where there were too few rows to set one; None before `fit`.
        classes: Class names of the rows it was fitted on.
        num_rows: Labelled rows it was fitted on.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    alpha: float
    classwise: bool
    thresholds: Array | None = field(default=None, kw_only=True)
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    num_rows: int = field(default=0, kw_only=True)

    def fit(self, predictions: Predictions) -> Self:
        """Set the thresholds by the labelled rows; unlabelled ones are skipped.

        Args:
            predictions: Of rows that the model was not trained on.

        Returns:
            The predictor itself.

        Raises:
            InputError: No row has a label.
        """
        probs, labels = fitting_rows(predictions, "a conformal threshold")
        scores = self.scores(probs, fitting=True)
        own = np.take_along_axis(scores, labels[:, None], 1)[:, 0]
        self.thresholds = self._thresholds(own, labels, probs.shape[1])
        self.classes, self.num_rows = predictions.classes, len(labels)
        say_infinite(self.thresholds, self.classes, self.alpha)
        return self

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with the classes whose score is within the threshold.

        Random parts depend on the seed and on the rows that are given together, not on their order.

        Args:
            predictions: Rows over the same classes, labelled or not.

        Raises:
            InputError: Not fitted, or fitted on other classes.
        """
        if self.thresholds is None:
            raise InputError(
                f"these {self.name} sets are not fitted yet; call fit first", code="not-fitted"
            )
        check_classes(f"the {self.name} sets were fitted on", self.classes, predictions.classes)
        # The score of a class that a row does not have is NaN, and within no threshold.
        sets = self.scores(with_gaps(predictions), fitting=False) <= self.thresholds
        return predictions.replace(sets=sets, metadata={**predictions.metadata, **self._notes()})

    @abstractmethod
    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the nonconformity of every class of every row, [N, C].

        Args:
            probs: [N, C]; NaN where a row does not have the class, and so is its score.
            fitting: Whether these are the rows to fit on; they and those to apply to have random
                parts of their own.
        """

    def _thresholds(self, own: Array, labels: NDArray[np.int64], num_classes: int) -> Array:
        if self.classwise:
            return classwise_thresholds(own, labels, num_classes, self.alpha)
        return np.full(num_classes, marginal_threshold(own, self.alpha))

    def _notes(self) -> dict[str, str]:
        chosen = dataclasses.fields(CONFORMAL[self.name])
        return {
            "conformal": self.name,
            **{f"conformal_{one.name}": json.dumps(getattr(self, one.name)) for one in chosen},
            "conformal_rows": str(self.num_rows),
        }


@dataclass(eq=False)
class LAC(LACOptions, ConformalPredictor):
    """A conformal predictor by the probability of a class."""

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return 1 − p, [N, C]; nothing in it is random."""
        return 1 - probs


# The rows to fit on and those to apply to have random parts of their own.
_FIT, _APPLY = 0, 1


@dataclass(eq=False)
class APS(APSOptions, ConformalPredictor):
    """A conformal predictor by the total probability of a class and all more probable ones."""

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the totals, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting))


@dataclass(eq=False)
class RAPS(RAPSOptions, ConformalPredictor):
    """A conformal predictor like `APS` that also counts a class's place."""

    def scores(self, probs: Array, *, fitting: bool) -> Array:
        """Return the totals with the penalties, [N, C]."""
        return adaptive_scores(probs, _parts(self, probs, fitting), self.penalty, self.k_reg)


def _parts(options: APSOptions, probs: Array, fitting: bool) -> Array:
    """Return u, [N, 1]."""
    parts = np.zeros((len(probs), 1))
    if options.randomised:
        generator = np.random.default_rng([options.seed, _FIT if fitting else _APPLY])
        parts[settled_order(probs)] = generator.random((len(probs), 1))
    return parts


def adaptive_scores(probs: Array, parts: Array, penalty: float = 0.0, k_reg: int = 0) -> Array:
    """Return the scores of all classes, [N, C].

    Args:
        probs: [N, C].
        parts: [N, 1] u, the part of a class's own probability that counts.
        penalty: λ.
        k_reg: The last place, from 1, without a penalty.
    """
    order = np.argsort(-probs, axis=1, kind="stable")
    falling = np.take_along_axis(probs, order, 1)
    places = np.arange(1, probs.shape[1] + 1)
    before = np.cumsum(falling, axis=1) - falling
    ranked: Array = before + parts * falling + penalty * np.maximum(0, places - k_reg)
    scores: Array = np.empty_like(ranked)
    np.put_along_axis(scores, order, ranked, 1)
    return scores

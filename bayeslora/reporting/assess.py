"""Methods with their scores and labelled rows, and criteria that tables and sentences share.

Fits of one method with several seeds count as one method if they share their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.compare import COMPARED, Comparison, compare
from bayeslora.metrics.differences import paired
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.intervals import Bootstrap, clusters_in, values_of, wilson
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.scores import SCORES, Bin, Score, Scores
from bayeslora.metrics.seeds import over_seeds
from bayeslora.plain_text import quoted
from bayeslora.predictions.collection import Method, Source, by_group, named_predictions
from bayeslora.predictions.record import Predictions

Names = str | Sequence[str] | None
"""A name, several names, or None."""


class EvaluateOptions(Bootstrap, total=False):
    """Keywords of `evaluate` that a report passes on, with the same meaning and defaults."""

    ood_score: str | None
    group_by: Names
    by_class: bool
    cluster_by: str | None
    num_bins: int
    ordered: bool


@dataclass(frozen=True)
class Point:
    """A non-empty bin; attributes as in `Bin`, none of them None."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float

    @property
    def off_diagonal(self) -> bool:
        """Whether the interval of the accuracy excludes the mean confidence."""
        return not self.accuracy_low <= self.confidence <= self.accuracy_high

    @property
    def stated(self) -> float:
        """Share of errors that its confidence states."""
        return 1 - self.confidence

    @property
    def errors(self) -> Score:
        """Share of errors, with the interval of the accuracy."""
        return Score(1 - self.accuracy, 1 - self.accuracy_high, 1 - self.accuracy_low)


ANSWERED = 0.8
"""Share of rows that are answered if the least confident rows go to a person."""


@dataclass(frozen=True)
class Share(Score):
    """A share of `size` rows, with its 95 % Wilson interval; a cluster counts as one row."""

    size: int


@dataclass(frozen=True, eq=False)
class Answers:
    """The labelled rows of a method, at least one, with the [n] cluster of each, if any."""

    rows: LabelledRows
    clusters: NDArray[np.int64] | None = None

    @property
    def class_counts(self) -> NDArray[np.float64]:
        """[C] numbers of rows per label."""
        if self.rows.shares is not None:
            return np.asarray(self.rows.shares.sum(0))
        return np.bincount(self.rows.labels, minlength=self.rows.probs.shape[1]).astype(np.float64)

    def surest(self) -> tuple[Share, Share] | None:
        """Return the accuracy on the `ANSWERED` most confident rows and on the others.

        None if either part is empty. Rows tied with the last answered row are answered too.
        """
        count = max(round(ANSWERED * len(self.rows)), 1)
        chosen = self.rows.confidence >= np.sort(self.rows.confidence)[-count]
        if chosen.all():
            return None
        return self._accuracy(chosen), self._accuracy(~chosen)

    def _accuracy(self, chosen: NDArray[np.bool_]) -> Share:
        accuracy = float(self.rows.correct[chosen].mean())
        units = int(clusters_in(chosen, self.clusters, 2)[1])  # independent rows
        low, high = wilson(accuracy * units, units)
        return Share(accuracy, float(low), float(high), int(chosen.sum()))


@dataclass(frozen=True)
class Assessed:
    """A method and its scores.

    Attributes:
        method: The method; for several seeds, the predictions of the first under the method's
            label.
        scores: Its scores; for several seeds, their means.
        fits: The seeds, each with its own scores; empty for a single fit.
    """

    method: Method
    scores: Scores
    fits: tuple[Assessed, ...] = ()

    @property
    def label(self) -> str:
        """The method's label."""
        return self.method.label

    @property
    def title(self) -> str:
        """The label, with the number of seeds if there are several."""
        return f"{self.label} ({len(self.fits)} seeds)" if self.fits else self.label

    @property
    def each(self) -> tuple[Assessed, ...]:
        """The seeds, or the single fit."""
        return self.fits or (self,)

    @cached_property
    def answers(self) -> Answers:
        """The labelled rows, at least one; for several seeds, those of the first."""
        predictions, column = self.method.predictions, self.scores.intervals.get("cluster_by")
        clusters = None
        if column is not None:
            clusters = values_of(predictions, str(column))[0][predictions.labelled]
        return Answers(row_scores(predictions), clusters)

    def uncertainties(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the judged uncertainty of in-distribution rows, [N], and of a set's, [M]."""
        score, inside = self.scores.ood[name].score, self.method.predictions
        return inside.uncertainty(score), self.method.ood[name].predictions.uncertainty(score)

    @property
    def points(self) -> list[Point]:
        """The non-empty bins."""
        return occupied(self.scores.bins)


def shared_options(options: EvaluateOptions) -> dict[str, Any]:
    """Return the options that scores of all sets of rows and comparisons share."""
    shared = ("num_bins", "num_resamples", "seed")
    return {key: value for key, value in options.items() if key in shared}


def assess(methods: Sequence[Method], options: EvaluateOptions) -> list[Assessed]:
    """Score every method on its rows and its out-of-distribution sets, as `evaluate` does."""
    return [
        Assessed(
            method,
            evaluate(
                method.predictions,
                ood={name: source.predictions for name, source in method.ood.items()},
                **options,
            ),
        )
        for method in methods
    ]


def occupied(bins: Sequence[Bin]) -> list[Point]:
    """Return the non-empty bins."""
    return [Point(**vars(item)) for item in bins if None not in vars(item).values()]


def labelled(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the methods with labelled rows."""
    return [method for method in methods if "nll" in method.scores]


def pair(methods: Sequence[Assessed], options: EvaluateOptions) -> Mapping[str, Comparison]:
    """Compare every labelled method row by row with the best one by each score of `COMPARED`.

    Return score -> paired differences from the method that is best by it; those of NLL cover all
    scores of `COMPARED`. Empty if there are fewer than two methods, or they have different rows.
    """
    with_labels = labelled(methods)
    if len(with_labels) < 2:
        return {}
    best = {
        key: min(with_labels, key=lambda fit: SCORES[key].loss(fit.scores[key].value)).label
        for key in COMPARED
    }
    records = [
        named_predictions(replace(fit.method, group=method.label), over_seeds=bool(method.fits))
        for method in with_labels
        for fit in method.each
    ]
    try:
        by_reference = {
            reference: compare(
                records,
                reference=reference,
                scores=[key for key in COMPARED if reference in (best[key], best["nll"])],
                over_seeds=any(method.fits for method in with_labels),
                cluster_by=options.get("cluster_by"),
                **shared_options(options),
            )
            for reference in dict.fromkeys(best.values())
        }
    except InputError:  # rows, classes or labels differ
        return {}
    return {key: by_reference[reference] for key, reference in best.items()}


def pool(fits: Sequence[Assessed]) -> list[Assessed]:
    """Return one entry per method: for several seeds, means with t intervals.

    Fits are pooled if they are seeds of one method according to `by_group` and have the same
    labelled rows. Other fits are returned unchanged.
    """
    by_label = {fit.label: fit for fit in fits}
    pooled = []
    for group, members in by_group([fit.method for fit in fits]).items():
        seeds = [by_label[member.label] for member in members]
        if len(seeds) > 1 and _on_the_same_rows(seeds):
            scores = over_seeds([fit.scores for fit in seeds], group)
            first = replace(seeds[0].method, label=group)
            seeds = [Assessed(first, scores, tuple(seeds))]
        pooled += seeds
    return pooled


def every_fit(methods: Sequence[Assessed]) -> list[Assessed]:
    """Return the fits of all methods, one after the other."""
    return [fit for method in methods for fit in method.each]


def _on_the_same_rows(fits: Sequence[Assessed]) -> bool:
    try:
        paired([fit.method.predictions.replace(name=fit.label) for fit in fits])
    except InputError:
        return False
    return True


Shift = Mapping[tuple[str, str, float], Scores]
"""(label, corruption, severity or radius) -> scores, ascending; 0: uncorrupted rows."""


def shift_scores(
    methods: Sequence[Assessed], shifted: Sequence[Source], options: EvaluateOptions
) -> Shift:
    """Score predictions of the same rows, corrupted.

    Their metadata hold `corruption` and `severity`; the model's fingerprint or the name identifies
    the method.

    Raises:
        InputError: Metadata or labels are missing, or no single method fits.
    """
    shift: dict[tuple[str, str, float], Scores] = {}
    for source in shifted:
        predictions, notes = source.predictions, source.predictions.metadata
        name, model = quoted(predictions.name), _model(predictions)
        made_by = [each for each in methods if _model(each.method.predictions) == model]
        if len(methods) > 1 and len(made_by) != 1:
            labels = ", ".join(quoted(method.label) for method in methods)
            raise InputError(f"{name} was made by none of the methods, or by several: {labels}")
        method = (made_by or methods)[0]
        try:
            kind, severity = notes["corruption"], float(notes["severity"])
        except (KeyError, ValueError):
            raise InputError(
                f"{name} does not say its corruption and severity, as the Parquet files of "
                "`bayeslora predict --corrupt` do"
            ) from None
        scores = evaluate(predictions, **shared_options(options))
        if not (scores.n_labelled and method.scores.n_labelled):
            raise InputError(f"{name} has no labels, so calibration under shift is not known")
        shift[method.label, kind, 0.0] = method.scores
        shift[method.label, kind, severity] = scores
    return dict(sorted(shift.items()))


def _model(predictions: Predictions) -> str:
    return predictions.metadata.get("model_fingerprint") or predictions.name

"""Sentences on prediction sets."""

from __future__ import annotations

import numpy as np

from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.text import named, number, percent, share_interval


def set_sentences(predictions: Predictions, scores: Scores) -> list[str]:
    """Return sentences on the prediction sets; empty without sets.

    Args:
        predictions: Predictions with or without sets.
        scores: Their scores.
    """
    if "set_size" not in scores:
        return []
    sets, available = predictions.sets, predictions.available
    if sets is not None and (sets.all() if available is None else (sets == available).all()):
        return [_says_nothing(predictions, scores)]
    size = scores["set_size"].value
    sentences = [
        f"A set holds {number(size, digits=2)} of {_classes(predictions)} on average;"
        f" {percent(scores['singletons'].value)} of the sets hold exactly one{_empty(scores)}."
    ]
    if "coverage" in scores:
        sentences = [_coverage(scores), *sentences, *_worst_class(predictions, scores)]
    return sentences


def _classes(predictions: Predictions) -> str:
    if predictions.available is None:
        return f"{predictions.num_classes} classes"
    return f"{number(float(predictions.num_options.mean()), digits=2)} options"


def _says_nothing(predictions: Predictions, scores: Scores) -> str:
    stated = scores.stated_coverage
    at_coverage = "" if stated is None else f" at a coverage of {percent(stated)}"
    return (
        f"Every set holds all {_classes(predictions)}, so{at_coverage} the sets say nothing."
        " Ask for less coverage (a larger alpha), or fit them on more examples."
    )


def _coverage(scores: Scores) -> str:
    score, stated = scores["coverage"], scores.stated_coverage
    sentence = (
        f"The set holds the true class for {percent(score.value)}"
        f" {share_interval(score.low, score.high)} of"
        f" {counted(scores.n_labelled, 'labelled example')}"
    )
    if stated is None:
        return f"{sentence}."
    if score.high < stated:
        return f"{sentence}, fewer than the requested {percent(stated)}."
    if score.low > stated:
        return f"{sentence}, more than the requested {percent(stated)}."
    return f"{sentence}; the requested {percent(stated)} is within chance."


def _empty(scores: Scores) -> str:
    share = scores["empty_sets"].value
    return f" and {percent(share)} none" if share else ""


def _worst_class(predictions: Predictions, scores: Scores) -> list[str]:
    """Name the class with the lowest coverage, the first if tied."""
    if predictions.sets is None or predictions.labels is None:
        return []
    rows = predictions.labelled
    labels = predictions.labels[rows]
    covered = np.take_along_axis(predictions.sets[rows], labels[:, None], 1)[:, 0]
    counts = np.bincount(labels, minlength=predictions.num_classes)
    if np.count_nonzero(counts) < 2:
        return []
    hits = np.bincount(labels, covered, minlength=predictions.num_classes)
    shares = np.where(counts > 0, hits / np.maximum(counts, 1), np.inf)
    worst = int(np.argmin(shares))
    lowest = scores["worst_class_coverage"]
    name = named(shorten(clean(predictions.classes[worst])))
    classwise = predictions.metadata.get("conformal_classwise", "").lower() == "true"
    advice = " One threshold per class (classwise=true) covers each class as requested."
    return [
        f"Coverage is an average over classes. It is lowest for {name}: {percent(shares[worst])} of"
        f" {counted(int(counts[worst]), 'example')} (interval of the lowest of all classes:"
        f" {share_interval(lowest.low, lowest.high)}).{'' if classwise else advice}"
    ]

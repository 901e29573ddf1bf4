"""Align several methods and their fits on the same rows, in the same order.

A compared method has one fit, or several fits with different seeds that are averaged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.bootstrap import Statistic
from bayeslora.metrics.calibration import bin_sums, top_label
from bayeslora.metrics.catalogue import SCORE_KEYS
from bayeslora.metrics.evaluate import statistic
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.plain_text import quoted
from bayeslora.predictions.collection import QUESTION_FORMAT, Seeds, group_seeds
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)


def paired(predictions: Sequence[Predictions]) -> list[Predictions]:
    """Return the predictions with rows and classes in the order of the first.

    Rows are matched by id where all have ids, else by position. A warning says if questions were
    answered in different formats.

    Raises:
        InputError: Fewer than two predictions, an empty or repeated name, or different rows,
            classes or labels; the message names the first difference.
    """
    names = [record.name for record in predictions]
    if len(names) < 2:
        raise InputError(f"a comparison needs at least two sets of predictions, got {len(names)}")
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            raise InputError(
                f"every method needs a unique name, got {names!r}; set one with "
                "predictions.replace(name=...)"
            )
    first = predictions[0]
    if not first.labelled.any():
        raise InputError(f"{quoted(first.name)} has no labels, so it cannot be compared")
    formats = {
        record.metadata[QUESTION_FORMAT]: record.name
        for record in predictions
        if QUESTION_FORMAT in record.metadata
    }
    if len(formats) > 1:
        named = ", ".join(f"{quoted(name)} by {format}" for format, name in formats.items())
        logger.warning(
            "questions were answered in different formats (%s), so a difference is one of formats "
            "as well as of methods",
            named,
        )
    by_id = all(record.ids is not None for record in predictions)
    return [first, *(_like(first, other, by_id) for other in predictions[1:])]


def _like(first: Predictions, other: Predictions, by_id: bool) -> Predictions:
    names = f"{quoted(first.name)} and {quoted(other.name)}"
    if len(first) != len(other):
        raise InputError(f"{names} have different rows: {len(first)} and {len(other)} of them")
    if set(first.classes) != set(other.classes):
        unmatched = min(set(first.classes) ^ set(other.classes))
        raise InputError(f"{names} have different classes; only one has {unmatched!r}")
    if by_id:
        other = _rows_of(first, other, names)
    other = _classes_of(first, other)
    _check_labels(first, other, names)
    _check_options(first, other, names)
    return other


def are_same_rows(first: Predictions, other: Predictions) -> bool:
    """Return whether two predictions have the same rows in the same order, as far as they tell."""
    if first.ids is not None and other.ids is not None:
        return np.array_equal(first.ids, other.ids)
    return len(first) == len(other)


def _rows_of(first: Predictions, other: Predictions, names: str) -> Predictions:
    ids = np.asarray(first.ids)
    other_ids = np.asarray(other.ids)
    order = np.argsort(other_ids)
    positions = np.minimum(np.searchsorted(other_ids, ids, sorter=order), len(order) - 1)
    rows = order[positions]
    missing = other_ids[rows] != ids
    if missing.any():
        row = int(np.argmax(missing))
        raise InputError(
            f"{names} have different rows: id {str(ids[row])!r} (row {row + 1} of "
            f"{quoted(first.name)}) is missing from {quoted(other.name)}"
        )
    return other.take(rows)


def _classes_of(first: Predictions, other: Predictions) -> Predictions:
    if other.classes == first.classes:
        return other
    columns = np.array([other.classes.index(name) for name in first.classes])
    labels = None
    if other.labels is not None:
        to_first = np.append(np.argsort(columns), -1)  # -1, unlabelled, stays -1
        labels = to_first[other.labels]
    return other.replace(
        classes=first.classes,
        probs=other.probs[:, columns],
        labels=labels,
        sets=None if other.sets is None else other.sets[:, columns],
        available=None if other.available is None else other.available[:, columns],
        intervals=None if other.intervals is None else other.intervals[:, columns],
    )


def _check_labels(first: Predictions, other: Predictions, names: str) -> None:
    unlabelled = np.full(len(first), -1)
    pair = [unlabelled if record.labels is None else record.labels for record in (first, other)]
    different = pair[0] != pair[1]
    if different.any():
        row = int(np.argmax(different))
        shown = [
            repr(first.classes[labels[row]]) if labels[row] >= 0 else "none" for labels in pair
        ]
        at = f"row {row + 1}" + ("" if first.ids is None else f" (id {first.ids[row]!r})")
        raise InputError(
            f"{names} have different labels in {at}: {shown[0]} and {shown[1]}; rows that differ: "
            f"{int(different.sum())}"
        )


def _check_options(first: Predictions, other: Predictions, names: str) -> None:
    counts = [record.num_options for record in (first, other)]
    different = counts[0] != counts[1]
    if different.any():
        row = int(np.argmax(different))
        raise InputError(
            f"{names} have different numbers of options in row {row + 1}: {counts[0][row]} and "
            f"{counts[1][row]}; rows that differ: {int(different.sum())}"
        )


MEANS = ("accuracy", "nll", "brier", "mean_confidence", "sharpness", "overconfidence")
"""Scores that are means over rows, in the order of `row_means`."""


@dataclass(frozen=True, eq=False)
class Fits:
    """One method.

    Attributes:
        name: Name of the method.
        seeds: Seed of each fit; empty for a single fit.
        predictions: Predictions of each fit; rows and classes have the same order in all methods.
        rows: Labelled rows of each fit.
    """

    name: str
    seeds: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    rows: tuple[LabelledRows, ...]


@dataclass(frozen=True, eq=False)
class Contest:
    """The compared methods, their scores and the clusters of rows.

    Attributes:
        methods: Two or more methods.
        base: Index of the reference.
        keys: Catalogue keys of the scores.
        num_bins: Bins of the calibration errors.
        clusters: [N] cluster of each labelled row, numbered from 0 without gaps, or None.
    """

    methods: Sequence[Fits]
    base: int
    keys: Sequence[str]
    num_bins: int
    clusters: NDArray[np.int64] | None = None

    @property
    def same_seeds(self) -> bool:
        """Whether all methods have several fits, with the same seeds."""
        return bool(self.methods[0].seeds) and len({method.seeds for method in self.methods}) == 1


def fits_of(predictions: Sequence[Predictions], *, over_seeds: bool) -> list[Fits]:
    """Group predictions into methods, with rows and classes in the order of the first.

    Fits of one method with different seeds are grouped (`group_seeds`). If this leaves a single
    method, each of its fits becomes a method.

    Args:
        predictions: Predictions of two or more fits.
        over_seeds: Whether to group the fits of one method.

    Raises:
        InputError: As for `paired`, or two methods have the same name.
    """
    groups = group_seeds(predictions)
    seed_of = {
        index: seed
        for group in groups
        for index, seed in zip(group.members, group.seeds, strict=True)
    }
    if not over_seeds or len(groups) == 1:
        groups = [Seeds(record.name, (index,), ("",)) for index, record in enumerate(predictions)]
    names = [record.name for record in predictions]
    aligned = paired(
        [
            record.replace(name=f"{record.name} (seed {seed_of[index]})")
            if names.count(record.name) > 1 and seed_of[index] and record.name
            else record
            for index, record in enumerate(predictions)
        ]
    )
    methods = []
    for group in groups:
        fits = tuple(aligned[index] for index in group.members)
        several = len(fits) > 1
        name, seeds = (group.name, group.seeds) if several else (fits[0].name, ())
        methods.append(Fits(name, seeds, fits, tuple(row_scores(fit) for fit in fits)))
    _check_names([method.name for method in methods])
    return methods


def _check_names(names: Sequence[str]) -> None:
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise InputError(
            f"two methods are named {quoted(repeated[0])}, but their fits differ in more than the "
            "seed (fit_options in the metadata); give each method a unique name"
        )


def seed_pairs(num_first: int, num_second: int) -> list[tuple[int, int]]:
    """Return the pairs of fits of two methods to compare.

    Fits are paired in order if both methods have equally many, else each with each.
    """
    if num_first == num_second:
        return [(index, index) for index in range(num_first)]
    return list(product(range(num_first), range(num_second)))


def row_means(rows: LabelledRows) -> NDArray[np.float64]:
    """Return the contribution of each row to the scores of `MEANS`, [6, N]."""
    means = rows.means.T
    return np.concatenate([means, means[3:4] - means[:1]])


def chosen_statistic(rows: LabelledRows, num_bins: int, keys: Sequence[str]) -> Statistic:
    """Return the function from row counts, [N] or [N, R], to the chosen scores, [K] or [K, R].

    Means over rows and ECE alone are far cheaper than all scores.

    Args:
        rows: At least one labelled row.
        num_bins: Bins of the calibration errors.
        keys: Catalogue keys of the scores, in order.
    """
    if _beyond_means(keys):
        indices = [SCORE_KEYS.index(key) for key in keys]
        everything = statistic(rows, num_bins, "left")
        return lambda counts: everything(counts)[indices]
    means = row_means(rows)
    binned = bin_sums(top_label(rows.confidence, rows.correct), num_bins)

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        linear = means @ counts / counts.sum(axis=0)
        by_key = dict(zip(MEANS, linear, strict=True))
        if "ece" in keys:
            by_key["ece"] = binned(counts).ece
        return np.stack([by_key[key] for key in keys])

    return scores


def numbers_kept(rows: LabelledRows, num_bins: int, keys: Sequence[str]) -> int:
    """Return how many numbers `chosen_statistic` stores per resample, to bound memory."""
    return max(len(rows), 2 * num_bins * rows.probs.shape[1] if _beyond_means(keys) else 1)


def _beyond_means(keys: Sequence[str]) -> bool:
    return not {*keys} <= {*MEANS, "ece"}

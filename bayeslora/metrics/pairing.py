"""Several methods and their fits on the same rows, in the same order.

The methods of a comparison: one fit each, or fits with several seeds that are taken together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError
from bayeslora.metrics.bootstrap import Statistic
from bayeslora.metrics.calibration import bin_sums
from bayeslora.metrics.catalogue import SCORE_KEYS
from bayeslora.metrics.rowwise import LabelledRows, row_scores
from bayeslora.metrics.statistics import statistic
from bayeslora.metrics.top_label import top_label
from bayeslora.plain_text import quoted
from bayeslora.predictions.names import Seeds, group_seeds
from bayeslora.predictions.record import Predictions


def paired(predictions: Sequence[Predictions]) -> list[Predictions]:
    """Return the predictions with rows and classes in the order of the first.

    Rows are matched by id where all have ids, else by position.

    Raises:
        InputError: There are fewer than two, a name repeats or is empty, or rows, classes or labels
            differ; the message names the first difference.
    """
    names = [one.name for one in predictions]
    if len(names) < 2:
        raise InputError(f"a comparison needs at least two sets of predictions, got {len(names)}")
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            raise InputError(
                f"every method needs a name of its own, got {names!r}; "
                "predictions.replace(name=...) gives one"
            )
    first = predictions[0]
    if not first.labelled.any():
        raise InputError(f"{quoted(first.name)} has no labels, so there is nothing to compare by")
    by_id = all(one.ids is not None for one in predictions)
    return [first, *(_like(first, other, by_id) for other in predictions[1:])]


def _like(first: Predictions, other: Predictions, by_id: bool) -> Predictions:
    where = f"{quoted(first.name)} and {quoted(other.name)}"
    if len(first) != len(other):
        raise InputError(f"{where} hold different rows: {len(first)} and {len(other)} of them")
    if set(first.classes) != set(other.classes):
        odd = min(set(first.classes) ^ set(other.classes))
        raise InputError(f"{where} have different classes; only one has {odd!r}")
    if by_id:
        other = _rows_of(first, other, where)
    other = _classes_of(first, other)
    _check_labels(first, other, where)
    _check_options(first, other, where)
    return other


def _rows_of(first: Predictions, other: Predictions, where: str) -> Predictions:
    ids = np.asarray(first.ids)
    theirs = np.asarray(other.ids)
    order = np.argsort(theirs)
    place = np.minimum(np.searchsorted(theirs, ids, sorter=order), len(order) - 1)
    rows = order[place]
    missing = theirs[rows] != ids
    if missing.any():
        row = int(np.argmax(missing))
        raise InputError(
            f"{where} hold different rows: id {str(ids[row])!r} (row {row + 1} of "
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
    )


def _check_labels(first: Predictions, other: Predictions, where: str) -> None:
    unlabelled = np.full(len(first), -1)
    pair = [unlabelled if one.labels is None else one.labels for one in (first, other)]
    different = pair[0] != pair[1]
    if different.any():
        row = int(np.argmax(different))
        shown = [repr(first.classes[one[row]]) if one[row] >= 0 else "none" for one in pair]
        at = f"row {row + 1}" + ("" if first.ids is None else f" (id {first.ids[row]!r})")
        raise InputError(
            f"{where} disagree about the label of {at}: {shown[0]} and {shown[1]}; "
            f"rows that differ: {int(different.sum())}"
        )


def _check_options(first: Predictions, other: Predictions, where: str) -> None:
    counts = [one.num_options for one in (first, other)]
    different = counts[0] != counts[1]
    if different.any():
        row = int(np.argmax(different))
        raise InputError(
            f"{where} have different numbers of options in row {row + 1}: {counts[0][row]} and "
            f"{counts[1][row]}; rows that differ: {int(different.sum())}"
        )


MEANS = ("accuracy", "nll", "brier", "mean_confidence", "sharpness", "overconfidence")
"""Scores that are means over rows, in the order of `row_means`."""


@dataclass(frozen=True, eq=False)
class Fits:
    """One method.

    Attributes:
        name: The method's.
        seeds: The seed of each fit; empty where there is one fit.
        predictions: Of each fit; all methods' rows and classes in the same order.
        rows: The labelled rows of each.
    """

    name: str
    seeds: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    rows: tuple[LabelledRows, ...]


@dataclass(frozen=True, eq=False)
class Contest:
    """What is compared.

    Attributes:
        methods: Two or more.
        base: Place of the reference.
        keys: The scores, of the catalogue.
        num_bins: Bins of the calibration errors.
        clusters: [N] cluster of each labelled row, from 0 on without gaps, or None.
    """

    methods: Sequence[Fits]
    base: int
    keys: Sequence[str]
    num_bins: int
    clusters: NDArray[np.int64] | None = None

    @property
    def same_seeds(self) -> bool:
        """Whether all methods have several fits, with the same seeds."""
        return bool(self.methods[0].seeds) and len({one.seeds for one in self.methods}) == 1


def fits_of(predictions: Sequence[Predictions], *, over_seeds: bool) -> list[Fits]:
    """Return the methods, with the rows and classes of all in the order of the first.

    Fits of one method are taken together where each has a seed of its own (`group_seeds`). Where
    that leaves one method alone, its fits are the methods.

    Args:
        predictions: Of two or more fits.
        over_seeds: Whether to take fits together.

    Raises:
        InputError: As in `paired`, or two methods have the same name.
    """
    groups = group_seeds(predictions)
    known = {
        place: seed for one in groups for place, seed in zip(one.members, one.seeds, strict=True)
    }
    if not over_seeds or len(groups) == 1:
        groups = [Seeds(one.name, (place,), ("",)) for place, one in enumerate(predictions)]
    names = [one.name for one in predictions]
    aligned = paired(
        [
            one.replace(name=f"{one.name} (seed {known[place]})")
            if names.count(one.name) > 1 and known[place] and one.name
            else one
            for place, one in enumerate(predictions)
        ]
    )
    found = []
    for group in groups:
        own = tuple(aligned[place] for place in group.members)
        several = len(own) > 1
        name, seeds = (group.name, group.seeds) if several else (own[0].name, ())
        found.append(Fits(name, seeds, own, tuple(row_scores(one) for one in own)))
    _check_names([one.name for one in found])
    return found


def _check_names(names: Sequence[str]) -> None:
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise InputError(
            f"two methods are named {quoted(twice[0])}: their fits differ in more than the seed"
            " (fit_options in the metadata); give each method a name of its own"
        )


def seed_pairs(ours: int, theirs: int) -> list[tuple[int, int]]:
    """Return which fits of two methods are compared with each other.

    The first with the first and so on where there are as many; else each with each.
    """
    if ours == theirs:
        return [(place, place) for place in range(ours)]
    return list(product(range(ours), range(theirs)))


def row_means(rows: LabelledRows) -> NDArray[np.float64]:
    """Return [6, N]: what each row adds to the scores of `MEANS`."""
    means = rows.means.T
    return np.concatenate([means, means[3:4] - means[:1]])


def chosen_statistic(rows: LabelledRows, num_bins: int, keys: Sequence[str]) -> Statistic:
    """Return the function from counts of rows, [N] or [N, R], to some scores, [K] or [K, R].

    Means over rows and ECE alone are far cheaper than all scores.

    Args:
        rows: At least one.
        num_bins: Bins of the calibration errors.
        keys: Of the catalogue, in this order.
    """
    if _beyond_means(keys):
        places = [SCORE_KEYS.index(key) for key in keys]
        everything = statistic(rows, num_bins, "left")
        return lambda counts: everything(counts)[places]
    means = row_means(rows)
    binned = bin_sums(top_label(rows.confidence, rows.correct), num_bins)

    def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        linear = means @ counts / counts.sum(axis=0)
        found = dict(zip(MEANS, linear, strict=True))
        if "ece" in keys:
            found["ece"] = binned(counts).ece
        return np.stack([found[key] for key in keys])

    return scores


def numbers_kept(rows: LabelledRows, num_bins: int, keys: Sequence[str]) -> int:
    """Return how many numbers `chosen_statistic` keeps of a resample, to bound memory."""
    return max(len(rows), 2 * num_bins * rows.probs.shape[1] if _beyond_means(keys) else 1)


def _beyond_means(keys: Sequence[str]) -> bool:
    return not {*keys} <= {*MEANS, "ece"}

"""Bringing several methods' predictions of the same rows into the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeslora.errors import InputError
from bayeslora.plain_text import quoted
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

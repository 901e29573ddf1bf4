"""Tables of which classes are taken for which: the whole matrix, or the most frequent mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.score_tables import Named
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import named, percent

MOST_CLASSES = 10
"""Classes of which the whole matrix is shown; of more, the most frequent mistakes."""

MOST_PAIRS = 20
"""Mistakes that are listed per method."""


def confusion_tables(methods: Sequence[Named]) -> list[Table]:
    """Return the confusion matrix of each method, or one table of the most frequent mistakes.

    Methods without labelled rows are left out, and so are methods without mistakes where mistakes
    are listed.

    Args:
        methods: Scores with their labels.
    """
    known = [one for one in methods if one.scores.confusion]
    small = [one for one in known if one.scores.num_classes <= MOST_CLASSES]
    pairs = _pairs_table([one for one in known if one not in small])
    return [*map(_matrix_table, small), *([pairs] if pairs.rows else [])]


def _matrix_table(one: Named) -> Table:
    names = _names(one)
    rows = []
    for name, line in zip(names, one.scores.confusion, strict=True):
        total = sum(line)
        cells = (Cell(f"{count:,}", percent(count / total) if count else "") for count in line)
        rows.append(Row((one.label, name), (*cells, Cell(f"{total:,}"))))
    columns = (*(Column("predicted", detail=name) for name in names), Column("rows"))
    caption = (
        f"Confusion matrix of {named(one.label)}: labelled rows of each class by what they are"
        " predicted as, with the share of the class's rows. Right predictions are on the diagonal."
        f"{_summed(one)}"
    )
    return Table(caption, ("Method", "Label"), columns, tuple(rows))


def _pairs_table(methods: Sequence[Named]) -> Table:
    rows = [
        Row(
            (one.label, names[label], names[prediction]),
            (Cell(f"{counts[label, prediction]:,}"), Cell(percent(shares[label, prediction]))),
        )
        for one in methods
        for counts, shares in [_counts_and_shares(one)]
        for names in [_names(one)]
        for label, prediction in _most_frequent_mistakes(counts)
    ]
    caption = (
        f"The {MOST_PAIRS} most frequent mistakes of each method: rows of a class that are"
        " predicted as another one, and their share of the class's rows."
        f"{''.join(dict.fromkeys(map(_summed, methods)))}"
    )
    columns = (Column("rows"), Column("share of the class"))
    return Table(caption, ("Method", "Label", "Predicted as"), columns, tuple(rows))


def _counts_and_shares(one: Named) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    counts = np.array(one.scores.confusion, dtype=np.int64)
    return counts, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _most_frequent_mistakes(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (label, prediction) of the most frequent mistakes; of equal ones the first classes."""
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:MOST_PAIRS]
    places = (divmod(int(place), len(counts)) for place in order if mistakes.flat[place])
    return list(places)


def _names(one: Named) -> list[str]:
    return [shorten(clean(name)) for name in one.scores.class_names]


def _summed(one: Named) -> str:
    seeds = one.scores.intervals.get("num_seeds")
    return f" Counts are sums over {counted(int(seeds), 'seed')}." if seeds else ""

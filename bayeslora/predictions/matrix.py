"""The probability columns of a predictions file and their classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import listed, shown
from bayeslora.predictions.columns import PredictionsReading, Where, softmax
from bayeslora.tables.table import Table

_PREFIXES = ("prob_", "logit_")
_OF_DATA = frozenset({"text", "question", "history", "image"})


@dataclass(frozen=True)
class Matrix:
    """The probability or logit columns, one per class.

    Attributes:
        source: Name of the file in messages.
        columns: Names of the columns.
        classes: Their classes; with a single column, the second class follows from the labels.
        are_logits: Whether the columns hold logits.
        stored: The classes listed in the file's metadata, in order.
    """

    source: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    are_logits: bool
    stored: tuple[str, ...]

    def probabilities(
        self,
        values: NDArray[np.float64],
        labels: Any,
        where: Where,
        available: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return [N, C] probabilities, not yet checked, and C classes.

        Args:
            values: [N, number of columns]; logits are changed in place.
            labels: [N] Arrow strings, or None.
            where: Returns the name of a row in messages.
            available: [N, number of columns] mask of the classes of each row; None: all.

        Raises:
            InputError: A logit is not finite, or a single column does not fit two classes.
        """
        classes = self.classes
        if len(classes) == 1:
            classes = (self._other(labels), *classes)
            values = self._both(values[:, 0], where)
        if self.are_logits:
            softmax(self.source, values, classes, where, available)
        elif available is not None:
            values[~available] = 0
        return values, classes

    def _both(self, values: NDArray[np.float64], where: Where) -> NDArray[np.float64]:
        """Return [N, 2] with the other class first, so that indices 0 and 1 are correct."""
        if self.are_logits:
            return np.column_stack([np.zeros_like(values), values])
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{self.source}, {where(row)}, column {shown(self.columns[0])}: probability "
                f"{values[row]} is not between 0 and 1"
            )
        return np.column_stack([1 - values, values])

    def _other(self, labels: Any) -> str:
        """Return the name of the class without a column."""
        name = self.classes[0]
        if len(self.stored) == 2 and name in self.stored:
            return next(label for label in self.stored if label != name)
        known = set() if labels is None else {*labels.unique().to_pylist()} - {None}
        if name not in known and known <= {"0", "1"}:
            return f"not {name}"
        others = sorted(known - {name})
        if len(others) > 1:
            raise InputError(
                f"{self.source} has a single probability column, {shown(self.columns[0])}, but "
                f"more than two classes: the labels are {listed(sorted(known))}; add a column "
                "prob_<class> for each class"
            )
        return others[0] if others else f"not {name}"


def matrix_of(table: Table, reading: PredictionsReading) -> Matrix:
    """Return the columns of probabilities or logits in a table.

    Raises:
        InputError: There are none, there are both kinds, or a named column is missing.
    """
    stored = _stored(table.metadata.get("classes", "[]"))
    if reading.probability_columns:
        for name in reading.probability_columns:
            if name not in table.names:
                raise InputError(
                    f"{table.source}: {unknown_choice('probability column', name, table.names)}"
                )
        columns = tuple(reading.probability_columns)
        classes = tuple(reading.probability_columns.values())
        return Matrix(table.source, columns, classes, are_logits=False, stored=())
    by_prefix = {
        prefix: [name.removeprefix(prefix) for name in table.names if name.startswith(prefix)]
        for prefix in _PREFIXES
    }
    if by_prefix["prob_"] and by_prefix["logit_"]:
        raise InputError(
            f"{table.source} has both prob_<class> and logit_<class> columns; keep only one kind"
        )
    prefix = "logit_" if by_prefix["logit_"] else "prob_"
    if not by_prefix[prefix]:
        raise InputError(
            f"{table.source} has no columns prob_<class> (or logit_<class>); add one for each "
            "class, or use --probability-column NAME=CLASS. Its columns are "
            f"{listed(table.names)}{_advice(table)}"
        )
    if reading.renormalise and prefix == "logit_":
        raise InputError(
            f"{table.source} contains logits; --renormalise applies only to probabilities"
        )
    names = _in_order(stored, by_prefix[prefix])
    columns = tuple(f"{prefix}{name}" for name in names)
    return Matrix(table.source, columns, names, are_logits=prefix == "logit_", stored=stored)


def _advice(table: Table) -> str:
    """Return the command that makes predictions, if a table looks like data."""
    if not _OF_DATA & {*table.names}:
        return ""
    command = f"bayeslora predict MODEL {table.source} --out FILE.parquet"
    return f". To predict these rows: `{command}`"


def _stored(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _in_order(stored: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the stored names if the columns are a permutation of them, else `names`."""
    return tuple(stored if Counter(stored) == Counter(names) else names)

"""How a predictions file is read that is not as this package writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bayeslora.errors import InputError
from bayeslora.tables.messages import shown
from bayeslora.tables.reading import DEFAULT, Reading

SUM_TOLERANCE = 1e-5
"""How far from 1 a row's probabilities may sum; float32 softmax is off by about 2e-7."""


@dataclass(frozen=True)
class PredictionsReading:
    """How to read a predictions file.

    Attributes:
        table: Delimiter and encoding of a text file.
        probability_columns: The class whose probability a column holds, by the column's name, in
            the order of the classes; empty takes the columns `prob_<class>`, or `logit_<class>`.
        renormalise: Whether rows whose probabilities do not sum to 1 are divided by their sum.

    Raises:
        InputError: Two columns are for one class.
    """

    table: Reading = DEFAULT
    probability_columns: Mapping[str, str] = field(default_factory=dict)
    renormalise: bool = False

    def __post_init__(self) -> None:
        classes = list(self.probability_columns.values())
        for place, name in enumerate(classes):
            if name in classes[:place]:
                raise InputError(
                    f"probability_columns (--probability-column): two columns for {shown(name)}"
                )


AS_WRITTEN = PredictionsReading()
"""Columns and format are as this package writes them."""


def probability_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Return the class of each column from texts `COLUMN=CLASS`.

    Raises:
        InputError: A text is not of that form, or a column appears twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        column, equals, name = pair.rpartition("=")
        if not (column and equals and name) or column in found:
            problem = "names the column again" if column in found else "expected NAME=CLASS"
            raise InputError(f"--probability-column {shown(pair)}: {problem}")
        found[column] = name
    return found

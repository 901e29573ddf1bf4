"""Columns of prediction sets, where a method has them, and what is said below them.

Nothing is marked the best: sets are better when smaller only at the same coverage, and coverage is
meant to be what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayeslora.metrics.scores import Scores
from bayeslora.reporting.tables import Column

SET_COLUMNS: Mapping[str, Column] = {
    "coverage": Column("Coverage"),
    "set_size": Column("Set size", "↓"),
}
"""Columns of the table of methods, by the key of their score."""

EXTRA_SET_COLUMNS: Mapping[str, Column] = {
    "worst_class_coverage": Column("Coverage, lowest of a class"),
    "singletons": Column("Sets of one class"),
    "empty_sets": Column("Empty sets"),
}
"""Further scores, for lists that have room."""


def sets_note(scores: Sequence[Scores]) -> str:
    """Return what the prediction sets were made for and how their intervals were made.

    Args:
        scores: What `evaluate` returned, one a method; the note is empty where none has sets.
    """
    if not any("set_size" in one for one in scores):
        return ""
    stated = sorted({f"{one.stated_coverage:g}" for one in scores if one.stated_coverage})
    made = f"Prediction sets were made for a coverage of {' or '.join(stated)}. " if stated else ""
    return f"{made}Shares of prediction sets have Wilson intervals."

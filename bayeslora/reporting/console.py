"""Tables for a terminal: scores of one or several methods, and their paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.scores import Scores
from bayeslora.reporting.findings import score_words
from bayeslora.reporting.score_tables import (
    EXTRA_COLUMNS,
    OOD_COLUMNS,
    SCORE_COLUMNS,
    Named,
    difference_table,
    score_cell,
    score_table,
)
from bayeslora.reporting.set_columns import EXTRA_SET_COLUMNS, SET_COLUMNS, sets_note
from bayeslora.reporting.tables import Cell, Column, Row, Table, to_text
from bayeslora.reporting.text import display_columns, unique_labels

WIDTH = 100
"""Columns of the terminal where none are given."""

_LISTED = {**SCORE_COLUMNS, **EXTRA_COLUMNS, **SET_COLUMNS, **EXTRA_SET_COLUMNS}
_STAR = "* the best of its column, or its interval overlaps the best one's"
_CLEAR = "* the interval leaves out 0"


def scores_table(scores: Sequence[Scores], width: int = WIDTH) -> str:
    """Return the scores as text without a trailing newline.

    Several methods stand under each other, one a row, with intervals below the values; columns that
    do not fit into `width` follow in further tables. One method alone becomes a list of its scores.

    Args:
        scores: What `evaluate` returned, one a method.
        width: Columns of the terminal.
    """
    labels = unique_labels([one.name or "unnamed" for one in scores])
    named = [Named(label, one) for label, one in zip(labels, scores, strict=True)]
    names = list(dict.fromkeys(name for one in scores for name in one.ood))
    sets = dict(zip(names, unique_labels(names), strict=True))
    if len(named) > 1:
        table = _within(score_table(named, sets), width)
        notes = [_STAR] if "*" in table else []
        return "\n".join([table, "", *notes, _footnote(scores)])
    blocks = [to_text(_list_of_scores(one, sets)) for one in named]
    return "\n\n".join([*blocks, _footnote(scores)])


def compare_table(comparison: Comparison, width: int = WIDTH) -> str:
    """Return paired differences as text without a trailing newline.

    Args:
        comparison: What `compare` returned.
        width: Columns of the terminal.
    """
    notes = []
    if comparison.distance_to is not None:
        notes.append(
            f"TV: mean total variation distance from the probabilities of {comparison.distance_to};"
            " epistemic ratio: mean epistemic uncertainty over its own"
        )
    return "\n".join(
        [
            _within(difference_table(comparison), width),
            "",
            f"score minus that of {comparison.reference}, on the same {comparison.n:,} labelled"
            " rows",
            *notes,
            _CLEAR,
            f"95 % paired bootstrap intervals, {comparison.num_resamples:,} resamples,"
            f" seed {comparison.seed}; ECE with {comparison.num_bins} bins",
        ]
    )


def _within(table: Table, width: int) -> str:
    """Return the table as text, in several parts where it is wider than `width`."""
    parts: list[list[int]] = [[]]
    for index in range(len(table.columns)):
        wider = to_text(table.with_columns([*parts[-1], index])).splitlines()
        if parts[-1] and any(display_columns(line) > width for line in wider):
            parts.append([])
        parts[-1].append(index)
    return "\n\n".join(to_text(table.with_columns(part)) for part in parts)


def _list_of_scores(one: Named, sets: Mapping[str, str]) -> Table:
    scores = [(column.title_and_arrow, key, one.scores.get(key)) for key, column in _LISTED.items()]
    for name, result in one.scores.ood.items():
        by = f"{sets[name]} ({result.n_out:,} rows), {score_words(result.score)}"
        found = {"auroc": result.auroc, "aupr": result.aupr, "fpr95": result.fpr95}
        scores += [
            (f"{column.title_and_arrow} {by}", key, found[key])
            for key, column in OOD_COLUMNS.items()
        ]
    rows = []
    for title, key, score in scores:
        if score is not None:
            cell = score_cell(key, score)
            rows.append(Row((title,), (Cell(cell.value), Cell(cell.interval))))
    heading = f"{one.label} ({one.scores.n_labelled:,} labelled rows)"
    return Table("", (heading,), (Column("value"), Column("95 % interval")), tuple(rows))


def _footnote(scores: Sequence[Scores]) -> str:
    notes = scores[0].intervals
    rows = sorted({f"{one.n_labelled:,}" for one in scores})
    covered = sets_note(scores)
    return (
        f"n = {' or '.join(rows)} labelled rows, {scores[0].num_bins} bins; 95 % bootstrap"
        f" intervals, {notes['num_resamples']:,} resamples, seed {notes['seed']}"
        + (f"\n{covered}" if covered else "")
    )

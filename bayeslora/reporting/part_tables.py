"""Tables for a terminal beyond the scores of methods: chance alone, and parts of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bayeslora.metrics.by_class import CLASS_KEYS
from bayeslora.metrics.compare import COMPARED, Comparison
from bayeslora.metrics.groups import GROUP_KEYS
from bayeslora.metrics.scores import PartScores, Scores
from bayeslora.metrics.uncertainties import PARTS
from bayeslora.reporting.findings import score_words
from bayeslora.reporting.score_tables import OOD_COLUMNS, SCORE_COLUMNS, Named, score_cell
from bayeslora.reporting.set_columns import SET_COLUMNS
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import clean, number, shorten

CHANCE_COLUMN = Column("ECE by chance")
"""Beside ECE: what it reads on average for a calibrated model, and how often it reads as much."""

_UNCERTAINTY_COLUMNS = {
    "mean": Column("all rows"),
    "right": Column("rows predicted rightly"),
    "wrong": Column("rows predicted wrongly"),
}
_CLASS_COLUMNS = {
    "recall": Column("Recall", "↑"),
    "precision": Column("Precision", "↑"),
    "mean_probability": Column("Mean probability"),
    "ece": Column("ECE, one vs rest", "↓"),
}
_GROUP_COLUMNS = {**SCORE_COLUMNS, **SET_COLUMNS}


def chance_cell(scores: Scores) -> Cell:
    """Return what ECE reads by chance, with the p-value of perfect calibration below it."""
    if scores.ece_if_calibrated is None:
        return Cell()
    p = "" if scores.calibration_p is None else f"p = {p_text(scores.calibration_p)}"
    return Cell(number(scores.ece_if_calibrated), p)


def with_chance(table: Table, methods: Sequence[Named]) -> Table:
    """Return a table of methods with `CHANCE_COLUMN` behind ECE, where there is an ECE."""
    titles = [column.title for column in table.columns]
    if SCORE_COLUMNS["ece"].title not in titles:
        return table
    place = titles.index(SCORE_COLUMNS["ece"].title) + 1
    rows = tuple(
        replace(row, cells=(*row.cells[:place], chance_cell(one.scores), *row.cells[place:]))
        for row, one in zip(table.rows, methods, strict=True)
    )
    columns = (*table.columns[:place], CHANCE_COLUMN, *table.columns[place:])
    return replace(table, columns=columns, rows=rows)


def part_tables(methods: Sequence[Named], *, uncertainties: bool = True) -> list[Table]:
    """Return the tables of near and far sets, uncertainties, groups and classes, as far as any.

    Args:
        methods: Scores with their labels.
        uncertainties: Whether to show the means of uncertainties.
    """
    columns = list(dict.fromkeys(column for one in methods for column in one.scores.groups))
    tables = [
        _near_far(methods),
        *([_uncertainties(methods)] if uncertainties else []),
        *(
            _parts(
                [(one.label, one.scores.groups.get(column, {})) for one in methods],
                column,
                {key: _GROUP_COLUMNS[key] for key in GROUP_KEYS},
            )
            for column in columns
        ),
        _parts(
            [(one.label, one.scores.classes) for one in methods],
            "class",
            {key: _CLASS_COLUMNS[key] for key in CLASS_KEYS},
        ),
    ]
    return [table for table in tables if table.rows]


def p_value_table(comparison: Comparison) -> Table:
    """Return the permutation p-values of a comparison, corrected for the number of methods."""
    rows = tuple(
        Row((row.name,), tuple(_p_cell(row.p[key], row.p_holm[key]) for key in COMPARED))
        for row in comparison.rows
        if row.p
    )
    return Table("", ("p, Holm-corrected",), tuple(_plain(key) for key in COMPARED), rows)


def p_text(p: float) -> str:
    """Return a p-value with as many digits as it needs: `0.37`, `0.004`, `0.0005`."""
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _plain(key: str) -> Column:
    return Column(SCORE_COLUMNS[key].title)


def _p_cell(p: float, corrected: float) -> Cell:
    return Cell(p_text(corrected), f"single {p_text(p)}", corrected < 0.05)


def _near_far(methods: Sequence[Named]) -> Table:
    rows = [
        Row(
            (one.label, f"{kind}: {_listed(group.sets)}", score_words(group.score)),
            tuple(score_cell(key, group.scores.get(key)) for key in OOD_COLUMNS),
        )
        for one in methods
        for kind, group in one.scores.ood_groups.items()
    ]
    headings = ("Method", "Mean over sets", "Uncertainty")
    return Table("", headings, tuple(OOD_COLUMNS.values()), tuple(rows))


def _uncertainties(methods: Sequence[Named]) -> Table:
    rows = [
        Row(
            (one.label, f"{name} uncertainty"),
            tuple(score_cell(part, means.get(part)) for part in PARTS),
        )
        for one in methods
        for name, means in one.scores.uncertainty.items()
    ]
    columns = tuple(_UNCERTAINTY_COLUMNS[part] for part in PARTS)
    return Table("", ("Method", "Mean, nats"), columns, tuple(rows))


def _parts(
    methods: Sequence[tuple[str, Mapping[str, PartScores]]],
    heading: str,
    columns: Mapping[str, Column],
) -> Table:
    every = [part for _, parts in methods for part in parts.values()]
    kept = [key for key in columns if any(key in part.scores for part in every)]
    rows = [
        Row(
            (label, shorten(clean(name))),
            (Cell(f"{part.n:,}"), *(score_cell(key, part.scores.get(key)) for key in kept)),
        )
        for label, parts in methods
        for name, part in parts.items()
    ]
    titles = (Column("Rows"), *(columns[key] for key in kept))
    return Table("", ("Method", shorten(clean(heading))), titles, tuple(rows))


def _listed(names: Sequence[str]) -> str:
    return shorten(", ".join(clean(name) for name in names))

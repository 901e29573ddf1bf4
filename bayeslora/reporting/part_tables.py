"""Further tables: ECE by chance, every score, parts of the rows, confusion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bayeslora.metrics.scores import PartScores, Score, Scores
from bayeslora.metrics.selective import COVERAGES
from bayeslora.metrics.subgroups import CLASS_KEYS, GROUP_KEYS
from bayeslora.metrics.uncertainties import PARTS
from bayeslora.plain_text import as_label, clean, counted, shorten
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.score_tables import (
    BOLD,
    COLUMNS,
    OOD_COLUMNS,
    TIED_BY_INTERVALS,
    score_cell,
    score_table,
)
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import named, number, p_text, percent

CHANCE_COLUMN = Column("ECE by chance")
"""Column beside ECE: its mean for a calibrated model, and how often it is at least as high."""

_UNCERTAINTY_COLUMNS = {
    "mean": Column("all examples"),
    "right": Column("correct predictions"),
    "wrong": Column("wrong predictions"),
}
_CLASS_COLUMNS = {
    "recall": Column("Recall", "↑"),
    "precision": Column("Precision", "↑"),
    "f1": Column("F1", "↑"),
    "mean_probability": Column("Mean probability"),
    "ece": Column("ECE, one vs rest", "↓"),
}
_BRACKETS = "Brackets hold 95 % intervals."
_ALL_ALEATORIC = " Where only the total is listed, the epistemic part is 0 on every example."

HOW_TO_READ_CHANCE = (
    "ECE by chance: the ECE of a perfectly calibrated method on as many examples; p: how often it"
    " would be at least as high by chance. A small p is evidence of miscalibration; a large p does"
    " not prove calibration."
)
"""Note on `CHANCE_COLUMN`, below a table that has it."""


def chance_cell(scores: Scores) -> Cell:
    """Return the ECE by chance, with the p-value of perfect calibration below it."""
    if scores.ece_if_calibrated is None:
        return Cell()
    p = "" if scores.calibration_p is None else f"p = {p_text(scores.calibration_p)}"
    return Cell(number(scores.ece_if_calibrated), p)


def with_chance(table: Table, methods: Sequence[Scores]) -> Table:
    """Return a table of methods with `CHANCE_COLUMN` after ECE, if there is an ECE."""
    titles = [column.title for column in table.columns]
    if COLUMNS["ece"].title not in titles:
        return table
    position = titles.index(COLUMNS["ece"].title) + 1
    rows = tuple(
        replace(row, cells=(*row.cells[:position], chance_cell(method), *row.cells[position:]))
        for row, method in zip(table.rows, methods, strict=True)
    )
    columns = (*table.columns[:position], CHANCE_COLUMN, *table.columns[position:])
    return replace(table, columns=columns, rows=rows)


def explained_table(
    methods: Sequence[Scores], facts: Facts, keys: Sequence[str] | None = None
) -> Table:
    """Return the table of methods by some scores with ECE by chance and explanations of ECE.

    The heading of ECE describes the interval, which can end at the value.
    """
    table = with_chance(score_table(methods, {}, keys, facts), methods)
    columns = tuple(
        replace(column, detail="noise-corrected interval") if column == COLUMNS["ece"] else column
        for column in table.columns
    )
    table = replace(table, columns=columns)
    return table.with_note(HOW_TO_READ_CHANCE) if CHANCE_COLUMN in columns else table


def coverage_table(methods: Sequence[Scores], facts: Facts) -> Table:
    """Return the table of accuracy by coverage; without columns if no example has a label."""
    keys = [f"accuracy_at_{percent}" for percent in COVERAGES]
    table = score_table(methods, {}, keys, facts)
    columns = tuple(Column(f"{percent} %", "↑") for percent in COVERAGES) if table.columns else ()
    caption, notes = "Accuracy by coverage, the share answered, most confident first.", _BRACKETS
    if len(methods) > 1:
        caption, notes = f"{caption} {BOLD}", f"{notes} {TIED_BY_INTERVALS}"
    return replace(table, caption=caption, columns=columns, notes=notes)


def group_tables(methods: Sequence[Scores]) -> list[Table]:
    """Return a table for every grouping column, with scores per value."""
    columns = list(dict.fromkeys(column for method in methods for column in method.groups))
    return [
        _parts(
            [(method.name, method.groups.get(column, {})) for method in methods],
            column,
            {key: COLUMNS[key] for key in GROUP_KEYS},
            f"Labelled examples by {named(as_label(column))}; small groups differ by chance.",
        )
        for column in columns
    ]


def class_table(methods: Sequence[Scores]) -> Table:
    """Return the table of scores per class; without rows if classes were not scored."""
    return _parts(
        [(method.name, method.classes) for method in methods],
        "class",
        {key: _CLASS_COLUMNS[key] for key in CLASS_KEYS},
        "Scores of every class, one against the rest.",
    )


def near_far_table(methods: Sequence[Scores]) -> Table:
    """Return the table of detection averaged over near and far sets; without rows if none."""
    rows = [
        Row(
            (
                method.name,
                f"{kind}: {shorten(', '.join(map(clean, group.sets)))}",
                score_words(group.score),
            ),
            tuple(score_cell(key, group.scores.get(key)) for key in OOD_COLUMNS),
        )
        for method in methods
        for kind, group in method.ood_groups.items()
    ]
    headings = ("Method", "Mean over sets", "Uncertainty")
    caption = "Means over near and over far sets; every set counts the same."
    return Table(caption, headings, tuple(OOD_COLUMNS.values()), tuple(rows), _BRACKETS)


def uncertainty_table(methods: Sequence[Scores]) -> Table:
    """Return the table of mean uncertainties; without rows if no method has any."""
    rows = [
        Row(
            (
                method.name,
                f"{name} uncertainty" if name in UNCERTAINTIES else name.replace("_", " "),
            ),
            tuple(score_cell(part, means.get(part)) for part in PARTS),
        )
        for method in methods
        for name, means in _distinct(method.uncertainty).items()
    ]
    columns = tuple(_UNCERTAINTY_COLUMNS[part] for part in PARTS)
    is_point = any(_distinct(method.uncertainty) != method.uncertainty for method in methods)
    notes = (
        "In nats; the logit variance in squared units of a logit."
        f" {_BRACKETS}{_ALL_ALEATORIC if is_point else ''}"
    )
    caption = "Mean uncertainty. A useful uncertainty is higher on wrong predictions."
    return Table(caption, ("Method", "Mean"), columns, tuple(rows), notes)


def _distinct(uncertainty: Mapping[str, Mapping[str, Score]]) -> Mapping[str, Mapping[str, Score]]:
    """Return the uncertainties without redundant ones.

    If the epistemic part is 0 on all rows, as for a point estimate, the aleatoric part equals the
    total.
    """
    epistemic = uncertainty.get("epistemic", {}).values()
    nothing = epistemic and all(score == Score(0.0, 0.0, 0.0) for score in epistemic)
    if "total" not in uncertainty or not nothing:
        return uncertainty
    return {"total": uncertainty["total"]}


def _parts(
    methods: Sequence[tuple[str, Mapping[str, PartScores]]],
    heading: str,
    columns: Mapping[str, Column],
    caption: str,
) -> Table:
    all_parts = [part for _, parts in methods for part in parts.values()]
    keys = [key for key in columns if any(key in part.scores for part in all_parts)]
    rows = [
        Row(
            (label, as_label(name)),
            (Cell(f"{part.n:,}"), *(score_cell(key, part.scores.get(key)) for key in keys)),
        )
        for label, parts in methods
        for name, part in parts.items()
    ]
    titles = (Column("Examples"), *(columns[key] for key in keys))
    return Table(caption, ("Method", as_label(heading)), titles, tuple(rows), _BRACKETS)


MOST_CLASSES = 10
"""Most classes of a full matrix; with more, the most frequent mistakes are listed."""

MOST_PAIRS = 20
"""Most mistakes listed per method."""


def confusion_tables(methods: Sequence[Scores]) -> list[Table]:
    """Return the confusion matrix of each method, and a table of mistakes for many classes.

    Methods without labelled rows are left out, and so are methods without mistakes in the table of
    mistakes.
    """
    with_confusion = [method for method in methods if method.confusion]
    small = [method for method in with_confusion if method.num_classes <= MOST_CLASSES]
    pairs = _pairs_table([m for m in with_confusion if m.num_classes > MOST_CLASSES])
    return [*map(_matrix_table, small), *([pairs] if pairs.rows else [])]


def _matrix_table(method: Scores) -> Table:
    names = _names(method)
    rows = []
    for name, line in zip(names, method.confusion, strict=True):
        total = sum(line)
        cells = (Cell(f"{count:,}", percent(count / total) if count else "") for count in line)
        rows.append(Row((method.name, name), (*cells, Cell(f"{total:,}"))))
    columns = (*(Column("predicted", detail=name) for name in names), Column("examples"))
    caption = (
        f"{named(method.name)}: examples of each class (rows) by predicted class (columns), with"
        f" their share of the row.{_summed(method)}"
    )
    return Table(caption, ("Method", "Label"), columns, tuple(rows))


def below_caption(table: Table) -> Table:
    """Return a confusion matrix without what its caption says: the method and "predicted"."""
    if table.headings != ("Method", "Label"):
        return table
    *predicted, total = table.columns
    columns = (*(replace(column, title="") for column in predicted), total)
    rows = tuple(replace(row, headings=row.headings[1:]) for row in table.rows)
    return replace(table, headings=table.headings[1:], columns=columns, rows=rows)


def _pairs_table(methods: Sequence[Scores]) -> Table:
    rows = [row for method in methods for row in _most_frequent_mistakes(method)]
    caption = (
        f"The {MOST_PAIRS} most frequent mistakes of each method, with their share of the class."
        f"{''.join(dict.fromkeys(map(_summed, methods)))}"
    )
    columns = (Column("examples"), Column("share of the class"))
    return Table(caption, ("Method", "Label", "Predicted as"), columns, tuple(rows))


def _most_frequent_mistakes(method: Scores) -> Iterator[Row]:
    """Yield the rows of the most frequent mistakes; ties go to the first classes."""
    counts, names = np.array(method.confusion, dtype=np.int64), _names(method)
    sizes = np.maximum(counts.sum(axis=1), 1)
    mistakes = counts - np.diag(np.diag(counts))
    for index in np.argsort(-mistakes, axis=None, kind="stable")[:MOST_PAIRS]:
        label, prediction = divmod(int(index), len(counts))
        if count := mistakes[label, prediction]:
            cells = Cell(f"{count:,}"), Cell(percent(count / sizes[label]))
            yield Row((method.name, names[label], names[prediction]), cells)


def _names(method: Scores) -> list[str]:
    return [as_label(name) for name in method.class_names]


def _summed(method: Scores) -> str:
    seeds = method.intervals.get("num_seeds")
    return f" Counts are sums over {counted(int(seeds), 'seed')}." if seeds else ""

"""Tables of scores: methods and their differences, detection, parts of the rows, confusion."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bayeslora.decisions.threshold import fit_rule
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.scores import (
    ALL_SCORES,
    DETECTION_SCORES,
    DIGITS,
    REFLECTED,
    OODScores,
    PartScores,
    Score,
    Scores,
)
from bayeslora.metrics.subgroups import CLASS_KEYS, GROUP_KEYS
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.reporting.assess import Assessed, Shift
from bayeslora.reporting.blocks import Cell, Column, Row, Table
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.text import (
    interval,
    named,
    number,
    p_text,
    percent,
    say,
    score_words,
    whole_percent,
)

COLUMNS: Mapping[str, Column] = {
    key: Column(info.title, info.arrow) for key, info in ALL_SCORES.items()
}
"""Key -> column, for every score of labelled predictions and of prediction sets."""

SCORE_KEYS = ("accuracy", "nll", "ece", "brier", "overconfidence", "aurc")
"""Scores in the table of methods."""

OF_SETS = ("coverage", "set_size")
"""Scores of prediction sets in the table of methods, if a method has sets."""

LISTED_KEYS = tuple(
    dict.fromkeys([*SCORE_KEYS, *(key for key, info in ALL_SCORES.items() if info.listed)])
)
"""Scores in the list of a single method, if present."""

OOD_COLUMNS: Mapping[str, Column] = {
    key: Column(info.title, info.arrow) for key, info in DETECTION_SCORES.items()
}
"""Key -> column of the table of out-of-distribution detection."""

FIRST_KEYS, MOST_COLUMNS, MOST_SETS = ("accuracy", "nll", "overconfidence", "ece"), 5, 2
"""Scores of the first screen, its most columns, and most out-of-distribution sets among them."""

CHANCE_COLUMN = Column("ECE by chance")


def score_table(
    methods: Sequence[Scores],
    sets: Mapping[str, str],
    keys: Sequence[str] | None = None,
    facts: Facts | None = None,
) -> Table:
    """Return the table of methods: one row each, with a column per out-of-distribution set.

    Args:
        methods: Scores by the names to show.
        sets: Name -> label of each out-of-distribution set.
        keys: The scores to show, in this order. None means `SCORE_KEYS`, or the mean confidence if
            no method has any of them, and `OF_SETS`.
        facts: Facts on the same methods in the same order, which determine the best values; None
            marks none.
    """
    if keys is None:
        some = any(key in method for method in methods for key in SCORE_KEYS)
        keys = (*(SCORE_KEYS if some else ("mean_confidence",)), *OF_SETS)
    shown = [key for key in keys if any(key in method for method in methods)]
    none = [False] * len(methods)
    columns: list[tuple[Column, list[Cell]]] = []
    for key in shown:
        marks = facts.marks(facts.standing(key)) if facts else none
        cells = [
            score_cell(key, method.get(key), best, digits=digits_of(key, method, shown))
            for best, method in zip(marks, methods, strict=True)
        ]
        columns.append((COLUMNS[key], cells))
        if key == "ece":
            columns.append((CHANCE_COLUMN, [chance_cell(method) for method in methods]))
    for name, label in sets.items():
        marks = facts.marks(facts.detectors[name][0]) if facts else none
        cells = [
            _auroc_cell(method.ood.get(name), best)
            for best, method in zip(marks, methods, strict=True)
        ]
        columns.append((Column("AUROC", "↑", label), cells))
    rows = tuple(
        Row((method.name,), tuple(cells[index] for _, cells in columns))
        for index, method in enumerate(methods)
    )
    notes = (
        f"Calibration errors in {methods[0].num_bins} bins. {say('brackets')}",
        say("ties") if len(methods) > 1 else "",
        say("reflected") if any(REFLECTED & {*method} for method in methods) else "",
        clamped_note(methods),
        say("chance") if "ece" in shown else "",
    )
    sizes = [method.n_labelled or method.n for method in methods]
    size = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
    kind = "labelled" if any(method.n_labelled for method in methods) else "unlabelled"
    return Table(
        f"Scores on {size} {kind} examples.{_marks(facts)}",
        ("Method",),
        tuple(column for column, _ in columns),
        rows,
        " ".join(filter(None, notes)),
    )


def _auroc_cell(result: OODScores | None, best: bool) -> Cell:
    if result is None:
        return Cell()
    return score_cell("auroc", result.auroc, best, p=f"by {score_words(result.score)}")


def first_table(facts: Facts) -> Table:
    """Return the table of methods of the first screen, without intervals."""
    sets = dict(list(facts.sets.items())[:MOST_SETS])
    table = score_table(facts.scores, sets, FIRST_KEYS[: MOST_COLUMNS - len(sets)], facts)
    chosen = [index for index, column in enumerate(table.columns) if column != CHANCE_COLUMN]
    rows = tuple(
        replace(row, cells=tuple(replace(row.cells[i], interval="", p="") for i in chosen))
        for row in table.rows
    )
    auroc = " AUROC: OOD detection." if sets else ""
    caption = f"{_marks(facts)} {say('arrows')}{auroc}".strip()
    columns = tuple(table.columns[index] for index in chosen)
    return replace(table, caption=caption, columns=columns, rows=rows, notes="")


def _marks(facts: Facts | None) -> str:
    """Return the meaning of bold numbers in a table of several methods, or why there are none."""
    if facts is None or len(facts.methods) < 2 or facts.are_samples:
        return ""
    return f" {say('bold' if facts.same_classes else 'different_classes')}"


def detection_table(
    methods: Sequence[Scores], sets: Mapping[str, str], facts: Facts | None = None
) -> Table:
    """Return the table of detection of each set by each method's own uncertainty."""
    ties = f" {say('ties')}" if len(methods) > 1 else ""
    notes = f"The set is the positive class. {say('brackets')}{ties}"
    table = score_table(methods, sets, (), facts)
    return replace(table, caption=f"{say('detection')}{_marks(facts)}", notes=notes)


def ood_table(methods: Sequence[Scores], name: str, label: str) -> Table:
    """Return the table of the detection of a set by each uncertainty of each method."""
    results = {method.name: method.ood[name] for method in methods if name in method.ood}
    lines = [
        ((method, score_words(score)), scores)
        for method, result in results.items()
        for score, scores in result.by_score.items()
    ]
    counts = " or ".join(
        f"{outside:,} against {inside:,} in distribution"
        for inside, outside in sorted({(each.n_in, each.n_out) for each in results.values()})
    )
    caption = f"Detection of {named(label)} by each uncertainty ({counts})."
    notes = f"The set is the positive class; higher = more uncertain. {say('brackets')}"
    return _table(caption, ("Method", "Uncertainty"), OOD_COLUMNS, lines, notes)


def _table(
    caption: str,
    headings: tuple[str, ...],
    columns: Mapping[str, Column],
    lines: Sequence[tuple[tuple[str, ...], Mapping[str, Score]]],
    notes: str,
) -> Table:
    """Return a table of scores by key, with the headings of each line."""
    rows = tuple(
        Row(line_headings, tuple(score_cell(key, scores.get(key)) for key in columns))
        for line_headings, scores in lines
    )
    return Table(caption, headings, tuple(columns.values()), rows, notes)


def digits_of(key: str, method: Scores, shown: Collection[str]) -> int:
    """Return the decimals of a score: more for a gap that is shown beside its two terms."""
    terms = {"overconfidence", "mean_confidence", "accuracy"}
    beside = key == "overconfidence" and terms <= {*shown} and terms <= method.keys()
    return method.gap_digits if beside else DIGITS


def score_cell(
    key: str, score: Score | None, best: bool = False, *, digits: int = DIGITS, p: str = ""
) -> Cell:
    """Return a score as a cell; an empty cell for None."""
    if score is None:
        return Cell()
    signed = key == "overconfidence"
    ends = interval(score.low, score.high, signed=signed, digits=digits)
    return Cell(number(score.value, signed=signed, digits=digits), ends, best, p)


def score_list(heading: str, cells: Mapping[str, Cell]) -> Table:
    """Return a table of scores by their titles, one a row, with intervals beside the values."""
    rows = [Row((title,), (Cell(cell.value), Cell(cell.interval))) for title, cell in cells.items()]
    return Table("", (heading,), (Column("value"), Column("95 % interval")), tuple(rows))


def chance_cell(scores: Scores) -> Cell:
    """Return the ECE by chance, with the p-value of perfect calibration below it."""
    if scores.ece_if_calibrated is None:
        return Cell()
    p = "" if scores.calibration_p is None else f"p = {p_text(scores.calibration_p)}"
    return Cell(number(scores.ece_if_calibrated), p)


def clamped_note(methods: Sequence[Scores]) -> str:
    """Return a note on the rows whose NLL was clamped; empty if there are none."""
    clamped = sum(method.nll_clamped for method in methods)
    return say("clamped", rows=clamped) if clamped else ""


SHIFT_KEYS = ("accuracy", "nll", "ece")
"""Scores of corrupted rows."""


def shift_table(shift: Shift) -> Table:
    """Return the table of corrupted rows; without rows if there are none."""
    columns = {key: COLUMNS[key] for key in SHIFT_KEYS}
    lines = [
        ((label, as_label(kind.replace("_", " ")), f"{severity:g}"), scores)
        for (label, kind, severity), scores in shift.items()
    ]
    headings = ("Method", "Corruption", "Severity")
    return _table(say("shift"), headings, columns, lines, say("brackets"))


RISKS = (0.01, 0.02, 0.05, 0.1)
"""Shares of errors among automated rows to find thresholds for."""


def automation_table(methods: Sequence[Assessed]) -> Table:
    """Return what each method may answer alone, at some risks.

    It has no rows for methods without labels, and for dependent rows, which the exact test of
    `decisions.threshold` is not for.
    """
    lines = []
    for method in methods:
        if not method.method.predictions.labelled.any() or method.scores.intervals.get(
            "cluster_by"
        ):
            continue
        for risk in RISKS:
            made = fit_rule(method.method.predictions, risk).promises[""]
            cells: tuple[Cell, ...] = (Cell("none"), Cell("–"), Cell("–"))
            if made.threshold is not None:
                wrong = percent(made.errors / made.accepted)
                cells = tuple(map(Cell, (percent(made.share), f"{made.threshold:.4f}", wrong)))
            lines.append(Row((as_label(method.label), whole_percent(risk)), cells))
    columns = ("Automated", "From probability", "Wrong here")
    return Table(
        say("automation"),
        ("Method", "At most wrong"),
        tuple(map(Column, columns)),
        tuple(lines),
        say("automation_notes"),
        sortable=False,
    )


def difference_table(comparison: Comparison) -> Table:
    """Return the table of paired differences from the reference, best method first.

    A cell holds the difference, its interval, and p; the row of the reference holds its scores.
    """
    columns = [COLUMNS[key] for key in comparison.keys]
    rows = tuple(_difference_row(row, comparison) for row in comparison.rows)
    tested = " and corrected p < 0.05" if comparison.num_permutations else ""
    reference = named(as_label(comparison.reference))
    caption = say("differences", of=comparison, reference=reference, tested=tested)
    notes = " ".join(_notes_on_differences(comparison, reference))
    return Table(caption, ("Method",), tuple(columns), rows, notes)


def _notes_on_differences(comparison: Comparison, reference: str) -> Iterator[str]:
    """Yield how intervals and tests were computed."""
    drawn = "examples" if comparison.num_clusters is None else "clusters"
    if any(row.seeds for row in comparison.rows):
        yield say("means_over_seeds")
    if comparison.num_clusters is not None:
        yield say("clusters", of=comparison, column=clean(comparison.cluster_by or ""))
    if comparison.intervals_over == "seeds":
        yield say("t_intervals")
    else:
        yield say("paired", of=comparison, drawn=drawn)
    if comparison.num_permutations:
        yield say("permutation", of=comparison, drawn=drawn, reference=reference)
    if comparison.nll_clamped and "nll" in comparison.keys:
        yield say("clamped", rows=comparison.nll_clamped)


def with_seeds(row: ComparisonRow) -> str:
    """Return a method's name with the number of its seeds."""
    name = as_label(row.name)
    return f"{name} ({counted(len(row.seeds), 'seed')})" if row.seeds else name


def _difference_row(row: ComparisonRow, comparison: Comparison) -> Row:
    title = with_seeds(row)
    if row.name == comparison.reference:
        title = f"{title} (reference)"
        cells = [Cell(score_cell(key, row.scores[key]).value) for key in comparison.keys]
    else:
        cells = []
        for key, score in row.differences.items():
            digits = comparison.digits(row, key)
            p = f"p {p_text(row.p_holm[key])} ({p_text(row.p[key])})" if key in row.p else ""
            value = number(score.value, signed=True, digits=digits)
            ends = interval(score.low, score.high, signed=True, digits=digits)
            cells.append(Cell(value, ends, row.is_clear(key), p))
    return Row((title,), tuple(cells))


def group_tables(methods: Sequence[Scores]) -> list[Table]:
    """Return a table for every grouping column, with scores per value."""
    columns = dict.fromkeys(column for method in methods for column in method.groups)
    return [
        _parts(
            [(method.name, method.groups.get(column, {})) for method in methods],
            column,
            {key: COLUMNS[key] for key in GROUP_KEYS},
            f"Labelled examples by {named(as_label(column))}; small groups differ by chance.",
        )
        for column in columns
    ]


_CLASS_COLUMNS: Mapping[str, Column] = {
    "recall": Column("Recall", "↑"),
    "precision": Column("Precision", "↑"),
    "f1": Column("F1", "↑"),
    "mean_probability": Column("Mean probability"),
    "ece": Column("ECE, one vs rest", "↓"),
}


def class_table(methods: Sequence[Scores]) -> Table:
    """Return the table of scores per class; without rows if classes were not scored."""
    return _parts(
        [(method.name, method.classes) for method in methods],
        "class",
        {key: _CLASS_COLUMNS[key] for key in CLASS_KEYS},
        "Scores of every class, one against the rest.",
    )


def _parts(
    methods: Sequence[tuple[str, Mapping[str, PartScores]]],
    heading: str,
    columns: Mapping[str, Column],
    caption: str,
) -> Table:
    all_parts = [part for _, parts in methods for part in parts.values()]
    keys = [key for key in columns if any(key in part.scores for part in all_parts)]
    rows = tuple(
        Row(
            (label, as_label(name)),
            (Cell(f"{part.n:,}"), *(score_cell(key, part.scores.get(key)) for key in keys)),
        )
        for label, parts in methods
        for name, part in parts.items()
    )
    titles = (Column("Examples"), *(columns[key] for key in keys))
    return Table(caption, ("Method", as_label(heading)), titles, rows, say("brackets"))


MOST_CLASSES = 10
"""Most classes of a full matrix; with more, the most frequent mistakes are listed."""

MOST_PAIRS = 20
"""Most mistakes listed per method."""


def confusion_tables(methods: Iterable[Scores]) -> list[Table]:
    """Return the confusion matrix of each method, and a table of mistakes for many classes.

    Methods without labelled rows are left out, and so are methods without mistakes in the table of
    mistakes.
    """
    tables: list[Table] = []
    rows: list[Row] = []
    for method in methods:
        if method.confusion and method.num_classes <= MOST_CLASSES:
            tables.append(_matrix_table(method))
        elif method.confusion:
            rows += _most_frequent_mistakes(method)
    if rows:
        caption = say("mistakes", most=MOST_PAIRS)
        columns = (Column("examples"), Column("share of the class"))
        tables.append(Table(caption, ("Method", "Label", "Predicted as"), columns, tuple(rows)))
    return tables


def _matrix_table(method: Scores) -> Table:
    names = list(map(as_label, method.class_names))
    rows = []
    for name, line in zip(names, method.confusion, strict=True):
        total = sum(line)
        cells = (Cell(f"{count:,}", percent(count / total) if count else "") for count in line)
        rows.append(Row((name,), (*cells, Cell(f"{total:,}"))))
    columns = (*(Column("", detail=name) for name in names), Column("examples"))
    return Table(say("confusion", name=method.name), ("Label",), columns, tuple(rows))


def _most_frequent_mistakes(method: Scores) -> Iterator[Row]:
    """Yield the rows of the most frequent mistakes; ties go to the first classes."""
    counts = np.array(method.confusion, dtype=np.int64)
    names = list(map(as_label, method.class_names))
    sizes = np.maximum(counts.sum(axis=1), 1)
    mistakes = counts - np.diag(np.diag(counts))
    for index in np.argsort(-mistakes, axis=None, kind="stable")[:MOST_PAIRS]:
        label, prediction = divmod(int(index), len(counts))
        if count := mistakes[label, prediction]:
            cells = Cell(f"{count:,}"), Cell(percent(count / sizes[label]))
            yield Row((method.name, names[label], names[prediction]), cells)

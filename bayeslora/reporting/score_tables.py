"""Tables of scores: methods, detection by each uncertainty, parts of the rows, confusion."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bayeslora.metrics.catalogue import ALL_SCORES, DETECTION_SCORES, REFLECTED
from bayeslora.metrics.scores import DIGITS, OODScores, PartScores, Score, Scores
from bayeslora.metrics.subgroups import CLASS_KEYS, GROUP_KEYS
from bayeslora.plain_text import as_label, counted
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.reporting.facts import Facts, best_or_tied
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import (
    interval,
    listed,
    named,
    number,
    p_text,
    percent,
    say,
    score_words,
)

COLUMNS: Mapping[str, Column] = {
    key: Column(info.title, info.arrow) for key, info in ALL_SCORES.items()
}
"""Key -> column, for every score of labelled predictions and of prediction sets."""

SCORE_COLUMNS: Mapping[str, Column] = {
    key: COLUMNS[key] for key in ("accuracy", "nll", "ece", "brier", "overconfidence", "aurc")
}
"""Key -> column of the table of methods."""

LISTED_COLUMNS: Mapping[str, Column] = {
    **SCORE_COLUMNS,
    **{key: column for key, column in COLUMNS.items() if ALL_SCORES[key].listed},
}
"""`SCORE_COLUMNS` and further scores, for lists."""

OF_SETS = ("coverage", "set_size")
"""Scores of prediction sets in the table of methods, if a method has sets."""

OOD_COLUMNS: Mapping[str, Column] = {
    key: Column(info.title, info.arrow) for key, info in DETECTION_SCORES.items()
}
"""Key -> column of the table of out-of-distribution detection."""

HIDDEN_SCORES = frozenset({"entropy", "aleatoric"})
"""Uncertainties listed only in `scores.json` and `scores.csv`: entropy equals the total, and the
aleatoric part is not designed to detect out-of-distribution examples."""

FIRST_KEYS, MOST_COLUMNS, MOST_SETS = ("accuracy", "nll", "overconfidence", "ece"), 5, 2
"""Scores of the first screen, its most columns, and most out-of-distribution sets among them."""

CHANCE_COLUMN = Column("ECE by chance")


def score_table(
    methods: Sequence[Scores],
    sets: Mapping[str, str],
    keys: Sequence[str] | None = None,
    facts: Facts | None = None,
    *,
    chance: bool = False,
) -> Table:
    """Return the table of methods: one row each, with a column per out-of-distribution set.

    Args:
        methods: Scores by the names to show.
        sets: Name -> label of each out-of-distribution set.
        keys: The scores to show, in this order. None means those of `SCORE_COLUMNS`, or the mean
            confidence if no method has any of them, and those of `OF_SETS`.
        facts: Facts on the same methods in the same order, which determine the marks; None marks by
            intervals alone.
        chance: Whether `CHANCE_COLUMN` follows ECE, if there is an ECE.
    """
    if keys is None:
        some = any(key in method for method in methods for key in SCORE_COLUMNS)
        keys = (*(SCORE_COLUMNS if some else ("mean_confidence",)), *OF_SETS)
    shown = [key for key in keys if any(key in method for method in methods)]
    columns: list[tuple[Column, list[Cell]]] = []
    for key in shown:
        scores = [method.get(key) for method in methods]
        marks = best_or_tied(key, scores) if facts is None else facts.marks(key)
        cells = [
            score_cell(key, score, best, digits=digits_of(key, method, shown))
            for score, best, method in zip(scores, marks, methods, strict=True)
        ]
        columns.append((COLUMNS[key], cells))
        if chance and key == "ece":
            columns.append((CHANCE_COLUMN, [chance_cell(method) for method in methods]))
    for name, label in sets.items():
        results = [method.ood.get(name) for method in methods]
        scores = [None if result is None else result.auroc for result in results]
        marks = best_or_tied("auroc", scores) if facts is None else facts.marks_on(name)
        cells = [
            score_cell("auroc", score, best, p=_judged_by(result))
            for result, score, best in zip(results, scores, marks, strict=True)
        ]
        columns.append((Column("AUROC", "↑", label), cells))
    rows = tuple(
        Row((method.name,), tuple(cells[index] for _, cells in columns))
        for index, method in enumerate(methods)
    )
    labelled = any(method.n_labelled for method in methods)
    sizes = sorted({method.n_labelled or method.n for method in methods})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    noun = f"{'' if labelled else 'un'}labelled {'example' if sizes == [1] else 'examples'}"
    bins = " or ".join(map(str, sorted({method.num_bins for method in methods})))
    used = {method.ood[name].score for method in methods for name in sets if name in method.ood}
    notes = (
        f"Calibration errors in {bins} bins; {_brackets(methods)}."
        if shown
        else f"The set is the positive class; {_brackets(methods)}.",
        say("ties") if len(methods) > 1 else "",
        f"AUROC by {' or '.join(map(score_words, sorted(used)))}." if used else "",
        say("reflected") if any(REFLECTED & {*method} for method in methods) else "",
        clamped_note(methods),
        sets_note(methods),
        say("chance") if chance and "ece" in shown else "",
    )
    return Table(
        f"Scores on {size} {noun}.{_marks(methods, facts)}",
        ("Method",),
        tuple(column for column, _ in columns),
        rows,
        " ".join(filter(None, notes)),
    )


def first_table(facts: Facts) -> Table:
    """Return the table of methods of the first screen, without intervals."""
    sets = dict(list(facts.sets.items())[:MOST_SETS])
    table = score_table(facts.scores, sets, FIRST_KEYS[: MOST_COLUMNS - len(sets)], facts)
    rows = tuple(
        replace(row, cells=tuple(replace(cell, interval="", p="") for cell in row.cells))
        for row in table.rows
    )
    bold = say("bold" if facts.same_classes else "different_classes")
    auroc = " AUROC: OOD detection." if sets else ""
    caption = f"{bold} {say('arrows')}{auroc}"
    return replace(table, caption=caption, rows=rows, notes="")


def _marks(methods: Sequence[Scores], facts: Facts | None) -> str:
    """Return the meaning of bold numbers in a table of several methods, or why there are none."""
    if len(methods) < 2:
        return ""
    comparable = facts is None or facts.same_classes
    return f" {say('bold' if comparable else 'different_classes')}"


def detection_table(
    methods: Sequence[Scores], sets: Mapping[str, str], facts: Facts | None = None
) -> Table:
    """Return the table of detection of each set by each method's own uncertainty."""
    table = score_table(methods, sets, (), facts)
    return replace(table, caption=f"{say('detection')}{_marks(methods, facts)}")


def _judged_by(result: OODScores | None) -> str:
    return "" if result is None else f"by {score_words(result.score)}"


def listed_scores(result: OODScores) -> Mapping[str, Mapping[str, Score]]:
    """Return the scores of detection by each uncertainty that a table lists.

    `HIDDEN_SCORES` and constant scores, for which all pairs tie in every resample, are left out.
    """
    return {
        score: scores
        for score, scores in result.by_score.items()
        if score not in HIDDEN_SCORES
        and not (scores["auroc"].value == 0.5 and scores["fpr95"].value == 1)
    }


def ood_table(methods: Sequence[Scores], name: str, label: str) -> Table:
    """Return the table of the detection of a set by each uncertainty in `listed_scores`."""
    lines = [
        ((method.name, score_words(score)), scores)
        for method in methods
        if name in method.ood
        for score, scores in listed_scores(method.ood[name]).items()
    ]
    results = [method.ood[name] for method in methods if name in method.ood]
    counts = " or ".join(
        f"{outside:,} against {inside:,} in distribution"
        for inside, outside in sorted({(result.n_in, result.n_out) for result in results})
    )
    caption = f"Detection of {named(label)} by each uncertainty ({counts})."
    notes = f"The set is the positive class; higher = more uncertain; {_brackets(methods)}."
    if len(lines) > 1:
        caption, notes = f"{caption} {say('bold')}", f"{notes} {say('ties_by_intervals')}"
    return _table(caption, ("Method", "Uncertainty"), OOD_COLUMNS, lines, notes, marked=True)


def _table(
    caption: str,
    headings: tuple[str, ...],
    columns: Mapping[str, Column],
    lines: Sequence[tuple[tuple[str, ...], Mapping[str, Score]]],
    notes: str,
    *,
    marked: bool = False,
) -> Table:
    """Return a table of scores by key, with the headings of each line."""
    best = {
        key: marked and best_or_tied(key, [scores.get(key) for _, scores in lines])
        for key in columns
    }
    rows = tuple(
        Row(
            line_headings,
            tuple(
                score_cell(key, scores.get(key), best=marks[index] if marks else False)
                for key, marks in best.items()
            ),
        )
        for index, (line_headings, scores) in enumerate(lines)
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


def clamped_note(scores: Sequence[Scores]) -> str:
    """Return a note on the rows whose NLL was clamped; empty if there are none."""
    clipped = [
        f"{result.nll_clamped:,} of {result.n_labelled:,} examples"
        + (f" of {named(result.name)}" if len(scores) > 1 else "")
        for result in scores
        if result.nll_clamped and "nll" in result
    ]
    if not clipped:
        return ""
    return say("clamped", rows=listed(clipped))


def sets_note(scores: Sequence[Scores]) -> str:
    """Return a note on the coverage of prediction sets and their intervals; empty without sets."""
    if not any("set_size" in result for result in scores):
        return ""
    stated = sorted({f"{result.stated_coverage:g}" for result in scores if result.stated_coverage})
    made = f"Prediction sets were made for a coverage of {' or '.join(stated)}. " if stated else ""
    return f"{made}Shares of prediction sets have Wilson intervals."


def _brackets(methods: Sequence[Scores]) -> str:
    """Return a note on what intervals are over: rows, or the seeds of a method."""
    pooled = sum("num_seeds" in method.intervals for method in methods)
    if not pooled:
        return say("over_rows")
    return say("over_seeds_all" if pooled == len(methods) else "over_seeds_some")


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


_UNCERTAINTY_COLUMNS: Mapping[str, Column] = {
    "mean": Column("all examples"),
    "right": Column("correct predictions"),
    "wrong": Column("wrong predictions"),
}


def uncertainty_table(methods: Sequence[Scores]) -> Table:
    """Return the table of mean uncertainties; without rows if no method has any."""
    lines = [
        (
            (
                method.name,
                f"{name} uncertainty" if name in UNCERTAINTIES else name.replace("_", " "),
            ),
            means,
        )
        for method in methods
        for name, means in method.uncertainty.items()
    ]
    notes = say("in_nats")
    headings = "Method", "Mean"
    return _table(say("uncertainties"), headings, _UNCERTAINTY_COLUMNS, lines, notes)


MOST_CLASSES = 10
"""Most classes of a full matrix; with more, the most frequent mistakes are listed."""

MOST_PAIRS = 20
"""Most mistakes listed per method."""


def confusion_tables(methods: Iterable[Scores], *, captioned: bool = False) -> list[Table]:
    """Return the confusion matrix of each method, and a table of mistakes for many classes.

    Methods without labelled rows are left out, and so are methods without mistakes in the table of
    mistakes. If `captioned`, a matrix does not repeat what its caption says: the method and
    "predicted".
    """
    tables: list[Table] = []
    rows: list[Row] = []
    sums: list[str] = []
    for method in methods:
        if method.confusion and method.num_classes <= MOST_CLASSES:
            tables.append(_matrix_table(method, captioned))
        elif method.confusion:
            rows += _most_frequent_mistakes(method)
            sums.append(_summed(method))
    if rows:
        caption = say("mistakes", most=MOST_PAIRS, seeds="".join(dict.fromkeys(sums)))
        columns = (Column("examples"), Column("share of the class"))
        tables.append(Table(caption, ("Method", "Label", "Predicted as"), columns, tuple(rows)))
    return tables


def _matrix_table(method: Scores, captioned: bool) -> Table:
    names = list(map(as_label, method.class_names))
    rows = []
    for name, line in zip(names, method.confusion, strict=True):
        total = sum(line)
        cells = (Cell(f"{count:,}", percent(count / total) if count else "") for count in line)
        headings = (name,) if captioned else (method.name, name)
        rows.append(Row(headings, (*cells, Cell(f"{total:,}"))))
    title = "" if captioned else "predicted"
    columns = (*(Column(title, detail=name) for name in names), Column("examples"))
    caption = say("confusion", name=named(method.name), seeds=_summed(method))
    return Table(caption, ("Method", "Label")[captioned:], columns, tuple(rows))


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


def _summed(method: Scores) -> str:
    seeds = method.intervals.get("num_seeds")
    return f" Counts are sums over {counted(int(seeds), 'seed')}." if seeds else ""

"""Tables of scores: methods, detection by each uncertainty, parts of the rows, confusion."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bayeslora.metrics.catalogue import ALL_SCORES, DETECTION_SCORES, REFLECTED
from bayeslora.metrics.scores import DIGITS, OODScores, PartScores, Score, Scores
from bayeslora.metrics.selective import COVERAGES
from bayeslora.metrics.subgroups import CLASS_KEYS, GROUP_KEYS
from bayeslora.metrics.uncertainties import PARTS
from bayeslora.plain_text import as_label, clean, counted, shorten
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.reporting.detectors import score_words
from bayeslora.reporting.ranking import Facts, best_or_tied
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import interval, listed, named, number, p_text, percent

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

BOLD = "Bold: best or tied; no bold: no clear difference."
TIED_BY_INTERVALS = "Tied with the best: intervals overlap."
DIFFERENT_CLASSES = "The methods have different classes, so none is marked as best."
REFLECTED_NOTE = (
    "Noise only adds to a calibration error, so its interval is mirrored at the value and begins"
    " at zero where chance alone explains the error; the value itself is not corrected."
)


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
    columns = [COLUMNS[key] for key in shown]
    values = [
        _cells(
            key,
            [method.get(key) for method in methods],
            None if facts is None else facts.marks(key),
            [digits_of(key, method, shown) for method in methods],
        )
        for key in shown
    ]
    if chance and "ece" in shown:
        position = shown.index("ece") + 1
        columns.insert(position, CHANCE_COLUMN)
        values.insert(position, [chance_cell(method) for method in methods])
    for name, label in sets.items():
        columns.append(Column("AUROC", "↑", label))
        cells = zip(_auroc_cells(methods, name, facts), methods, strict=True)
        values.append(
            [
                replace(cell, p=f"by {score_words(method.ood[name].score)}")
                if name in method.ood
                else cell
                for cell, method in cells
            ]
        )
    rows = tuple(
        Row((method.name,), row)
        for method, row in zip(methods, zip(*values, strict=True), strict=True)
    )
    kind = "labelled" if any(method.n_labelled for method in methods) else "unlabelled"
    sizes = sorted({method.n_labelled or method.n for method in methods})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    marks = f" {bold(facts)}" if len(methods) > 1 else ""
    caption = f"Scores on {size} {kind} {'example' if sizes == [1] else 'examples'}.{marks}"
    notes = _how_to_read(methods, sets, shown, facts)
    return Table(caption, ("Method",), tuple(columns), rows, notes)


def detection_table(
    methods: Sequence[Scores], sets: Mapping[str, str], facts: Facts | None = None
) -> Table:
    """Return the table of detection of each set by each method's own uncertainty, one method a row.

    It has no rows if no method has a set.
    """
    values = [_auroc_cells(methods, name, facts) for name in sets]
    rows = tuple(
        Row((method.name, _words(method.ood.values())), tuple(column[index] for column in values))
        for index, method in enumerate(methods)
        if method.ood
    )
    marks = f" {bold(facts)}" if len(rows) > 1 else ""
    caption = f"Detection of each set by the method's own uncertainty; 0.5 is chance.{marks}"
    columns = tuple(Column("AUROC", "↑", label) for label in sets.values())
    ties = f" {_ties((), sets, facts)}" if len(rows) > 1 else ""
    notes = f"The set is the positive class; {_brackets(methods)}.{ties}"
    return Table(caption, ("Method", "Uncertainty"), columns, rows, notes)


def _auroc_cells(methods: Sequence[Scores], name: str, facts: Facts | None) -> list[Cell]:
    results = [method.ood.get(name) for method in methods]
    aurocs = [None if result is None else result.auroc for result in results]
    return _cells("auroc", aurocs, None if facts is None else facts.marks_on(name))


def _words(results: Iterable[OODScores]) -> str:
    return " or ".join(map(score_words, sorted({result.score for result in results})))


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
    entries = [
        (method.name, score, scores)
        for method in methods
        if name in method.ood
        for score, scores in listed_scores(method.ood[name]).items()
    ]
    columns = [_cells(key, [scores.get(key) for _, _, scores in entries]) for key in OOD_COLUMNS]
    rows = tuple(
        Row((method, score_words(score)), cells)
        for (method, score, _), cells in zip(entries, zip(*columns, strict=True), strict=True)
    )
    results = [method.ood[name] for method in methods if name in method.ood]
    counts = " or ".join(
        f"{outside:,} against {inside:,} in distribution"
        for inside, outside in sorted({(result.n_in, result.n_out) for result in results})
    )
    caption = f"Detection of {named(label)} by each uncertainty ({counts})."
    notes = f"The set is the positive class; higher = more uncertain; {_brackets(methods)}."
    if len(rows) > 1:
        caption, notes = f"{caption} {BOLD}", f"{notes} {TIED_BY_INTERVALS}"
    return Table(caption, ("Method", "Uncertainty"), tuple(OOD_COLUMNS.values()), rows, notes)


def digits_of(key: str, method: Scores, shown: Collection[str]) -> int:
    """Return the decimals of a score: more for a gap that is shown beside its two terms."""
    terms = {"overconfidence", "mean_confidence", "accuracy"}
    beside = key == "overconfidence" and terms <= {*shown} and terms <= method.keys()
    return method.gap_digits if beside else DIGITS


def score_cell(key: str, score: Score | None, best: bool = False, *, digits: int = DIGITS) -> Cell:
    """Return a score as a cell; an empty cell for None."""
    if score is None:
        return Cell()
    signed = key == "overconfidence"
    ends = interval(score.low, score.high, signed=signed, digits=digits)
    return Cell(number(score.value, signed=signed, digits=digits), ends, best)


def value_and_interval(key: str, score: Score, digits: int = DIGITS) -> tuple[Cell, Cell]:
    """Return a score and its interval as two cells."""
    cell = score_cell(key, score, digits=digits)
    return Cell(cell.value), Cell(cell.interval)


def _cells(
    key: str,
    scores: Sequence[Score | None],
    marked: Sequence[bool] | None = None,
    digits: Sequence[int] | None = None,
) -> list[Cell]:
    marked = best_or_tied(key, scores) if marked is None else marked
    decimals = [DIGITS] * len(scores) if digits is None else digits
    cells = zip(scores, marked, decimals, strict=True)
    return [score_cell(key, score, best, digits=places) for score, best, places in cells]


def bold(facts: Facts | None) -> str:
    """Return the meaning of bold numbers in a table, or why there are none."""
    return BOLD if facts is None or facts.same_classes else DIFFERENT_CLASSES


def _how_to_read(
    methods: Sequence[Scores], sets: Mapping[str, str], keys: Sequence[str], facts: Facts | None
) -> str:
    bins = " or ".join(map(str, sorted({method.num_bins for method in methods})))
    results = [method.ood[s] for method in methods for s in sets if s in method.ood]
    parts = (
        f"Calibration errors in {bins} bins; {_brackets(methods)}.",
        _ties(keys, sets, facts) if len(methods) > 1 else "",
        f"AUROC by {_words(results)}." if results else "",
        REFLECTED_NOTE if any(REFLECTED & {*method} for method in methods) else "",
        clamped_note(methods),
        sets_note(methods),
    )
    return " ".join(filter(None, parts))


def _ties(keys: Sequence[str], sets: Iterable[str], facts: Facts | None) -> str:
    """Return which methods a table marks as tied with the best by a score."""
    standings = {} if facts is None else {key: facts.standing(key) for key in keys}
    is_paired = [key for key, best in standings.items() if best is not None and best.paired]
    paired = [COLUMNS[key].title for key in is_paired]
    detectors = {} if facts is None else facts.detectors
    if any(detectors[name][0].paired for name in sets if name in detectors):
        paired.append("AUROC")
    overlap = "intervals overlap"
    if "overconfidence" in keys and "overconfidence" not in is_paired:
        overlap += f" ({COLUMNS['overconfidence'].title} without its sign)"
    if not paired:
        return f"Tied with the best: {overlap}."
    return (
        f"Tied with the best: for {listed(paired)}, the paired difference from it is"
        " within chance (its interval holds 0, or p is 0.05 or more with Holm's correction);"
        f" otherwise, {overlap}."
    )


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
    return (
        f"NLL is cut off: the label of {listed(clipped)} has a probability below 1e-12, which"
        " counts as 1e-12 (27.6 nats)."
    )


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
        return "brackets hold 95 % bootstrap intervals"
    if pooled == len(methods):
        return "values are means over seeds, brackets hold 95 % t intervals over seeds"
    return (
        "where a method has several seeds, values are means over them and brackets hold 95 % t"
        " intervals over seeds, else 95 % bootstrap intervals over examples"
    )


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


def explained_table(facts: Facts, keys: Sequence[str] | None = None) -> Table:
    """Return the table of methods by some scores with ECE by chance and explanations of ECE.

    The heading of ECE describes the interval, which can end at the value.
    """
    table = score_table(facts.scores, {}, keys, facts, chance=True)
    columns = tuple(
        replace(column, detail="noise-corrected interval") if column == COLUMNS["ece"] else column
        for column in table.columns
    )
    table = replace(table, columns=columns)
    return table.with_note(HOW_TO_READ_CHANCE) if CHANCE_COLUMN in columns else table


def coverage_table(facts: Facts) -> Table:
    """Return the table of accuracy by coverage; without columns if no example has a label."""
    keys = [f"accuracy_at_{percent}" for percent in COVERAGES]
    table = score_table(facts.scores, {}, keys, facts)
    columns = tuple(Column(f"{percent} %", "↑") for percent in COVERAGES) if table.columns else ()
    caption, notes = "Accuracy by coverage, the share answered, most confident first.", _BRACKETS
    if len(facts.methods) > 1:
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


def confusion_tables(methods: Sequence[Scores], *, captioned: bool = False) -> list[Table]:
    """Return the confusion matrix of each method, and a table of mistakes for many classes.

    Methods without labelled rows are left out, and so are methods without mistakes in the table of
    mistakes. If `captioned`, a matrix does not repeat what its caption says: the method and
    "predicted".
    """
    with_confusion = [method for method in methods if method.confusion]
    many = [method for method in with_confusion if method.num_classes > MOST_CLASSES]
    tables = [
        _matrix_table(method, captioned)
        for method in with_confusion
        if method.num_classes <= MOST_CLASSES
    ]
    rows = tuple(row for method in many for row in _most_frequent_mistakes(method))
    if rows:
        caption = (
            f"The {MOST_PAIRS} most frequent mistakes of each method, with their share of the"
            f" class.{''.join(dict.fromkeys(map(_summed, many)))}"
        )
        columns = (Column("examples"), Column("share of the class"))
        tables.append(Table(caption, ("Method", "Label", "Predicted as"), columns, rows))
    return tables


def _matrix_table(method: Scores, captioned: bool) -> Table:
    names = _names(method)
    rows = []
    for name, line in zip(names, method.confusion, strict=True):
        total = sum(line)
        cells = (Cell(f"{count:,}", percent(count / total) if count else "") for count in line)
        headings = (name,) if captioned else (method.name, name)
        rows.append(Row(headings, (*cells, Cell(f"{total:,}"))))
    title = "" if captioned else "predicted"
    columns = (*(Column(title, detail=name) for name in names), Column("examples"))
    caption = (
        f"{named(method.name)}: examples of each class (rows) by predicted class (columns), with"
        f" their share of the row.{_summed(method)}"
    )
    return Table(caption, ("Method", "Label")[captioned:], columns, tuple(rows))


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

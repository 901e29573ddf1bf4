"""The paired comparison: a table, notes on how to read it, and files of it.

Scores of a report for programs and papers, as JSON and CSV.

No cell of the CSV runs as a formula in a spreadsheet. Spreadsheets evaluate cells that begin with
`=`, `+`, `-` or `@`, and a class or a method can be called `=HYPERLINK(…)`. Such text is prefixed
with an apostrophe, which marks text in spreadsheets; numbers are unchanged.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from bayeslora._version import __version__
from bayeslora.errors import unknown_choice
from bayeslora.io.files import atomic_file, check_writable, refuse_existing
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.scores import Score, Scores, without_nan
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.page import PREAMBLE, to_latex
from bayeslora.reporting.score_tables import COLUMNS, score_cell
from bayeslora.reporting.tables import (
    Cell,
    Column,
    Row,
    Table,
    sentence_to_markdown,
    to_markdown,
)
from bayeslora.reporting.text import interval, named, number, p_text, say

_FORMULA = re.compile(r"[=@＝＋－＠]|[+-](?!\d+(\.\d+)?$)")


def write_rows(stream: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of text and numbers to a stream opened with `newline=""`."""
    csv.writer(stream, lineterminator="\n").writerows(map(_cell, row) for row in rows)


def _cell(value: object) -> str:
    """Return a cell; text on one line, with an apostrophe if it would run as a formula."""
    if not isinstance(value, str):
        return "" if isinstance(value, float) and math.isnan(value) else repr(value)
    text = value and clean(value)
    return f"'{text}" if _FORMULA.match(text) else text


FORMAT_VERSION = 1
"""Version of the layout of `scores.json`."""

CSV_COLUMNS = (
    *("method", "name", "ood", "uncertainty", "score"),
    *("value", "low", "high", "n", "n_ood", "by", "part"),
)
"""Columns of `scores.csv`; `ood`, `uncertainty` and `n_ood` are only set for detection.

`by` is only set for parts: `group:<column>`, `class`, `sets` (near and far) and `answers` (right
and wrong), with the value of the column, the class, and so on in `part`. Means over seeds follow
all fits, with the number of seeds in `method`.
"""


def scores_json(title: str, facts: Facts) -> dict[str, Any]:
    """Return the content of `scores.json`."""
    comparison = facts.comparison
    return {
        "format_version": FORMAT_VERSION,
        "bayeslora": __version__,
        "title": title,
        "methods": [
            {**fit.scores.to_json(), "label": fit.label, "file": fit.method.file}
            for fit in facts.fits
        ],
        "over_seeds": [
            {
                **method.scores.to_json(),
                "label": method.title,
                "fits": [fit.label for fit in method.fits],
                "seeds": [fit.method.seed for fit in method.fits],
            }
            for method in facts.methods
            if method.fits
        ],
        "comparison": None if comparison is None else comparison.to_json(),
        "shift": [
            {
                "label": curve.label,
                "corruption": curve.kind,
                "scores": [
                    without_nan({"severity": level, **{k: vars(s) for k, s in by_key.items()}})
                    for level, by_key in curve.scores.items()
                ],
            }
            for curve in facts.shift
        ],
    }


def write_csv(path: Path, facts: Facts) -> None:
    """Write `scores.csv` with numbers in full precision."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [CSV_COLUMNS])
        for assessed in (*facts.fits, *(method for method in facts.methods if method.fits)):
            write_rows(stream, _lines(assessed))


def _lines(assessed: Assessed) -> Iterator[tuple[object, ...]]:
    scores, names = assessed.scores, (assessed.title, assessed.method.name)
    rows = scores.n_labelled or scores.n
    for key, score in scores.items():
        yield (*names, "", "", key, *score_numbers(score), rows, "", "", "")
    for key in ("ece_if_calibrated", "calibration_p"):
        if (value := getattr(scores, key)) is not None:
            yield (*names, "", "", key, value, "", "", rows, "", "", "")
    for name, result in scores.ood.items():
        for uncertainty, by_key in result.by_score.items():
            for key, score in by_key.items():
                numbers = (*score_numbers(score), result.n_in, result.n_out)
                yield (*names, name, uncertainty, key, *numbers, "", "")
    for line in _part_lines(scores):
        yield (*names, *line)


def _part_lines(scores: Scores) -> Iterator[tuple[object, ...]]:
    """Yield the lines of parts, without the names of the method."""
    for kind, group in scores.ood_groups.items():
        size = sum(scores.ood[name].n_out for name in group.sets)
        for uncertainty, by_key in group.by_score.items():
            for key, score in by_key.items():
                yield ("", uncertainty, key, *score_numbers(score), scores.n, size, "sets", kind)
    for uncertainty, means in scores.uncertainty.items():
        for part, score in means.items():
            yield ("", uncertainty, "mean", *score_numbers(score), "", "", "answers", part)
    groups = {f"group:{column}": parts for column, parts in scores.groups.items()}
    for by, parts in {**groups, "class": scores.classes}.items():
        for name, of_part in parts.items():
            for key, score in of_part.scores.items():
                yield ("", "", key, *score_numbers(score), of_part.n, "", by, name)


def score_numbers(score: Score) -> tuple[float, float, float]:
    """Return value, low and high."""
    return score.value, score.low, score.high


DISTANCE_COLUMNS: Mapping[str, Column] = {
    "tv": Column("TV", "↓"),
    "epistemic_ratio": Column("Epistemic ratio", "→1"),
}
"""Key -> column of the distances in a comparison."""


def difference_table(comparison: Comparison, chosen_by: str = "") -> Table:
    """Return the table of paired differences from the reference, best method first.

    A cell holds the difference, its interval, and p; the row of the reference holds its scores.
    Distances, if measured, have two more columns. `chosen_by` is the score by which the reference
    was chosen on the same rows; empty if the choice did not depend on them.
    """
    columns = [COLUMNS[key] for key in comparison.keys]
    if comparison.distance_to is not None:
        detail = f"to {as_label(comparison.distance_to)}"
        columns += [replace(column, detail=detail) for column in DISTANCE_COLUMNS.values()]
    rows = tuple(_row(row, comparison) for row in comparison.rows)
    caption, *notes = comparison_notes(comparison, chosen_by)
    return Table(caption, ("Method",), tuple(columns), rows, " ".join(notes))


def comparison_notes(
    comparison: Comparison, chosen_by: str = "", mark: str = "Bold", *, brief: bool = False
) -> tuple[str, ...]:
    """Return the sentences needed to read the table, with names marked by `text.named`.

    `mark` is the mark of a difference beyond chance; `brief` leaves out how intervals and tests
    were computed.
    """
    reference = named(as_label(comparison.reference))
    tested = " and corrected p < 0.05" if comparison.num_permutations else ""
    notes = [
        say(
            "differences",
            reference=reference,
            examples=counted(comparison.n, "labelled example"),
            mark=mark,
            tested=tested,
        ),
        say("means_over_seeds") if any(row.seeds for row in comparison.rows) else "",
        *([say("brief")] if brief else _made(comparison, reference)),
    ]
    if chosen_by:
        notes.append(say("chosen_by", by=chosen_by))
    if comparison.distance_to is not None:
        notes.append(say("distances", name=named(as_label(comparison.distance_to))))
    if comparison.nll_clamped and "nll" in comparison.keys:
        notes.append(say("clamped_fits", examples=counted(comparison.nll_clamped, "example")))
    return tuple(filter(None, notes))


def _made(comparison: Comparison, reference: str) -> Iterator[str]:
    """Yield how bins, intervals and tests were computed."""
    drawn = "examples" if comparison.num_clusters is None else "clusters"
    if comparison.num_clusters is not None:
        yield say("clusters", of=comparison, column=clean(comparison.cluster_by or ""))
    binned = any(SCORES[key].reflected for key in comparison.keys)
    if binned:
        yield f"Calibration errors in {comparison.num_bins} bins."
    if comparison.intervals_over == "seeds":
        yield say("t_intervals", pairing="paired by seed" if comparison.same_seeds else "Welch's")
    else:
        fits = any(row.seeds for row in comparison.rows)
        yield say(
            "paired",
            of=comparison,
            kind="BCa" if comparison.interval == "bca" else comparison.interval,
            shape=" (of calibration errors in bins reflected ones)" if binned else "",
            drawn=drawn,
            more=", and say nothing of other seeds of the fits" if fits else "",
        )
    if comparison.num_permutations:
        several = comparison.num_comparisons > 1
        yield say(
            "permutation",
            of=comparison,
            drawn=drawn,
            family=f"{comparison.num_comparisons} comparisons" if several else "only comparison",
            reference=reference,
        )


def heading(row: ComparisonRow) -> str:
    """Return a method's name with the number of its seeds."""
    name = as_label(row.name)
    return f"{name} ({counted(len(row.seeds), 'seed')})" if row.seeds else name


def _row(row: ComparisonRow, comparison: Comparison) -> Row:
    title = heading(row)
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
    if comparison.distance_to is not None:
        distances = [score_cell(key, row.distances.get(key)) for key in DISTANCE_COLUMNS]
        if row.name == comparison.distance_to:
            distances = [replace(cell, interval="") for cell in distances]
        cells += distances
    return Row((title,), tuple(cells))


SUFFIXES = (".md", ".tex", ".csv", ".json")
"""Formats of a file of a comparison; JSON has everything."""

DIFFERENCE_COLUMNS = (
    *("method", "reference", "score", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "n", "p", "p_holm"),
)


def comparison_target(out: str | Path, *, overwrite: bool = False) -> Path:
    """Return the file that a comparison is to be written to, before it is computed.

    Args:
        out: A file whose suffix selects the format.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: The suffix is unknown, or `out` exists and may not be replaced, or cannot be
            written.
    """
    target = Path(out)
    if target.suffix not in SUFFIXES:
        raise unknown_choice("ending of a comparison's file", target.suffix, SUFFIXES)
    check_writable(target)
    refuse_existing(target, overwrite=overwrite)
    return target


def write_comparison(comparison: Comparison, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the result of `compare` atomically, and return the file.

    Args:
        comparison: The paired differences.
        out: A `.md`, `.tex`, `.csv` or `.json` file.
        overwrite: Whether a file may be replaced.

    Raises:
        InputError: As `comparison_target`.
    """
    target = comparison_target(out, overwrite=overwrite)
    table = difference_table(comparison).called("differences")
    with (
        atomic_file(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        if target.suffix == ".csv":
            write_rows(file, _csv_rows(comparison))
        elif target.suffix == ".json":
            # ASCII, since names may hold text-direction marks.
            file.write(f"{json.dumps(comparison.to_json(), indent=2, allow_nan=False)}\n")
        elif target.suffix == ".tex":
            file.write(f"{PREAMBLE}\n{to_latex(table)}")
        else:
            words = sentence_to_markdown(f"{table.caption} {table.notes}".strip())
            file.write(f"{words}\n\n{to_markdown(table)}\n")
    return target


def _csv_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    yield DIFFERENCE_COLUMNS
    for row in comparison.rows:
        for key, score in {**row.scores, **row.distances}.items():
            other = comparison.distance_to if key in row.distances else comparison.reference
            difference = row.differences.get(key, Score.alone(math.nan))
            numbers = (*score_numbers(score), *score_numbers(difference), comparison.n)
            tests = row.p.get(key, ""), row.p_holm.get(key, "")
            yield (row.name, other or "", key, *numbers, *tests)

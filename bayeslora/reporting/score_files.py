"""What a report writes for programs and papers: numbers whole or one per line, figures as files.

No cell of the CSV runs as a formula in a spreadsheet, which takes a cell that begins with `=`, `+`,
`-` or `@` for one, also after a tab or a line break; and a class or a method can be called
`=HYPERLINK(…)`. Such text gets an apostrophe in front, which spreadsheets read as "this is text";
numbers stay numbers. `read_rows` takes it away.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from bayeslora._version import __version__
from bayeslora.files import atomic_file
from bayeslora.metrics.scores import Score, Scores, without_nan
from bayeslora.plain_text import clean
from bayeslora.reporting.adapter_changes import CHANGE_NUMBERS, AdapterChange
from bayeslora.reporting.analysis import Analysis
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.figures.rendering import Drawing
from bayeslora.reporting.text import whole

# Apostrophes count too, so that a name that has them itself is read back unchanged.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_SPECIAL = re.compile(r'[,"\r\n]')


def write_rows(stream: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of text and numbers; the stream is opened with `newline=""`."""
    for row in rows:
        # Not csv.writer: with line feeds between rows it leaves a carriage return unquoted.
        stream.write(",".join(_escaped(quoted(str(cell))) for cell in row) + "\n")


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a `scores.csv` or `comparison.csv` as text by column."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [
            {name: unquoted(cell) for name, cell in row.items()} for row in csv.DictReader(stream)
        ]


def quoted(cell: str) -> str:
    """Return a cell with an apostrophe in front where a spreadsheet would take it for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) and not _is_number(cell) else cell


def unquoted(cell: str) -> str:
    """Return the text that `quoted` encoded."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _escaped(cell: str) -> str:
    return '"{}"'.format(cell.replace('"', '""')) if _SPECIAL.search(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


FORMAT_VERSION = 1
"""Version of the layout of `scores.json`."""

CSV_COLUMNS = (
    "method",
    "name",
    "ood",
    "uncertainty",
    "score",
    "value",
    "low",
    "high",
    "n",
    "n_ood",
    "by",
    "part",
)
"""Columns of `scores.csv`; `ood`, `uncertainty` and `n_ood` are empty but for detection.

`by` is empty but for parts: `group:<column>`, `class`, `sets` (near and far ones) and `answers`
(right and wrong ones), with `part` the value of the column, the class, and so on. Means over seeds
of a method stand after all fits, with the number of seeds in `method`. What adapters changed stands
last: `by` is `layer` and `method` the model's label.
"""


def scores_json(title: str, analysis: Analysis) -> dict[str, Any]:
    """Return the content of `scores.json`.

    Args:
        title: Of the report.
        analysis: What was found out.
    """
    comparison, curves = analysis.comparison, analysis.robustness
    return {
        "format_version": FORMAT_VERSION,
        "bayeslora": __version__,
        "title": title,
        "methods": [
            {**one.scores.to_json(), "label": one.label, "file": one.method.file}
            for one in analysis.fits
        ],
        "over_seeds": [
            {
                **one.scores.to_json(),
                "label": one.title,
                "fits": [fit.label for fit in one.fits],
                "seeds": [fit.method.seed for fit in one.fits],
            }
            for one in analysis.methods
            if one.fits
        ],
        "comparison": None if comparison is None else comparison.to_json(),
        "spectra": [change.to_json() for change in analysis.changes],
        "shift": [without_nan(curve.to_json()) for curve in analysis.shift],
        **({"robustness": [curve.to_json() for curve in curves]} if curves else {}),
    }


def write_figures(folder: Path, drawings: Sequence[Drawing]) -> None:
    """Write the files of every figure, named by the figure and its format."""
    folder.mkdir()
    for drawing in drawings:
        for suffix, content in drawing.files.items():
            (folder / f"{drawing.name}.{suffix}").write_bytes(content)


def write_csv(path: Path, analysis: Analysis) -> None:
    """Write `scores.csv`, with numbers to their last digit; `read_rows` reads it."""
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [CSV_COLUMNS])
        for one in (*analysis.fits, *(one for one in analysis.methods if one.fits)):
            write_rows(stream, _lines(one))
        for change in analysis.changes:
            write_rows(stream, _change_lines(change))


def _lines(one: Assessed) -> Iterator[tuple[object, ...]]:
    scores = one.scores
    names = (clean(one.title), clean(one.method.name))
    rows = scores.n_labelled if scores.n_labelled else scores.n
    for key, score in scores.items():
        yield (*names, "", "", key, *_numbers(score), rows, "", "", "")
    for key in ("ece_if_calibrated", "calibration_p"):
        if (value := getattr(scores, key)) is not None:
            yield (*names, "", "", key, repr(value), "", "", rows, "", "", "")
    for name, result in scores.ood.items():
        sizes = (result.n_in, result.n_out)
        for uncertainty, found in result.by_score.items():
            for key, score in found.items():
                yield (*names, name, uncertainty, key, *_numbers(score), *sizes, "", "")
    for line in _part_lines(scores):
        yield (*names, *line)


def _part_lines(scores: Scores) -> Iterator[tuple[object, ...]]:
    """Yield the lines of parts, without the names of the method."""
    for kind, group in scores.ood_groups.items():
        sizes = (scores.n, sum(scores.ood[name].n_out for name in group.sets))
        for uncertainty, found in group.by_score.items():
            for key, score in found.items():
                yield ("", uncertainty, key, *_numbers(score), *sizes, "sets", kind)
    for uncertainty, means in scores.uncertainty.items():
        for part, score in means.items():
            yield ("", uncertainty, "mean", *_numbers(score), "", "", "answers", part)
    kinds = {f"group:{column}": parts for column, parts in scores.groups.items()}
    for by, parts in {**kinds, "class": scores.classes}.items():
        for name, part_scores in parts.items():
            for key, score in part_scores.scores.items():
                yield ("", "", key, *_numbers(score), part_scores.n, "", by, name)


def _change_lines(change: AdapterChange) -> Iterator[tuple[object, ...]]:
    label = clean(change.label)
    for layer in change.layers:
        for key in CHANGE_NUMBERS:
            value = whole(getattr(layer, key))
            yield (label, label, "", "", key, value, "", "", "", "", "layer", layer.name)


def _numbers(score: Score) -> tuple[str, str, str]:
    return whole(score.value), whole(score.low), whole(score.high)

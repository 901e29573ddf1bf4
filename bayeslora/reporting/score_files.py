"""Files of a report for programs and papers: scores as JSON and CSV, figures.

No cell of the CSV runs as a formula in a spreadsheet. Spreadsheets evaluate cells that begin with
`=`, `+`, `-` or `@`, also after a tab or a line break, and a class or a method can be called
`=HYPERLINK(…)`. Such text is prefixed with an apostrophe, which marks text in spreadsheets; numbers
are unchanged. `read_rows` removes it.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from bayeslora._version import __version__
from bayeslora.io.files import atomic_file
from bayeslora.metrics.scores import Score, Scores, without_nan
from bayeslora.plain_text import clean
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.facts import Facts

# Leading apostrophes match too, so that names with apostrophes are read back unchanged.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_SPECIAL = re.compile(r'[,"\r\n]')


def write_rows(stream: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of text and numbers to a stream opened with `newline=""`."""
    for row in rows:
        # csv.writer with line feeds between rows leaves carriage returns unquoted.
        stream.write(",".join(_cell(str(cell)) for cell in row) + "\n")


def _cell(text: str) -> str:
    cell = quoted(text)
    return '"{}"'.format(cell.replace('"', '""')) if _SPECIAL.search(cell) else cell


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a `scores.csv` or `comparison.csv` as text by column."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [
            {name: unquoted(cell) for name, cell in row.items()} for row in csv.DictReader(stream)
        ]


def quoted(cell: str) -> str:
    """Prefix a cell with an apostrophe if a spreadsheet would read it as a formula."""
    return f"'{cell}" if _FORMULA.match(cell) and not _is_number(cell) else cell


def unquoted(cell: str) -> str:
    """Invert `quoted`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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
    """Write `scores.csv` with numbers in full precision; `read_rows` reads it."""
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        write_rows(stream, [CSV_COLUMNS])
        for assessed in (*facts.fits, *(method for method in facts.methods if method.fits)):
            write_rows(stream, _lines(assessed))


def _lines(assessed: Assessed) -> Iterator[tuple[object, ...]]:
    scores = assessed.scores
    names = (clean(assessed.title), clean(assessed.method.name))
    rows = scores.n_labelled if scores.n_labelled else scores.n
    for key, score in scores.items():
        yield (*names, "", "", key, *score_numbers(score), rows, "", "", "")
    for key in ("ece_if_calibrated", "calibration_p"):
        if (value := getattr(scores, key)) is not None:
            yield (*names, "", "", key, repr(value), "", "", rows, "", "", "")
    for name, result in scores.ood.items():
        sizes = (result.n_in, result.n_out)
        for uncertainty, by_key in result.by_score.items():
            for key, score in by_key.items():
                yield (*names, name, uncertainty, key, *score_numbers(score), *sizes, "", "")
    for line in _part_lines(scores):
        yield (*names, *line)


def _part_lines(scores: Scores) -> Iterator[tuple[object, ...]]:
    """Yield the lines of parts, without the names of the method."""
    for kind, group in scores.ood_groups.items():
        sizes = (scores.n, sum(scores.ood[name].n_out for name in group.sets))
        for uncertainty, by_key in group.by_score.items():
            for key, score in by_key.items():
                yield ("", uncertainty, key, *score_numbers(score), *sizes, "sets", kind)
    for uncertainty, means in scores.uncertainty.items():
        for part, score in means.items():
            yield ("", uncertainty, "mean", *score_numbers(score), "", "", "answers", part)
    kinds = {f"group:{column}": parts for column, parts in scores.groups.items()}
    for by, parts in {**kinds, "class": scores.classes}.items():
        for name, part_scores in parts.items():
            for key, score in part_scores.scores.items():
                yield ("", "", key, *score_numbers(score), part_scores.n, "", by, name)


def whole(value: float) -> str:
    """Return a number in full precision for a file; empty for NaN."""
    return "" if math.isnan(value) else repr(value)


def score_numbers(score: Score) -> tuple[str, str, str]:
    """Return value, low and high in full precision."""
    return whole(score.value), whole(score.low), whole(score.high)

"""Scores of a report for programs and papers, as JSON and CSV.

No cell of the CSV runs as a formula in a spreadsheet. Spreadsheets evaluate cells that begin with
`=`, `+`, `-` or `@`, and a class or a method can be called `=HYPERLINK(…)`. Such text is prefixed
with an apostrophe, which marks text in spreadsheets; numbers are unchanged.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from bayeslora._version import __version__
from bayeslora.metrics.scores import Score, Scores, without_nan
from bayeslora.plain_text import clean
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.facts import Facts

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

`by` is only set for parts: `group:<column>`, `class` and `answers` (right and wrong),
with the value of the column, the class, and so on in `part`. Means over seeds follow all fits, with
the number of seeds in `method`.
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

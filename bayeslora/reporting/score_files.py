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
from bayeslora.metrics.scores import Scores, without_nan
from bayeslora.plain_text import clean
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.score_tables import SHIFT_KEYS

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
                "label": label,
                "corruption": kind,
                "severity": severity,
                "scores": without_nan({key: vars(scores[key]) for key in SHIFT_KEYS}),
            }
            for (label, kind, severity), scores in facts.shift.items()
        ],
    }


def write_csv(path: Path, facts: Facts) -> None:
    """Write `scores.csv` with numbers in full precision."""
    lines = [
        {"method": method.title, "name": method.method.name, **line}
        for method in (*facts.fits, *(method for method in facts.methods if method.fits))
        for line in _lines(method.scores)
    ]
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [CSV_COLUMNS])
        write_rows(stream, ([line.get(column, "") for column in CSV_COLUMNS] for line in lines))


def _lines(scores: Scores) -> Iterator[dict[str, object]]:
    rows = scores.n_labelled or scores.n
    for key, score in scores.items():
        yield {"score": key, **vars(score), "n": rows}
    for key in ("ece_if_calibrated", "calibration_p"):
        if (value := getattr(scores, key)) is not None:
            yield {"score": key, "value": value, "n": rows}
    for name, result in scores.ood.items():
        sizes = {"n": result.n_in, "n_ood": result.n_out}
        for uncertainty, by_key in result.by_score.items():
            for key, score in by_key.items():
                about = {"ood": name, "uncertainty": uncertainty, "score": key}
                yield {**about, **vars(score), **sizes}
    yield from _lines_of_parts(scores)


def _lines_of_parts(scores: Scores) -> Iterator[dict[str, object]]:
    for uncertainty, means in scores.uncertainty.items():
        for part, score in means.items():
            about = {"uncertainty": uncertainty, "score": "mean", "by": "answers", "part": part}
            yield {**about, **vars(score)}
    groups = {f"group:{column}": parts for column, parts in scores.groups.items()}
    for by, parts in {**groups, "class": scores.classes}.items():
        for name, of_part in parts.items():
            for key, score in of_part.scores.items():
                yield {"score": key, **vars(score), "n": of_part.n, "by": by, "part": name}

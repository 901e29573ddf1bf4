"""The function that turns predictions into a report, its files of scores, and its result."""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, TextIO, TypedDict, Unpack

from bayeslora._version import __version__
from bayeslora.io import (
    Layout,
    atomic_directory,
    check_writable,
    listed_files,
    refuse_inputs,
    refuse_target,
    write_json,
)
from bayeslora.metrics.intervals import column_names
from bayeslora.metrics.scores import Scores, without_nan
from bayeslora.plain_text import clean
from bayeslora.predictions import collection
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.reporting.assess import EvaluateOptions, assess, pair, pool, shift_scores
from bayeslora.reporting.blocks import Figure
from bayeslora.reporting.document import Provenance, compose
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.figures import FORMATS, check_formats, draw
from bayeslora.reporting.page import render_latex, render_markdown, render_page
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

`by` is only set for parts: `group:<column>` and `class`, with the value of the column or the class
in `part`. Means over seeds follow all fits, with the number of seeds in `method`.
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
    groups = {f"group:{column}": parts for column, parts in scores.groups.items()}
    for by, parts in {**groups, "class": scores.classes}.items():
        for name, of_part in parts.items():
            for key, score in of_part.scores.items():
                yield {"score": key, **vars(score), "n": of_part.n, "by": by, "part": name}


if sys.platform == "win32":  # a path class must be derived from the system's own class
    from pathlib import WindowsPath as SystemPath
else:
    from pathlib import PosixPath as SystemPath


class Report(SystemPath):
    """The path of a report's `index.html`, a `pathlib.Path`.

    As the last value of a notebook cell, it shows the page in a frame without access to the
    notebook or the network.

    Attributes:
        scores: Scores of every fit, in the order given.
    """

    scores: Sequence[Scores] = ()

    def _repr_html_(self) -> str | None:
        """Return the page in a frame; None if this path is not a page, such as the directory."""
        if self.suffix != ".html" or not self.is_file():
            return None
        page = escape(self.read_text(encoding="utf-8"), quote=True)
        return (
            f'<iframe title="{escape(str(self), quote=True)}" sandbox="allow-scripts"'
            f' style="width: 100%; height: 640px; border: 1px solid #d9dee3"'
            f' srcdoc="{page}"></iframe>'
        )


PAGE = "index.html"
SCORES = "scores.json"

LAYOUT = Layout(SCORES)
"""Contents of a report's directory."""


class PageOptions(TypedDict, total=False):
    """What the page of a report shows.

    Attributes:
        title: Title of the page; by default it names up to two methods, else it counts them.
        examples: Whether the page shows the most confident errors. Disable it if texts or ids must
            not be shared.
        example_column: Column with the texts of these rows; by default `text` if it
            exists. Rows without a text are shown by their ids.
        figures: Formats of the files in `figures/`: `svg`, the default, `png`, `pdf`. The page
            always has SVG.
    """

    title: str
    examples: bool
    example_column: str | None
    figures: Sequence[str]


class ReportOptions(PageOptions, EvaluateOptions, total=False):
    """Keywords of `report`: `PageOptions`, and those of `evaluate`."""


def report(
    items: collection.PredictionsLike | Sequence[collection.PredictionsLike],
    *,
    ood: collection.OodLike | None = None,
    shifted: collection.PredictionsLike | Sequence[collection.PredictionsLike] = (),
    out: str | Path,
    overwrite: bool = False,
    over_seeds: bool = True,
    provenance: Provenance | None = None,
    reading: PredictionsReading = AS_WRITTEN,
    **options: Unpack[ReportOptions],
) -> Report:
    """Score predictions and write a report whose page can be shared as a single file.

    The directory holds `index.html` (self-contained), `report.md`, `tables.tex`, `scores.json`,
    `scores.csv` and `figures/`. It is written atomically, and the same input gives the same bytes.

    Args:
        items: Predictions, paths of predictions files, or data frames: a single one, or one per
            method or seed.
        ood: Out-of-distribution sets by name; for several items, by method:
            `{"polar-vbll": {"unseen": predictions}}`. The key of a method is its name, or its label
            such as `polar (seed 1)` if several items share the name.
        shifted: Predictions of the same rows made worse (`bayeslora predict --corrupt`), by any of
            the methods, with `corruption` and `severity` in the metadata: the page shows
            calibration against severity.
        out: Directory to create.
        overwrite: Replace `out` if it is an earlier report.
        over_seeds: Whether to pool fits of one method with several seeds: means over seeds with t
            intervals. Figures and examples show every fit.
        provenance: Further facts about the run, such as `{"command": "…", "data": {…}}`.
        reading: How to read files in another format than this package writes.
        **options: What the page shows, see `PageOptions`: `title`, `examples`, `example_column`
            and `figures`; and keywords of `evaluate`: `ood_score`, `group_by`, `by_class`,
            `cluster_by`, `num_bins`, `num_resamples`, `seed`.

    Returns:
        Path of `index.html`, which a notebook shows as the page, with the scores.

    Raises:
        InputError: `out` exists and may not be replaced, or an input is invalid.
    """
    scoring: Any = {key: options[key] for key in EvaluateOptions.__annotations__ if key in options}  # type: ignore[literal-required]
    formats = options.get("figures", FORMATS[:1])
    check_formats(formats)
    target = Path(out)
    check_target(target, overwrite=overwrite)
    items, worse = collection.as_list(items), collection.as_list(shifted)
    refuse_inputs(target, *collection.paths_in(items, ood or {}), *collection.paths_in(worse, {}))
    with atomic_directory(target, LAYOUT, overwrite=overwrite) as folder:
        column = None
        shown: Sequence[str] = ()
        if options.get("examples", True):
            column = options.get("example_column") or collection.EXAMPLE_COLUMN
            shown = (column, *collection.QUESTION_COLUMNS)
        needed = [*column_names(scoring.get("group_by")), *column_names(scoring.get("cluster_by"))]
        methods = collection.gather(items, ood, columns=shown, needed=needed, reading=reading)
        if column is not None and options.get("example_column") is not None:
            collection.check_column(methods, column)
        sources = [collection.load_source(predictions, reading=reading) for predictions in worse]
        fits = assess(methods, scoring)
        pooled = pool(fits) if over_seeds else fits
        facts = Facts(
            pooled,
            pair(pooled, scoring),
            collection.ood_names(methods),
            fits=fits,
            shift=shift_scores(fits, sources, scoring),
        )
        document = compose(
            options.get("title", ""), facts, draw(facts), provenance=provenance or {}, column=column
        )
        for name, text in {
            PAGE: render_page(document),
            "report.md": render_markdown(document, formats),
            "tables.tex": render_latex(document),
        }.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        (folder / "figures").mkdir()
        drawings = [block for block in document.blocks if isinstance(block, Figure)]
        for panel in (panel for figure in drawings for panel in figure.panels):
            for kind in formats:
                (folder / "figures" / f"{panel.name}.{kind}").write_bytes(panel.saved(kind))
        write_csv(folder / "scores.csv", facts)
        scores = scores_json(document.title, facts)
        write_json(folder / SCORES, {**scores, "files": listed_files(folder)})
    page = Report(target / PAGE)
    page.scores = [fit.scores for fit in fits]
    return page


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InputError if a report cannot be written to `target`, before computing anything."""
    check_writable(target)
    refuse_target(target, LAYOUT, overwrite=overwrite)

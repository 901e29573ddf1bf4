"""The function that turns predictions into a report, and its result, which notebooks display."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, TypedDict, Unpack

from bayeslora.io.files import (
    Layout,
    atomic_directory,
    check_writable,
    listed_files,
    refuse_inputs,
    refuse_target,
    write_json,
)
from bayeslora.metrics.bootstrap import column_names
from bayeslora.predictions import collection
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.reporting.assess import EvaluateOptions, assess, pair, pool, shift_scores
from bayeslora.reporting.blocks import Figure
from bayeslora.reporting.document import Provenance, compose
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.figures import FORMATS, check_formats, draw
from bayeslora.reporting.page import render_latex, render_markdown, render_page
from bayeslora.reporting.score_files import scores_json, write_csv

if sys.platform == "win32":  # a path class must be derived from the system's own class
    from pathlib import WindowsPath as SystemPath
else:
    from pathlib import PosixPath as SystemPath


class Report(SystemPath):
    """The path of a report's `index.html`, a `pathlib.Path`.

    As the last value of a notebook cell, it shows the page in a frame without access to the
    notebook or the network.
    """

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
        Path of `index.html`, which a notebook shows as the page.

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
    return Report(target / PAGE)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InputError if a report cannot be written to `target`, before computing anything."""
    check_writable(target)
    refuse_target(target, LAYOUT, overwrite=overwrite)

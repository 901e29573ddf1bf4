"""The function that turns predictions into a report, and its result, which notebooks display."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Unpack

from bayeslora.io.directories import Layout, atomic_directory, listed_files, refuse_target
from bayeslora.io.files import check_writable, refuse_inputs, write_json
from bayeslora.plain_text import clean
from bayeslora.predictions.collection import (
    EXAMPLE_COLUMN,
    QUESTION_COLUMNS,
    Method,
    OodLike,
    PredictionsLike,
    as_list,
    check_column,
    gather,
    load_source,
    ood_names,
    paths_in,
)
from bayeslora.predictions.files import AS_WRITTEN, PredictionsReading
from bayeslora.reporting.adapter_changes import SpectrumLike, adapter_changes
from bayeslora.reporting.assess import EvaluateOptions, Evaluation, assess, pair, pool
from bayeslora.reporting.document import compose
from bayeslora.reporting.figures.drawings import draw
from bayeslora.reporting.figures.reliability import PerClass, check_classes
from bayeslora.reporting.figures.rendering import FORMATS, check_formats
from bayeslora.reporting.markup import render_latex, render_markdown
from bayeslora.reporting.page import render_page
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.run_record import Provenance, python_call
from bayeslora.reporting.score_files import scores_json, write_csv
from bayeslora.reporting.shift import shift_curves
from bayeslora.reporting.viewer import browsed_columns, viewer_page
from bayeslora.reporting.wrong_answers import MOST

if sys.platform == "win32":  # a path class must be derived from the system's own class
    from pathlib import WindowsPath as SystemPath
else:
    from pathlib import PosixPath as SystemPath

HEIGHT = 640
"""Height of the page in a notebook, in pixels."""


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
            f' style="width: 100%; height: {HEIGHT}px; border: 1px solid #d9dee3"'
            f' srcdoc="{page}"></iframe>'
        )


PAGE = "index.html"
VIEW = "view.html"
SCORES = "scores.json"

LAYOUT = Layout("a report", SCORES)
"""Contents of a report's directory."""


@dataclass(frozen=True)
class PageOptions:
    """What the page of a report shows.

    Attributes:
        title: Title of the page; by default it names up to two methods, else it counts them.
        examples: Whether the page shows the most confident errors. Disable it if texts or ids must
            not be shared.
        example_column: Column with the texts of these rows; by default `text` if it
            exists. Rows without a text are shown by their ids.
        interactive: Whether to also write `view.html`, a page to filter and sort every example in a
            browser; it holds all texts, unless `examples` is false.
        figures: Formats of the files in `figures/`: `svg`, `png`, `pdf`. The page always has SVG.
        per_class: Also draw one-vs-rest reliability diagrams of classes: `True`, or the names of
            the classes to draw.
    """

    title: str = ""
    examples: bool = True
    example_column: str | None = None
    interactive: bool = False
    figures: Sequence[str] = FORMATS[:1]
    per_class: PerClass = False


class ReportOptions(EvaluateOptions, total=False):
    """Keywords of `report`: those of `evaluate`, and the fields of `PageOptions`."""

    title: str
    examples: bool
    example_column: str | None
    interactive: bool
    figures: Sequence[str]
    per_class: PerClass


EVALUATE = frozenset(EvaluateOptions.__annotations__)


def report(
    items: PredictionsLike | Sequence[PredictionsLike],
    *,
    ood: OodLike | None = None,
    shifted: PredictionsLike | Sequence[PredictionsLike] = (),
    out: str | Path,
    overwrite: bool = False,
    over_seeds: bool = True,
    spectrum: SpectrumLike | None = None,
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
        shifted: Predictions of the same rows, corrupted (`bayeslora predict --corrupt`) or attacked
            (`bayeslora.contrib.attacks`), for any of the methods: the page shows calibration
            against severity.
        out: Directory to create.
        overwrite: Replace `out` if it is an earlier report.
        over_seeds: Whether to pool fits of one method with several seeds: means over seeds with t
            intervals. Figures and examples show every fit.
        spectrum: Adapter changes, as `{label: clf.spectrum()}`; for an ensemble the first member is
            shown.
        provenance: Further facts about the run, such as `{"command": "…", "data": {…}}`.
        reading: How to read files in another format than this package writes.
        **options: What the page shows, see `PageOptions`: `title`, `examples`, `example_column`,
            `interactive`, `figures`, `per_class`; and keywords of `evaluate`: `ood_score`, `near`,
            `far`, `group_by`, `by_class`, `cluster_by`, `num_bins`, `interval`, `num_resamples`,
            `seed`.

    Returns:
        Path of `index.html`, which a notebook shows as the page.

    Raises:
        InputError: `out` exists and may not be replaced, or an input is invalid.
    """
    remaining: dict[str, Any] = {**options}
    look = PageOptions(
        **{name: remaining.pop(name) for name in [*remaining] if name not in EVALUATE}
    )
    scoring = Evaluation.of(**remaining)
    target = Path(out)
    check_target(target, overwrite=overwrite)
    items, worse = as_list(items), as_list(shifted)
    read = [*paths_in(items, ood or {}), *paths_in(worse, {})]
    refuse_inputs(target, *read)
    formats = check_formats(look.figures)
    column = (look.example_column or EXAMPLE_COLUMN) if look.examples else None
    keywords: dict[str, Any] = {"out": str(out), **options, **scoring.sizes}
    if "figures" in options:
        keywords["figures"] = formats
    if not over_seeds:
        keywords["over_seeds"] = False
    if worse:
        keywords["shifted"] = worse
    with atomic_directory(target, LAYOUT, overwrite=overwrite) as temporary:
        shown: Sequence[str] = () if column is None else (column, *QUESTION_COLUMNS)
        if look.interactive and shown:
            shown = [*shown, *browsed_columns(read, reading)]
        methods = gather(items, ood, columns=shown, needed=scoring.columns, reading=reading)
        if column is not None and look.example_column is not None:
            check_column(methods, column)
        check_classes(look.per_class, methods)
        scoring.check(methods)
        sources = [load_source(predictions, reading=reading) for predictions in worse]
        # Checked before the first score.
        changes = adapter_changes(spectrum)
        fits = assess(methods, scoring)
        pooled = pool(fits) if over_seeds else fits
        facts = Facts(
            pooled,
            pair(pooled, scoring),
            ood_names(methods),
            fits=fits,
            shift=shift_curves(fits, sources, scoring),
            changes=changes,
        )
        document = compose(
            look.title,
            facts,
            draw(facts, formats=formats, per_class=look.per_class),
            provenance={**_command(methods, keywords, facts), **(provenance or {})},
            settings=_settings(facts, scoring, column),
            example_column=column,
            view=VIEW if look.interactive else "",
        )
        texts = {
            PAGE: render_page(document),
            "report.md": render_markdown(document, formats),
            "tables.tex": render_latex(document),
        }
        if look.interactive:
            leader = facts.leader
            texts[VIEW] = viewer_page(
                methods,
                document.title,
                column or EXAMPLE_COLUMN,
                leader=fits[0].label if leader is None else leader.each[0].label,
                examples=column is not None,
                scores={fit.label: fit.scores for fit in fits},
            )
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        (temporary / "figures").mkdir()
        for drawing in document.drawings:
            for suffix, content in drawing.files.items():
                (temporary / "figures" / f"{drawing.name}.{suffix}").write_bytes(content)
        write_csv(temporary / "scores.csv", facts)
        scores = scores_json(document.title, facts)
        write_json(temporary / SCORES, {**scores, "files": listed_files(temporary)})
    return Report(target / PAGE)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InputError if a report cannot be written to `target`, before computing anything."""
    check_writable(target)
    refuse_target(target, LAYOUT, overwrite=overwrite)


def _command(
    methods: Sequence[Method], keywords: Mapping[str, Any], facts: Facts
) -> dict[str, str]:
    """Return the call that reproduces the report, if all inputs are files."""
    worse = keywords.get("shifted", ())
    # A spectrum exists only in memory, so no call can reproduce it.
    if facts.changes or not all(isinstance(path, str | Path) for path in worse):
        return {}
    paths = {"shifted": [str(path) for path in worse]} if worse else {}
    call = python_call(methods, **{**keywords, **paths})
    return {"command": call} if call else {}


def _settings(facts: Facts, scoring: Evaluation, column: str | None) -> dict[str, str]:
    method = facts.fits[0].scores.intervals.get("method", "bootstrap")
    settings = {
        "bins": f"{scoring.num_bins} of equal width, [low, high), the last one holds 1",
        "intervals": f"95 %, {method}, {scoring.num_resamples:,} resamples",
        "seed of the bootstrap": str(scoring.seed),
    }
    seeds = [
        f"{method.label} {', '.join(fit.method.seed for fit in method.fits)}"
        for method in facts.methods
        if method.fits
    ]
    if seeds:
        settings["seeds whose means are shown"] = clean("; ".join(seeds))
    settings["examples"] = "left out"
    if column is not None:
        texts = f"texts from column {clean(column)!r}, if present"
        settings["examples"] = f"at most {MOST} per method, {texts}"
    return settings

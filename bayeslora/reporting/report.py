"""The one call that turns predictions into a report, and its result, which a notebook shows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from inspect import signature
from pathlib import Path
from typing import Any

from bayeslora.files import check_writable, refuse_inputs, write_json
from bayeslora.layouts import Layout
from bayeslora.metrics.calibration import NUM_BINS, as_num_bins
from bayeslora.metrics.clusters import column_names
from bayeslora.metrics.intervals import IntervalMethod, Resampling
from bayeslora.option_checks import as_seed
from bayeslora.output import atomic_directory, listed_files, refuse_target
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
    paths_in,
)
from bayeslora.predictions.columns import AS_WRITTEN, PredictionsReading
from bayeslora.reporting.adapter_changes import SpectrumLike, adapter_changes
from bayeslora.reporting.analysis import Analysis, analyse
from bayeslora.reporting.assess import Asked, Assessed, Names
from bayeslora.reporting.document import Document, compose
from bayeslora.reporting.figures.drawings import draw
from bayeslora.reporting.figures.reliability import PerClass, check_classes
from bayeslora.reporting.figures.rendering import FORMATS, check_formats
from bayeslora.reporting.markup import render_latex, render_markdown
from bayeslora.reporting.page import PageTemplate, load_template, render_page
from bayeslora.reporting.robustness import RobustnessLike, robustness_curves
from bayeslora.reporting.run_record import Provenance, python_call
from bayeslora.reporting.score_files import FORMAT_VERSION, scores_json, write_csv, write_figures
from bayeslora.reporting.viewer import viewer_page
from bayeslora.reporting.wrong_answers import MOST

if sys.platform == "win32":  # a class of paths can be derived from the system's own class alone
    from pathlib import WindowsPath as SystemPath
else:
    from pathlib import PosixPath as SystemPath

HEIGHT = 640
"""Height of the page in a notebook, in pixels."""


class Report(SystemPath):
    """The path of a report's `index.html`: a `pathlib.Path` in every respect.

    In a notebook, as the last value of a cell, it shows the page in a frame that can reach neither
    the notebook nor the network.
    """

    def _repr_html_(self) -> str | None:
        """Return the page in a frame; None where this is no page, such as the directory."""
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

_FIGURES = (
    *("reliability", "confidence", "brier", "risk-coverage", "roc", "shift", "spectrum"),
    "robustness",
    *("total", "aleatoric", "epistemic", "score"),
)
LAYOUT = Layout(
    "a report",
    SCORES,
    FORMAT_VERSION,
    frozenset({"bayeslora", "title", "methods"}),
    (
        *(PAGE, VIEW, "report.md", "tables.tex", "scores.csv"),
        *(f"figures/{name}-[0-9]*.{suffix}" for name in _FIGURES for suffix in FORMATS),
    ),
    complete=True,
)
"""What a report's directory holds."""


def report(
    items: PredictionsLike | Sequence[PredictionsLike],
    *,
    ood: OodLike | None = None,
    shifted: PredictionsLike | Sequence[PredictionsLike] = (),
    out: str | Path,
    title: str = "",
    overwrite: bool = False,
    examples: bool = True,
    example_column: str | None = None,
    interactive: bool = False,
    template: str | Path | None = None,
    figures: Sequence[str] = FORMATS[:1],
    per_class: PerClass = False,
    spectrum: SpectrumLike | None = None,
    robustness: RobustnessLike | None = None,
    provenance: Provenance | None = None,
    ood_score: str | None = None,
    near: Names = None,
    far: Names = None,
    group_by: Names = None,
    by_class: bool = False,
    cluster_by: str | None = None,
    interval: IntervalMethod = "percentile",
    over_seeds: bool = True,
    num_bins: int = NUM_BINS,
    num_resamples: int = 1000,
    seed: int = 0,
    reading: PredictionsReading = AS_WRITTEN,
) -> Report:
    """Score predictions, and write a report that can be sent to somebody as one file.

    The directory holds `index.html` (self-contained), `report.md`, `tables.tex`, `scores.json`,
    `scores.csv` and `figures/`. It appears whole or not at all, and the same input gives the same
    bytes.

    Args:
        items: Predictions, paths of files of them, or data frames: one, or one for each method or
            seed.
        ood: Out-of-distribution sets by name; where there are several items, by method:
            `{"polar-vbll": {"unseen": predictions}}`. A method is named by its name, or by its
            label such as `polar (seed 1)` where several items share the name.
        shifted: Predictions of the same rows made worse on purpose (`bayeslora predict --corrupt`),
            of any method: the page shows calibration against severity.
        out: Directory to make.
        title: Title of the page; by default it names one or two methods, and counts more.
        overwrite: Replace `out` where it is an earlier report.
        examples: Whether the page shows the rows that were answered most confidently wrong. They
            are left out where texts or ids must not be passed on.
        example_column: The further column with the texts of these rows; by default `text` where it
            is there. Rows without a text are shown by their ids.
        interactive: Whether to write `view.html` too, a page that filters and sorts every example
            in a browser; it holds all of their texts, unless `examples` is false.
        template: A Jinja2 template of the page, or a directory with a `report.html.j2`, in place of
            ours, which it may extend; see docs/reports.md.
        figures: Formats of the files in `figures/`: `svg`, `png`, `pdf`. The page has SVG in any
            case.
        per_class: Draw the reliability of each class's probability too, one class against the
            rest: `True`, or the names of the classes to draw.
        spectrum: What adapters changed, as `{label: clf.spectrum()}`; of an ensemble the first
            member is shown.
        robustness: Scores under attack: what `clf.robustness` returns, or a file of
            `bayeslora evaluate --attack --out`, one or several.
        provenance: What else to say about the run, such as `{"command": "…", "data": {…}}`.
        ood_score: The uncertainty to judge detection by; see `evaluate`.
        near: Names of out-of-distribution sets to average over as near ones, as in `evaluate`.
        far: Names of those to average over as far ones.
        group_by: Columns of the predictions: tables of the rows of each of their values.
        by_class: A table of every class's scores.
        cluster_by: A column whose equal values mark rows that belong together: the bootstrap draws
            them together.
        interval: `percentile`, or `bca`.
        over_seeds: Whether fits of one method with several seeds are one method: means over seeds
            with t intervals. Figures and examples show every fit.
        num_bins: Bins of the calibration errors and of the diagrams.
        num_resamples: Bootstrap resamples behind the intervals.
        seed: Of the bootstrap.
        reading: How to read files that are not as this package writes them.

    Returns:
        Path of `index.html`, which a notebook shows as the page.

    Raises:
        InputError: `out` exists and is not to be replaced, or an input or the template is wrong.
    """
    given = locals()  # for the call that repeats the report: no option can be forgotten
    target = Path(out)
    check_target(target, overwrite=overwrite)
    items = as_list(items)
    worse = as_list(shifted)
    read = [*paths_in(items, ood or {}), *paths_in(worse, {})]
    refuse_inputs(target, *read, *([] if template is None else [template]))
    look = load_template(template)
    formats = check_formats(figures)
    options = {"num_bins": as_num_bins(num_bins), "num_resamples": num_resamples}
    options["seed"] = as_seed(seed)
    asked = Asked(
        near=column_names(near),
        far=column_names(far),
        group_by=column_names(group_by),
        by_class=by_class,
        cluster_by=cluster_by,
        interval=interval,
    )
    Resampling(num_resamples, seed, interval)  # complains before anything is read
    column = (example_column or EXAMPLE_COLUMN) if examples else None
    with atomic_directory(target, LAYOUT, overwrite=overwrite) as aside:
        shown = () if column is None else (column, *QUESTION_COLUMNS)
        gathered = gather(items, ood, columns=shown, needed=asked.columns, reading=reading)
        if examples and example_column is not None:
            check_column(gathered, example_column)
        check_classes(per_class, gathered)
        asked.check(gathered)
        named = {name for one in gathered for name in (one.name, one.predictions.name)}
        analysis = analyse(
            gathered,
            [load_source(one, reading=reading) for one in worse],
            asked=asked,
            ood_score=ood_score,
            over_seeds=over_seeds,
            changes=adapter_changes(spectrum),
            robustness=robustness_curves(robustness, named),
            **options,
        )
        told = {**given, **options, "figures": formats}
        document = compose(
            title,
            analysis,
            draw(analysis, formats=formats, per_class=per_class),
            provenance={**_command(gathered, worse, analysis, told), **(provenance or {})},
            settings={
                **_settings(analysis.fits, **options),
                **_seeds(analysis.methods),
                **_look_settings(column, look),
            },
            example_column=column,
            view=VIEW if interactive else "",
        )
        _write_pages(aside, document, look, formats)
        if interactive:
            page = _view(gathered, document.title, analysis, column=column)
            _write(aside / VIEW, page)
        write_csv(aside / "scores.csv", analysis)
        found = scores_json(document.title, analysis)
        write_json(aside / SCORES, {**found, "files": listed_files(aside)})
    return Report(target / PAGE)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InputError if a report cannot be written to `target`, before anything is computed.

    Raises:
        InputError: `target` exists and is not to be replaced, holds something else than a report,
            or cannot be written.
    """
    check_writable(target)
    refuse_target(target, LAYOUT, overwrite=overwrite)


_ALWAYS_TOLD = {"num_bins", "num_resamples", "seed"}
_NEVER_TOLD = {"items", "ood", "overwrite", "spectrum", "robustness", "provenance", "reading"}


def _command(
    methods: Sequence[Method],
    worse: Sequence[PredictionsLike],
    analysis: Analysis,
    given: Mapping[str, Any],
) -> dict[str, str]:
    """Return the call that makes the report again, where every input of it is in a file."""
    # A spectrum is a value of the session, which no call written down can give.
    if (
        analysis.changes
        or analysis.robustness
        or not all(isinstance(one, str | Path) for one in worse)
    ):
        return {}
    known = signature(report).parameters
    told = {
        name: str(given[name]) if isinstance(given[name], Path) else given[name]
        for name in known
        if name in _ALWAYS_TOLD or (name not in _NEVER_TOLD and given[name] != known[name].default)
    }
    if worse:
        told["shifted"] = [str(one) for one in worse]
    call = python_call(methods, **told)
    return {"command": call} if call else {}


def _view(methods: Sequence[Method], title: str, analysis: Analysis, *, column: str | None) -> str:
    """Return the page that filters and sorts every example, the leading method's first."""
    leader = analysis.facts.leader
    return viewer_page(
        methods,
        title,
        column or EXAMPLE_COLUMN,
        leader=analysis.fits[0].label if leader is None else leader.each[0].label,
        examples=column is not None,
        scores={one.label: one.scores for one in analysis.fits},
    )


def _settings(
    methods: Sequence[Assessed], *, num_bins: int, num_resamples: int, seed: int
) -> dict[str, str]:
    method = methods[0].scores.intervals.get("method", "bootstrap")
    return {
        "bins": f"{num_bins} of equal width, [low, high), the last one holds 1",
        "intervals": f"95 %, {method}, {num_resamples:,} resamples",
        "seed of the bootstrap": str(seed),
    }


def _seeds(methods: Sequence[Assessed]) -> dict[str, str]:
    """Return the setting that names pooled fits."""
    told = [
        f"{one.label} {', '.join(fit.method.seed for fit in one.fits)}"
        for one in methods
        if one.fits
    ]
    return {"seeds whose means are shown": clean("; ".join(told))} if told else {}


def _look_settings(column: str | None, template: PageTemplate) -> dict[str, str]:
    shown = "left out"
    if column is not None:
        shown = f"at most {MOST} a method, texts from a column {clean(column)!r} where there is one"
    if template.path is None:
        return {"examples": shown}
    return {
        "examples": shown,
        "template": f"{clean(str(template.path))} (SHA-256 {template.sha256})",
    }


def _write_pages(
    folder: Path, document: Document, look: PageTemplate, formats: tuple[str, ...]
) -> None:
    """Write what people read: the page, its figures, the Markdown and the LaTeX tables."""
    write_figures(folder / "figures", document.drawings)
    _write(folder / PAGE, render_page(document, look))
    _write(folder / "report.md", render_markdown(document, formats))
    _write(folder / "tables.tex", render_latex(document))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")

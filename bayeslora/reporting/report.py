"""The function that turns predictions into a report, and its result, which notebooks display."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from inspect import signature
from pathlib import Path
from typing import Any

from bayeslora.io.directories import Layout, atomic_directory, listed_files, refuse_target
from bayeslora.io.files import check_writable, refuse_inputs, write_json
from bayeslora.metrics.calibration import NUM_BINS
from bayeslora.metrics.intervals import IntervalMethod
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
from bayeslora.reporting.assess import Asked, Names, assess, pair, pool
from bayeslora.reporting.document import compose
from bayeslora.reporting.figures.drawings import draw
from bayeslora.reporting.figures.reliability import PerClass, check_classes
from bayeslora.reporting.figures.rendering import FORMATS, check_formats
from bayeslora.reporting.markup import render_latex, render_markdown
from bayeslora.reporting.page import render_page
from bayeslora.reporting.ranking import Facts
from bayeslora.reporting.run_record import Provenance, python_call
from bayeslora.reporting.score_files import scores_json, write_csv
from bayeslora.reporting.shift import RobustnessLike, robustness_curves, shift_curves
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
    """Score predictions and write a report whose page can be shared as a single file.

    The directory holds `index.html` (self-contained), `report.md`, `tables.tex`, `scores.json`,
    `scores.csv` and `figures/`. It is written atomically, and the same input gives the same bytes.

    Args:
        items: Predictions, paths of predictions files, or data frames: a single one, or one per
            method or seed.
        ood: Out-of-distribution sets by name; for several items, by method:
            `{"polar-vbll": {"unseen": predictions}}`. The key of a method is its name, or its label
            such as `polar (seed 1)` if several items share the name.
        shifted: Predictions of the same rows, corrupted (`bayeslora predict --corrupt`), for any of
            the methods: the page shows calibration against severity.
        out: Directory to create.
        title: Title of the page; by default it names up to two methods, else it counts them.
        overwrite: Replace `out` if it is an earlier report.
        examples: Whether the page shows the most confident errors. Disable it if texts or ids must
            not be shared.
        example_column: The further column with the texts of these rows; by default `text` if it
            exists. Rows without a text are shown by their ids.
        interactive: Whether to also write `view.html`, a page to filter and sort every example in a
            browser; it holds all texts, unless `examples` is false.
        figures: Formats of the files in `figures/`: `svg`, `png`, `pdf`. The page always has SVG.
        per_class: Also draw one-vs-rest reliability diagrams of classes: `True`, or the names of
            the classes to draw.
        spectrum: Adapter changes, as `{label: clf.spectrum()}`; for an ensemble the first member is
            shown.
        robustness: Scores under attack: results of `clf.robustness`, or files of
            `bayeslora evaluate --attack --out`, one or several.
        provenance: Further facts about the run, such as `{"command": "…", "data": {…}}`.
        ood_score: The uncertainty used for detection; see `evaluate`.
        near: Names of out-of-distribution sets to average as near sets, as in `evaluate`.
        far: Names of out-of-distribution sets to average as far sets.
        group_by: Columns of the predictions; adds a table with scores per value for each.
        by_class: Add a table of scores per class.
        cluster_by: A column whose equal values mark rows that the bootstrap resamples together.
        interval: `percentile`, or `bca`.
        over_seeds: Whether to pool fits of one method with several seeds: means over seeds with t
            intervals. Figures and examples show every fit.
        num_bins: Number of bins of the calibration errors and of the diagrams.
        num_resamples: Number of bootstrap resamples for the intervals.
        seed: Seed of the bootstrap.
        reading: How to read files in another format than this package writes.

    Returns:
        Path of `index.html`, which a notebook shows as the page.

    Raises:
        InputError: `out` exists and may not be replaced, or an input is invalid.
    """
    arguments = locals()  # every option, for the call that repeats the report
    target = Path(out)
    check_target(target, overwrite=overwrite)
    items, worse = as_list(items), as_list(shifted)
    read = [*paths_in(items, ood or {}), *paths_in(worse, {})]
    refuse_inputs(target, *read)
    formats = check_formats(figures)
    options = Asked.of(arguments)
    column = (example_column or EXAMPLE_COLUMN) if examples else None
    with atomic_directory(target, LAYOUT, overwrite=overwrite) as temporary:
        shown: Sequence[str] = () if column is None else (column, *QUESTION_COLUMNS)
        if interactive and shown:
            shown = [*shown, *browsed_columns(read, reading)]
        methods = gather(items, ood, columns=shown, needed=options.columns, reading=reading)
        if examples and example_column is not None:
            check_column(methods, example_column)
        check_classes(per_class, methods)
        options.check(methods)
        sources = [load_source(predictions, reading=reading) for predictions in worse]
        # Checked before the first score.
        changes = adapter_changes(spectrum)
        names = {name for method in methods for name in (method.name, method.predictions.name)}
        attacked = robustness_curves(robustness, names)
        fits = assess(methods, options)
        pooled = pool(fits) if over_seeds else fits
        facts = Facts(
            pooled,
            pair(pooled, options),
            ood_names(methods),
            fits=fits,
            shift=shift_curves(fits, sources, options),
            changes=changes,
            robustness=attacked,
        )
        resolved = {**arguments, **options.sizes, "figures": formats}
        document = compose(
            title,
            facts,
            draw(facts, formats=formats, per_class=per_class),
            provenance={**_command(methods, worse, facts, resolved), **(provenance or {})},
            settings=_settings(facts, options, column),
            example_column=column,
            view=VIEW if interactive else "",
        )
        texts = {
            PAGE: render_page(document),
            "report.md": render_markdown(document, formats),
            "tables.tex": render_latex(document),
        }
        if interactive:
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


_ALWAYS_SHOWN = {"num_bins", "num_resamples", "seed"}
_NEVER_SHOWN = {"items", "ood", "overwrite", "spectrum", "robustness", "provenance", "reading"}


def _command(
    methods: Sequence[Method],
    worse: Sequence[PredictionsLike],
    facts: Facts,
    arguments: Mapping[str, Any],
) -> dict[str, str]:
    """Return the call that reproduces the report, if all inputs are files."""
    # A spectrum exists only in memory, so no call can reproduce it.
    in_memory = [path for path in worse if not isinstance(path, str | Path)]
    if facts.changes or facts.robustness or in_memory:
        return {}
    known = signature(report).parameters
    keywords = {
        name: str(arguments[name]) if isinstance(arguments[name], Path) else arguments[name]
        for name in known
        if name in _ALWAYS_SHOWN
        or (name not in _NEVER_SHOWN and arguments[name] != known[name].default)
    }
    if worse:
        keywords["shifted"] = [str(path) for path in worse]
    call = python_call(methods, **keywords)
    return {"command": call} if call else {}


def _settings(facts: Facts, options: Asked, column: str | None) -> dict[str, str]:
    method = facts.fits[0].scores.intervals.get("method", "bootstrap")
    settings = {
        "bins": f"{options.num_bins} of equal width, [low, high), the last one holds 1",
        "intervals": f"95 %, {method}, {options.num_resamples:,} resamples",
        "seed of the bootstrap": str(options.seed),
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

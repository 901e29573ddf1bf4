"""The paired comparison: a table, notes on how to read it, and Markdown, LaTeX and CSV files.

A directory of the three files also has `comparison.json`, which marks it as safe to replace.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.io.directories import Layout, atomic_directory, refuse_target
from bayeslora.io.files import atomic_file, check_writable, refuse_existing
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.reporting.score_files import score_numbers, write_rows
from bayeslora.reporting.score_tables import COLUMNS, score_cell
from bayeslora.reporting.tables import (
    PREAMBLE,
    Cell,
    Column,
    Row,
    Table,
    sentence_to_markdown,
    to_latex,
    to_markdown,
)
from bayeslora.reporting.text import interval, named, number, p_text

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
    reference = _shown(comparison.reference)
    tested = " and corrected p < 0.05" if comparison.num_permutations else ""
    grouped = ""
    if comparison.num_clusters is not None:
        column = named(clean(comparison.cluster_by or ""))
        clusters = counted(comparison.num_clusters, "cluster")
        grouped = f"Examples are drawn in {clusters} of equal {column}."
    binned = any(SCORES[key].reflected for key in comparison.keys)
    made = [
        grouped,
        f"Calibration errors in {comparison.num_bins} bins." if binned else "",
        _intervals(comparison),
        _tests(comparison),
    ]
    notes = [
        f"Differences from {reference} on the same {counted(comparison.n, 'labelled example')}"
        f" (method − {reference}). {mark}: interval without 0{tested}.",
        _seeds(comparison),
        *(["Brackets: 95 % intervals. p: corrected (uncorrected)."] if brief else made),
        f"The reference was chosen for its {chosen_by} on these examples, which neither intervals"
        " nor p account for."
        if chosen_by
        else "",
        ""
        if comparison.distance_to is None
        else f"TV: mean total variation distance from the probabilities of"
        f" {_shown(comparison.distance_to)}; epistemic ratio: mean epistemic uncertainty over its"
        " own.",
        f"NLL is cut off on {counted(comparison.nll_clamped, 'example')} of all fits, whose label"
        " has a probability below 1e-12, which counts as 1e-12."
        if comparison.nll_clamped and "nll" in comparison.keys
        else "",
    ]
    return tuple(filter(None, notes))


def heading(row: ComparisonRow) -> str:
    """Return a method's name with the number of its seeds."""
    name = as_label(row.name)
    return f"{name} ({counted(len(row.seeds), 'seed')})" if row.seeds else name


def _shown(name: str) -> str:
    return named(as_label(name))


def _seeds(comparison: Comparison) -> str:
    several = [row for row in comparison.rows if row.seeds]
    if not several:
        return ""
    counts = {len(row.seeds) for row in comparison.rows}
    if len(several) == len(comparison.rows) and len(counts) == 1:
        return f"Scores are means over {counts.pop()} seeds of each method."
    per_method = ", ".join(f"{_shown(row.name)} {len(row.seeds) or 1}" for row in comparison.rows)
    return f"Scores are means over seeds ({per_method})."


def _intervals(comparison: Comparison) -> str:
    uncorrected = "they are not corrected for multiplicity"
    if comparison.intervals_over == "seeds":
        pairing = "paired by seed" if comparison.same_seeds else "Welch's"
        return (
            f"Brackets: 95 % t intervals over seeds, {pairing}, on these examples as they are;"
            f" {uncorrected}."
        )
    kind = {"percentile": "percentile", "bca": "BCa"}.get(comparison.interval, comparison.interval)
    reflected = any(SCORES[key].reflected for key in comparison.keys)
    fits = any(row.seeds for row in comparison.rows)
    return (
        f"Brackets: 95 % paired {kind} bootstrap intervals"
        f"{' (of calibration errors in bins reflected ones)' if reflected else ''} over"
        f" {'examples' if comparison.num_clusters is None else 'clusters'},"
        f" {counted(comparison.num_resamples, 'resample')}, seed {comparison.seed}; {uncorrected}"
        f"{', and say nothing of other seeds of the fits' if fits else ''}."
    )


def _tests(comparison: Comparison) -> str:
    if not comparison.num_permutations:
        return ""
    exchanged = "examples" if comparison.num_clusters is None else "clusters"
    family = "only comparison"
    if comparison.num_comparisons > 1:
        family = f"{comparison.num_comparisons} comparisons"
    return (
        f"p: two-sided permutation test, {exchanged} exchanged,"
        f" {counted(comparison.num_permutations, 'permutation')}, seed {comparison.seed};"
        f" Holm-corrected over the {family} with {_shown(comparison.reference)}, each score a"
        " family of its own; in parentheses uncorrected."
    )


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


STEM = "comparison"
"""Name of the files in a directory, without the suffix."""

FORMAT_VERSION = 1
LAYOUT = Layout(
    "a comparison",
    f"{STEM}.json",
    tuple(f"{STEM}{suffix}" for suffix in (".md", ".tex", ".csv")),
)
"""Contents of a comparison's directory."""

CSV_COLUMNS = (
    *("method", "reference", "score", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "n"),
)
"""Columns of the CSV; p-values follow if there are any, then `HOW_COLUMNS`."""

HOW_COLUMNS = (
    *("seeds", "reference_seeds", "clusters", "intervals"),
    *("resamples", "permutations", "seed", "holm_family"),
)
"""How the numbers of a line were computed.

Number of fits averaged in each of the two scores; number of clusters, if rows were resampled in
clusters; type of the intervals; numbers of resamples and permutations, and their seed; number of
p-values in a score's Holm correction. Intervals are not corrected.
"""


def comparison_files(out: str | Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Return the files that a comparison is to be written to, before it is computed.

    Args:
        out: A file whose suffix selects the format, or a directory for all formats.
        overwrite: Whether existing files may be replaced.

    Raises:
        InputError: The suffix is unknown, or `out` exists and may not be replaced, or cannot be
            written.
    """
    target = Path(out)
    is_directory = target.is_dir() or not target.suffix
    if not is_directory and target.suffix not in _WRITERS:
        raise InputError(
            f"{target} has the suffix {target.suffix!r}; choose from {', '.join(_WRITERS)}, or name"
            " a directory for all of them"
        )
    if is_directory and target.is_file():
        raise InputError(f"{target} is in the way of a directory; choose another path")
    check_writable(target)
    if not is_directory:
        refuse_existing(target, overwrite=overwrite)
        return (target,)
    refuse_target(target, LAYOUT, overwrite=overwrite)
    return tuple(target / f"{STEM}{suffix}" for suffix in _WRITERS)


def write_comparison(
    comparison: Comparison, out: str | Path, *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write the result of `compare` atomically, and return the paths of the tables.

    Args:
        comparison: The paired differences.
        out: A `.md`, `.tex` or `.csv` file, or a directory for all three, which also gets
            `comparison.json`.
        overwrite: Whether a file, or the directory of an earlier comparison, may be replaced.

    Raises:
        InputError: As `comparison_files`.
    """
    files = comparison_files(out, overwrite=overwrite)
    texts = {file.name: _WRITERS[file.suffix](comparison) for file in files}
    if len(files) == 1:
        with atomic_file(out) as temporary:
            temporary.write_text(texts[files[0].name], encoding="utf-8", newline="\n")
        return files
    with atomic_directory(out, LAYOUT, overwrite=overwrite) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        about = {"format_version": FORMAT_VERSION, "bayeslora": __version__}
        # ASCII, since names may hold text-direction marks.
        content = json.dumps({**about, **comparison.to_json()}, indent=2, allow_nan=False)
        (temporary / LAYOUT.marker).write_text(f"{content}\n", encoding="ascii")
    return files


def _markdown(comparison: Comparison) -> str:
    table = difference_table(comparison).noted()
    words = sentence_to_markdown(f"{table.caption} {table.notes}".strip())
    return f"{words}\n\n{to_markdown(table)}\n"


def _csv(comparison: Comparison) -> str:
    stream = io.StringIO()
    tests = ("p", "p_holm") if comparison.num_permutations else ()
    write_rows(stream, [(*CSV_COLUMNS, *tests, *HOW_COLUMNS)])
    for row in comparison.rows:
        write_rows(stream, _lines(row, comparison, tests))
    return stream.getvalue()


def _lines(
    row: ComparisonRow, comparison: Comparison, tests: tuple[str, ...]
) -> Iterator[tuple[object, ...]]:
    name = clean(row.name)
    for key, score in row.scores.items():
        yield (
            *(name, clean(comparison.reference), key),
            *score_numbers(score),
            *score_numbers(row.differences[key]),
            comparison.n,
            *(repr(getattr(row, test)[key]) if key in getattr(row, test) else "" for test in tests),
            *_how(row, comparison, SCORES[key].reflected),
        )
    for key, score in row.distances.items():
        yield (
            *(name, clean(comparison.distance_to or ""), key),
            *score_numbers(score),
            *("", "", "", comparison.n),
            *("" for _ in tests),
            *_how(row, comparison, reflected=False),
        )


def _how(row: ComparisonRow, comparison: Comparison, reflected: bool) -> tuple[object, ...]:
    """Return the values of `HOW_COLUMNS`."""
    over_seeds = comparison.intervals_over == "seeds"
    kind = "t, paired by seed" if comparison.same_seeds else "t (Welch)"
    shape = "reflected" if reflected else comparison.interval
    drawn = "rows" if comparison.num_clusters is None else "clusters"
    return (
        len(row.seeds) or 1,
        len(comparison.base.seeds) or 1,
        "" if comparison.num_clusters is None else comparison.num_clusters,
        f"{kind}, over seeds" if over_seeds else f"{shape} bootstrap over {drawn}",
        "" if over_seeds else comparison.num_resamples,
        comparison.num_permutations,
        comparison.seed,
        comparison.num_comparisons if comparison.num_permutations else "",
    )


_WRITERS: Mapping[str, Callable[[Comparison], str]] = {
    ".md": _markdown,
    ".tex": lambda comparison: (
        f"{PREAMBLE}\n{to_latex(difference_table(comparison).called('differences'))}"
    ),
    ".csv": _csv,
}

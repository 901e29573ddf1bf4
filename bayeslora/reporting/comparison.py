"""The paired comparison: a table, notes on how to read it, and Markdown, LaTeX and CSV files.

A directory of the three files also has `comparison.json`, which marks it as safe to replace.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.io.directories import Layout, atomic_directory, refuse_target
from bayeslora.io.files import atomic_file, check_writable, refuse_existing
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.scores import Score
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.reporting.page import PREAMBLE, to_latex
from bayeslora.reporting.score_files import score_numbers, write_rows
from bayeslora.reporting.score_tables import COLUMNS, score_cell
from bayeslora.reporting.tables import (
    Cell,
    Column,
    Row,
    Table,
    sentence_to_markdown,
    to_markdown,
)
from bayeslora.reporting.text import interval, named, number, p_text, say

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
    reference = named(as_label(comparison.reference))
    tested = " and corrected p < 0.05" if comparison.num_permutations else ""
    notes = [
        say(
            "differences",
            reference=reference,
            examples=counted(comparison.n, "labelled example"),
            mark=mark,
            tested=tested,
        ),
        say("means_over_seeds") if any(row.seeds for row in comparison.rows) else "",
        *([say("brief")] if brief else _made(comparison, reference)),
    ]
    if chosen_by:
        notes.append(say("chosen_by", by=chosen_by))
    if comparison.distance_to is not None:
        notes.append(say("distances", name=named(as_label(comparison.distance_to))))
    if comparison.nll_clamped and "nll" in comparison.keys:
        notes.append(say("clamped_fits", examples=counted(comparison.nll_clamped, "example")))
    return tuple(filter(None, notes))


def _made(comparison: Comparison, reference: str) -> Iterator[str]:
    """Yield how bins, intervals and tests were computed."""
    clusters = comparison.num_clusters
    drawn = "examples" if clusters is None else "clusters"
    if clusters is not None:
        column = named(clean(comparison.cluster_by or ""))
        yield say("clusters", clusters=counted(clusters, "cluster"), column=column)
    binned = any(SCORES[key].reflected for key in comparison.keys)
    if binned:
        yield f"Calibration errors in {comparison.num_bins} bins."
    if comparison.intervals_over == "seeds":
        yield say("t_intervals", pairing="paired by seed" if comparison.same_seeds else "Welch's")
    else:
        fits = any(row.seeds for row in comparison.rows)
        yield say(
            "paired",
            kind="BCa" if comparison.interval == "bca" else comparison.interval,
            shape=" (of calibration errors in bins reflected ones)" if binned else "",
            drawn=drawn,
            resamples=counted(comparison.num_resamples, "resample"),
            seed=comparison.seed,
            more=", and say nothing of other seeds of the fits" if fits else "",
        )
    if comparison.num_permutations:
        several = comparison.num_comparisons > 1
        yield say(
            "permutation",
            drawn=drawn,
            permutations=counted(comparison.num_permutations, "permutation"),
            seed=comparison.seed,
            family=f"{comparison.num_comparisons} comparisons" if several else "only comparison",
            reference=reference,
        )


def heading(row: ComparisonRow) -> str:
    """Return a method's name with the number of its seeds."""
    name = as_label(row.name)
    return f"{name} ({counted(len(row.seeds), 'seed')})" if row.seeds else name


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


FORMAT_VERSION = 1
SUFFIXES = (".md", ".tex", ".csv")
LAYOUT = Layout(
    "a comparison", "comparison.json", tuple(f"comparison{suffix}" for suffix in SUFFIXES)
)
"""Contents of a comparison's directory."""


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
    if not is_directory and target.suffix not in SUFFIXES:
        raise InputError(
            f"{target} has the suffix {target.suffix!r}; choose from {', '.join(SUFFIXES)}, or name"
            " a directory for all of them"
        )
    if is_directory and target.is_file():
        raise InputError(f"{target} is in the way of a directory; choose another path")
    check_writable(target)
    if not is_directory:
        refuse_existing(target, overwrite=overwrite)
        return (target,)
    refuse_target(target, LAYOUT, overwrite=overwrite)
    return tuple(target / f"comparison{suffix}" for suffix in SUFFIXES)


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
    if len(files) == 1:
        with atomic_file(out) as temporary:
            text = _text(comparison, files[0].suffix)
            temporary.write_text(text, encoding="utf-8", newline="\n")
        return files
    with atomic_directory(out, LAYOUT, overwrite=overwrite) as temporary:
        for file in files:
            text = _text(comparison, file.suffix)
            (temporary / file.name).write_text(text, encoding="utf-8", newline="\n")
        about = {"format_version": FORMAT_VERSION, "bayeslora": __version__}
        # ASCII, since names may hold text-direction marks.
        content = json.dumps({**about, **comparison.to_json()}, indent=2, allow_nan=False)
        (temporary / LAYOUT.marker).write_text(f"{content}\n", encoding="ascii")
    return files


def _text(comparison: Comparison, suffix: str) -> str:
    """Return the table in a format."""
    if suffix == ".csv":
        lines = [line for row in comparison.rows for line in _lines(row, comparison)]
        stream = io.StringIO()
        write_rows(stream, [list(lines[0]), *(list(line.values()) for line in lines)])
        return stream.getvalue()
    table = difference_table(comparison).called("differences")
    if suffix == ".tex":
        return f"{PREAMBLE}\n{to_latex(table)}"
    words = sentence_to_markdown(f"{table.caption} {table.notes}".strip())
    return f"{words}\n\n{to_markdown(table)}\n"


def _lines(row: ComparisonRow, comparison: Comparison) -> Iterator[dict[str, object]]:
    """Yield the cells of each line of the CSV by column.

    The last columns are how the numbers were computed: the number of fits averaged in each of the
    two scores; the number of clusters, if rows were resampled in clusters; the type of the
    intervals, which are not corrected; numbers of resamples and permutations, and their seed; and
    the number of p-values in a score's Holm correction.
    """
    over_seeds = comparison.intervals_over == "seeds"
    tests = {"p": row.p, "p_holm": row.p_holm} if comparison.num_permutations else {}
    for key, score in {**row.scores, **row.distances}.items():
        is_distance = key in row.distances
        other = comparison.distance_to if is_distance else comparison.reference
        shape = comparison.interval
        if not is_distance and SCORES[key].reflected:
            shape = "reflected"
        kind = f"{shape} bootstrap over {'rows' if comparison.num_clusters is None else 'clusters'}"
        if over_seeds:
            kind = f"t{', paired by seed' if comparison.same_seeds else ' (Welch)'}, over seeds"
        value, low, high = score_numbers(score)
        difference, difference_low, difference_high = score_numbers(
            Score.alone(math.nan) if is_distance else row.differences[key]
        )
        yield {
            "method": clean(row.name),
            "reference": clean(other or ""),
            "score": key,
            "value": value,
            "low": low,
            "high": high,
            "difference": difference,
            "difference_low": difference_low,
            "difference_high": difference_high,
            "n": comparison.n,
            **{name: repr(values[key]) if key in values else "" for name, values in tests.items()},
            "seeds": len(row.seeds) or 1,
            "reference_seeds": len(comparison.base.seeds) or 1,
            "clusters": "" if comparison.num_clusters is None else comparison.num_clusters,
            "intervals": kind,
            "resamples": "" if over_seeds else comparison.num_resamples,
            "permutations": comparison.num_permutations,
            "seed": comparison.seed,
            "holm_family": comparison.num_comparisons if comparison.num_permutations else "",
        }

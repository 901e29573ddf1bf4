"""The paired comparison: a table, notes on how to read it, and files of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bayeslora.errors import unknown_choice
from bayeslora.io.files import atomic_file, check_writable, refuse_existing
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.reporting.page import PREAMBLE, to_latex
from bayeslora.reporting.score_files import score_numbers, write_rows
from bayeslora.reporting.score_tables import COLUMNS, score_cell
from bayeslora.reporting.tables import (
    Cell,
    Row,
    Table,
    sentence_to_markdown,
    to_markdown,
)
from bayeslora.reporting.text import interval, named, number, p_text, say


def difference_table(comparison: Comparison, chosen_by: str = "") -> Table:
    """Return the table of paired differences from the reference, best method first.

    A cell holds the difference, its interval, and p; the row of the reference holds its scores.
    `chosen_by` is the score by which the reference was chosen on the same rows; empty if the choice
    did not depend on them.
    """
    columns = [COLUMNS[key] for key in comparison.keys]
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
    if comparison.nll_clamped and "nll" in comparison.keys:
        notes.append(say("clamped_fits", examples=counted(comparison.nll_clamped, "example")))
    return tuple(filter(None, notes))


def _made(comparison: Comparison, reference: str) -> Iterator[str]:
    """Yield how bins, intervals and tests were computed."""
    drawn = "examples" if comparison.num_clusters is None else "clusters"
    if comparison.num_clusters is not None:
        yield say("clusters", of=comparison, column=clean(comparison.cluster_by or ""))
    binned = any(SCORES[key].reflected for key in comparison.keys)
    if binned:
        yield f"Calibration errors in {comparison.num_bins} bins."
    if comparison.intervals_over == "seeds":
        yield say("t_intervals", pairing="paired by seed" if comparison.same_seeds else "Welch's")
    else:
        fits = any(row.seeds for row in comparison.rows)
        yield say(
            "paired",
            of=comparison,
            shape=" (of calibration errors in bins reflected ones)" if binned else "",
            drawn=drawn,
            more=", and say nothing of other seeds of the fits" if fits else "",
        )
    if comparison.num_permutations:
        several = comparison.num_comparisons > 1
        yield say(
            "permutation",
            of=comparison,
            drawn=drawn,
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
    return Row((title,), tuple(cells))


SUFFIXES = (".md", ".tex", ".csv", ".json")
"""Formats of a file of a comparison; JSON has everything."""

DIFFERENCE_COLUMNS = (
    *("method", "reference", "score", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "n", "p", "p_holm"),
)


def comparison_target(out: str | Path, *, overwrite: bool = False) -> Path:
    """Return the file that a comparison is to be written to, before it is computed.

    Args:
        out: A file whose suffix selects the format.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: The suffix is unknown, or `out` exists and may not be replaced, or cannot be
            written.
    """
    target = Path(out)
    if target.suffix not in SUFFIXES:
        raise unknown_choice("ending of a comparison's file", target.suffix, SUFFIXES)
    check_writable(target)
    refuse_existing(target, overwrite=overwrite)
    return target


def write_comparison(comparison: Comparison, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the result of `compare` atomically, and return the file.

    Args:
        comparison: The paired differences.
        out: A `.md`, `.tex`, `.csv` or `.json` file.
        overwrite: Whether a file may be replaced.

    Raises:
        InputError: As `comparison_target`.
    """
    target = comparison_target(out, overwrite=overwrite)
    table = difference_table(comparison).called("differences")
    with (
        atomic_file(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        if target.suffix == ".csv":
            write_rows(file, _csv_rows(comparison))
        elif target.suffix == ".json":
            # ASCII, since names may hold text-direction marks.
            file.write(f"{json.dumps(comparison.to_json(), indent=2, allow_nan=False)}\n")
        elif target.suffix == ".tex":
            file.write(f"{PREAMBLE}\n{to_latex(table)}")
        else:
            words = sentence_to_markdown(f"{table.caption} {table.notes}".strip())
            file.write(f"{words}\n\n{to_markdown(table)}\n")
    return target


def _csv_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    yield DIFFERENCE_COLUMNS
    for row in comparison.rows:
        for key, score in row.scores.items():
            difference = row.differences[key]
            numbers = (*score_numbers(score), *score_numbers(difference), comparison.n)
            tests = row.p.get(key, ""), row.p_holm.get(key, "")
            yield (row.name, comparison.reference, key, *numbers, *tests)

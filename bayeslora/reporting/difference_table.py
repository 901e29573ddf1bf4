"""The paired comparison as a table, and how to read it, the same words in every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.score_tables import COLUMNS, score_cell
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import interval, named, number, p_text

DISTANCE_COLUMNS: Mapping[str, Column] = {
    "tv": Column("TV", "↓"),
    "epistemic_ratio": Column("Epistemic ratio", "→1"),
}
"""Columns of a comparison that measures distances, by the key of their score."""


def difference_table(comparison: Comparison, chosen_by: str = "") -> Table:
    """Return paired differences from the reference, which has its own scores, best method first.

    A cell holds the difference, its interval, and p. Distances, where they are measured, stand in
    two more columns.

    Args:
        comparison: What was compared.
        chosen_by: The score for which the reference was chosen on the same rows; empty where the
            choice did not depend on them.
    """
    columns = [COLUMNS[key] for key in comparison.keys]
    if comparison.distance_to is not None:
        detail = f"to {shorten(clean(comparison.distance_to))}"
        columns += [replace(column, detail=detail) for column in DISTANCE_COLUMNS.values()]
    rows = tuple(_row(row, comparison) for row in comparison.rows)
    caption = " ".join(comparison_notes(comparison, chosen_by))
    return Table(caption, ("Method",), tuple(columns), rows)


def comparison_notes(
    comparison: Comparison, chosen_by: str = "", mark: str = "Bold"
) -> tuple[str, ...]:
    """Return the sentences without which the table cannot be read, names marked by `text.named`.

    Args:
        comparison: What was compared.
        chosen_by: As in `difference_table`.
        mark: What marks a difference that is more than chance.
    """
    reference = _shown(comparison.reference)
    grouped = ""
    if comparison.num_clusters is not None:
        column = named(clean(comparison.cluster_by or ""))
        grouped = f" in {counted(comparison.num_clusters, 'cluster')} of equal {column}"
    binned = any(SCORES[key].reflected for key in comparison.keys)
    notes = [
        f"Differences from {reference}, row by row on the same"
        f" {counted(comparison.n, 'labelled row')}{grouped}: the method's score minus that of"
        f" {reference}{f'; calibration errors with {comparison.num_bins} bins' if binned else ''}.",
        _seeds(comparison),
        _intervals(comparison),
        _tests(comparison),
        f"The reference was chosen for its {chosen_by} on these rows, which neither intervals nor p"
        " account for."
        if chosen_by
        else "",
        f"{mark}: the interval leaves out 0"
        f"{' and the corrected p is below 0.05' if comparison.num_permutations else ''}.",
        _distances(comparison),
        f"NLL is cut off on {counted(comparison.nll_clamped, 'row')} of all fits, whose label has a"
        " probability below 1e-12, which counts as 1e-12."
        if comparison.nll_clamped and "nll" in comparison.keys
        else "",
    ]
    return tuple(filter(None, notes))


def heading(row: ComparisonRow) -> str:
    """Return a method's name with the number of its seeds."""
    return with_seeds(shorten(clean(row.name)), row.seeds)


def with_seeds(name: str, seeds: Sequence[str]) -> str:
    """Return a name, and the number of seeds where there are any."""
    return f"{name} ({counted(len(seeds), 'seed')})" if seeds else name


def _shown(name: str) -> str:
    return named(shorten(clean(name)))


def _seeds(comparison: Comparison) -> str:
    several = [row for row in comparison.rows if row.seeds]
    if not several:
        return ""
    counts = {len(row.seeds) for row in comparison.rows}
    if len(several) == len(comparison.rows) and len(counts) == 1:
        return f"Scores are means over {counts.pop()} seeds of each method."
    each = ", ".join(f"{_shown(row.name)} {len(row.seeds) or 1}" for row in comparison.rows)
    return f"Scores are means over seeds ({each})."


def _intervals(comparison: Comparison) -> str:
    uncorrected = "they are not corrected for multiplicity"
    if comparison.intervals_over == "seeds":
        how = "paired by seed" if comparison.same_seeds else "Welch's"
        return (
            f"Brackets: 95 % t intervals over seeds, {how}, on these rows as they are;"
            f" {uncorrected}."
        )
    kind = {"percentile": "percentile", "bca": "BCa"}.get(comparison.interval, comparison.interval)
    reflected = any(SCORES[key].reflected for key in comparison.keys)
    fits = any(row.seeds for row in comparison.rows)
    return (
        f"Brackets: 95 % paired {kind} bootstrap intervals"
        f"{' (of calibration errors in bins reflected ones)' if reflected else ''} over"
        f" {'rows' if comparison.num_clusters is None else 'clusters'},"
        f" {counted(comparison.num_resamples, 'resample')}, seed {comparison.seed}; {uncorrected}"
        f"{', and say nothing of other seeds of the fits' if fits else ''}."
    )


def _tests(comparison: Comparison) -> str:
    if not comparison.num_permutations:
        return ""
    exchanged = "rows" if comparison.num_clusters is None else "clusters"
    family = "only comparison"
    if comparison.num_comparisons > 1:
        family = f"{comparison.num_comparisons} comparisons"
    return (
        f"p: two-sided permutation test, {exchanged} exchanged,"
        f" {counted(comparison.num_permutations, 'permutation')}, seed {comparison.seed};"
        f" Holm-corrected over the {family} with {_shown(comparison.reference)}, each score a"
        " family of its own; in parentheses uncorrected."
    )


def _distances(comparison: Comparison) -> str:
    if comparison.distance_to is None:
        return ""
    origin = _shown(comparison.distance_to)
    return (
        f"TV: mean total variation distance from the probabilities of {origin}; epistemic ratio:"
        " mean epistemic uncertainty over its own."
    )


def _row(row: ComparisonRow, comparison: Comparison) -> Row:
    title = heading(row)
    if row.name == comparison.reference:
        title = f"{title} (reference)"
        cells = [_own_cell(key, row) for key in comparison.keys]
    else:
        cells = [_difference_cell(row, key) for key in comparison.keys]
    if comparison.distance_to is not None:
        cells += [_distance_cell(row, key, comparison.distance_to) for key in DISTANCE_COLUMNS]
    return Row((title,), tuple(cells))


def _own_cell(key: str, row: ComparisonRow) -> Cell:
    return Cell(score_cell(key, row.scores[key]).value)


def _distance_cell(row: ComparisonRow, key: str, origin: str) -> Cell:
    if row.name == origin and key in row.distances:
        return Cell(number(row.distances[key].value))
    return score_cell(key, row.distances.get(key))


def _difference_cell(row: ComparisonRow, key: str) -> Cell:
    score = row.differences[key]
    p = f"p {p_text(row.p_holm[key])} ({p_text(row.p[key])})" if key in row.p else ""
    return Cell(
        number(score.value, signed=True),
        interval(score.low, score.high, signed=True),
        row.is_clear(key),
        p,
    )

"""Everything that a report says, before it is written in one format or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayeslora.metrics.compare import Comparison
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.glossary import TERMS, Term
from bayeslora.reporting.record import Part, Provenance, run_record
from bayeslora.reporting.score_tables import Named, difference_table, ood_tables, score_table
from bayeslora.reporting.summary import Summary, summarise
from bayeslora.reporting.tables import Table
from bayeslora.reporting.text import clean, counted, shorten

TITLE_COLUMNS = 160
"""Widest title, in columns of a terminal."""


@dataclass(frozen=True)
class Contents:
    """Words and tables of a report.

    Attributes:
        title: Its title, cleaned and not too long.
        facts: One line under the title: how many methods, rows, classes, bins.
        summary: Lead and findings.
        scores: The table of methods.
        differences: Paired differences, or None.
        ood: Detection by method and score, a table for each set.
        record: What was run.
        terms: The glossary.
    """

    title: str
    facts: str
    summary: Summary
    scores: Table
    differences: Table | None
    ood: tuple[Table, ...]
    record: tuple[Part, ...]
    terms: tuple[Term, ...]


def compose(
    title: str,
    methods: Sequence[Assessed],
    comparison: Comparison | None,
    sets: Mapping[str, str],
    *,
    provenance: Provenance,
    settings: Mapping[str, str],
) -> Contents:
    """Put words and tables together.

    Args:
        title: Title as given.
        methods: What was scored.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
        provenance: What the caller knows about the run.
        settings: How the report was made.
    """
    named = [Named(one.label, one.scores) for one in methods]
    return Contents(
        title=shorten(clean(title), TITLE_COLUMNS),
        facts=_facts(methods),
        summary=summarise(methods, comparison, sets),
        scores=score_table(named, sets),
        differences=None if comparison is None else difference_table(comparison),
        ood=ood_tables(named, sets),
        record=tuple(run_record(methods, sets, provenance, settings)),
        terms=TERMS,
    )


def _facts(methods: Sequence[Assessed]) -> str:
    first = methods[0].scores
    rows = sorted({one.scores.n for one in methods})
    size = counted(rows[0], "row") if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,} rows"
    return (
        f"{counted(len(methods), 'method')} · {size} · {first.num_classes} classes ·"
        f" {first.num_bins} bins"
    )

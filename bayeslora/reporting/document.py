"""Everything that a report says and in which order, before it is written in one format or another.

`SECTIONS` is the order of the page, of its table of contents, of the Markdown and of the tables for
LaTeX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.robustness import Robustness
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.reporting.adapter_changes import AdapterChange, AdapterWords, adapter_words
from bayeslora.reporting.advice import advice
from bayeslora.reporting.assess import Assessed, every_fit
from bayeslora.reporting.comparison import difference_table
from bayeslora.reporting.findings import Finding, findings
from bayeslora.reporting.glossary import (
    BY_CHANCE,
    NEAR_AND_FAR,
    SPECTRUM,
    UNFAMILIAR,
    Term,
    terms_for,
)
from bayeslora.reporting.overview import Overview, overview
from bayeslora.reporting.part_tables import (
    class_table,
    confusion_tables,
    every_score_table,
    explained,
    group_tables,
    near_far_table,
    uncertainty_table,
    with_chance,
)
from bayeslora.reporting.ranking import facts_of
from bayeslora.reporting.robustness import robustness_table
from bayeslora.reporting.run_record import Card, Part, Provenance, method_cards, run_record
from bayeslora.reporting.score_tables import Named, detection_table, ood_tables, score_table
from bayeslora.reporting.tables import Table
from bayeslora.reporting.text import classes_of
from bayeslora.reporting.wrong_answers import WrongAnswers, wrong_answers

if TYPE_CHECKING:
    from bayeslora.reporting.figures.drawings import Drawings

TITLE_COLUMNS = 160
"""Widest title, in columns of a terminal."""


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        key: The block of the template that writes it, and its anchor on the page.
        title: Its heading.
        short: What the table of contents calls it.
    """

    key: str
    title: str
    short: str


def _section(key: str, title: str, short: str = "") -> Section:
    return Section(key, title, short or title)


SECTIONS = (
    _section("overview", "At a glance"),
    _section("findings", "Findings"),
    _section("scores", "Scores"),
    _section("reliability", "Reliability diagrams", "Reliability"),
    _section("confidence", "Confidence and errors", "Confidence"),
    _section("confused", "Confusion matrix", "Confusion"),
    _section("parts", "Groups and classes"),
    _section("ood", "Out-of-distribution detection", "OOD detection"),
    _section("robustness", "Under attack"),
    _section("examples", "Most confident errors"),
    _section("spectra", "Adapter changes"),
    _section("methods", "Methods"),
    _section("run", "Run"),
    _section("terms", "Glossary"),
)
"""Every section, in order; a report leaves out those that have nothing to say."""


@dataclass(frozen=True)
class Document:
    """Words and tables of a report.

    Attributes:
        title: Its title, cleaned and not too long.
        facts: One line under the title: how many methods, rows, classes, bins.
        overview: The first screen, or None where no row has a label.
        advice: What to do, or None where nothing is advised.
        findings: What the scores say, topic by topic.
        scores: The table of methods.
        detection: How well each method detects each out-of-distribution set, or None.
        every: Every score by method.
        differences: Paired differences, or None.
        uncertainties: Mean uncertainties of right and wrong rows, or None where none are known.
        confused: Which classes are taken for which, per method; empty without labels.
        parts: Tables of groups of rows and of classes, as far as they were asked for.
        ood: Detection by method and score, a table for each set; then the means over near and over
            far sets, where these were named.
        robustness: Scores by the radius of a perturbation of inputs, or None.
        examples: The most confident errors by method; empty where they are left out.
        spectra: What the adapter of each model changed; empty where no model was given.
        cards: What each method is.
        record: What was run.
        terms: The glossary.
    """

    title: str
    facts: str
    overview: Overview | None
    advice: Finding | None
    findings: tuple[Finding, ...]
    scores: Table
    detection: Table | None
    every: Table
    differences: Table | None
    uncertainties: Table | None
    confused: tuple[Table, ...]
    parts: tuple[Table, ...]
    ood: tuple[Table, ...]
    robustness: Table | None
    examples: tuple[WrongAnswers, ...]
    spectra: tuple[AdapterWords, ...]
    cards: tuple[Card, ...]
    record: tuple[Part, ...]
    terms: tuple[Term, ...]

    def sections(self, drawings: Drawings) -> list[Section]:
        """Return the sections that have something to say, in order."""
        content = {
            "overview": self.overview,
            "reliability": drawings.reliability,
            "confidence": drawings.confidence,
            "confused": self.confused,
            "parts": self.parts,
            "ood": self.ood,
            "robustness": self.robustness,
            "examples": self.examples,
            "spectra": self.spectra,
        }
        return [section for section in SECTIONS if content.get(section.key, True)]

    @property
    def tables(self) -> dict[str, Table]:
        """Every table by its name, in the order of the sections."""
        by_section: dict[str, dict[str, Table | None]] = {
            "scores": {
                "scores": self.scores,
                "detection": self.detection,
                "every": self.every,
                "differences": self.differences,
            },
            "confidence": {"uncertainties": self.uncertainties},
            "confused": _numbered("confused", self.confused),
            "parts": _numbered("parts", self.parts),
            "ood": _numbered("ood", self.ood),
            "robustness": {"robustness": self.robustness},
            "spectra": _numbered("spectrum", [words.table for words in self.spectra]),
        }
        return {
            name: table
            for section in SECTIONS
            for name, table in by_section.get(section.key, {}).items()
            if table is not None
        }


def _numbered(name: str, tables: Sequence[Table]) -> dict[str, Table | None]:
    return {f"{name}-{place}": table for place, table in enumerate(tables, start=1)}


def compose(
    title: str,
    methods: Sequence[Assessed],
    comparison: Comparison | None,
    sets: Mapping[str, str],
    *,
    provenance: Provenance,
    settings: Mapping[str, str],
    example_column: str | None = None,
    changes: Sequence[AdapterChange] = (),
    curves: Sequence[Robustness] = (),
) -> Document:
    """Put words and tables together.

    Args:
        title: Title as given.
        methods: What was scored, one entry a method.
        comparison: Paired differences from the method of lowest NLL, if there are any.
        sets: Label of each out-of-distribution set by its name.
        provenance: What the caller knows about the run.
        settings: How the report was made.
        example_column: The further column that holds the rows' texts, where it is there; None
            leaves examples out.
        changes: What adapters changed.
        curves: Scores under attack.
    """
    named = [Named(one.title, one.scores) for one in methods]
    fits = every_fit(methods)
    facts = facts_of(methods, comparison, sets)
    return Document(
        title=shorten(clean(title), TITLE_COLUMNS),
        facts=_facts(methods),
        overview=overview(facts, fits, named),
        advice=advice(facts),
        findings=findings(facts),
        scores=explained(with_chance(score_table(named, {}), named)).noted(),
        detection=next(iter(_with_rows(detection_table(named, sets))), None),
        every=every_score_table(named).noted(),
        differences=None if comparison is None else difference_table(comparison, "NLL").noted(),
        uncertainties=_uncertainties(named),
        confused=tuple(confusion_tables(named)),
        parts=_with_rows(*group_tables(named), class_table(named)),
        ood=(
            *(table.noted() for table in ood_tables(named, sets)),
            *_with_rows(near_far_table(named)),
        ),
        robustness=robustness_table(curves) if curves else None,
        examples=() if example_column is None else wrong_answers(fits, example_column),
        spectra=tuple(map(adapter_words, changes)),
        cards=method_cards(fits),
        record=tuple(run_record(fits, sets, provenance, settings)),
        terms=terms_for(_keys(fits) | ({SPECTRUM} if changes else set())),
    )


def _keys(methods: Sequence[Assessed]) -> set[str]:
    """Return the keys of all scores that some method has."""
    keys = {key for one in methods for key in one.scores}
    keys |= {key for one in methods for part in one.scores.classes.values() for key in part.scores}
    if any(one.scores.ece_if_calibrated is not None for one in methods):
        keys.add(BY_CHANCE)
    if any(one.scores.ood_groups for one in methods):
        keys.add(NEAR_AND_FAR)
    return keys | {UNFAMILIAR} if any(one.scores.ood for one in methods) else keys


def _uncertainties(methods: Sequence[Named]) -> Table | None:
    """Return the table where it can set right rows against wrong ones."""
    kinds = [means for one in methods for means in one.scores.uncertainty.values()]
    if not any({"right", "wrong"} & {*one} for one in kinds):
        return None
    return uncertainty_table(methods).noted()


def _with_rows(*tables: Table) -> tuple[Table, ...]:
    return tuple(table.noted() for table in tables if table.rows)


def _facts(methods: Sequence[Assessed]) -> str:
    first = methods[0].scores
    rows = sorted({one.scores.n for one in methods})
    size = f"{rows[0]:,} to {rows[-1]:,} examples"
    if len(rows) == 1:
        size = counted(rows[0], "example")
    fits = len(every_fit(methods))
    seeds = f" · {fits} fits" if fits > len(methods) else ""
    return (
        f"{counted(len(methods), 'method')}{seeds} · {size} · {classes_of(first)} ·"
        f" {first.num_bins} bins"
    )

"""The content and order of a report: a list of sections.

Only `compose` knows the sections. The page, its table of contents, the Markdown and the LaTeX
tables loop over its result. Cards of methods are made from the metadata of the predictions; files
of other tools have none, and their cards say so. Hashes identify the input files.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version

from bayeslora._version import __version__
from bayeslora.metrics.scores import ALL_SCORES, DETECTION_SCORES
from bayeslora.plain_text import as_label, clean, counted
from bayeslora.predictions.collection import Source
from bayeslora.reporting import score_tables as tables_of
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.blocks import (
    Block,
    Details,
    Document,
    Figure,
    Record,
    Section,
    Table,
    Term,
)
from bayeslora.reporting.facts import Facts
from bayeslora.reporting.figures import Drawings
from bayeslora.reporting.sentences import advice, findings, overview
from bayeslora.reporting.text import classes_of, listed, say, words
from bayeslora.reporting.wrong_answers import wrong_answers

TITLE_COLUMNS = 160
"""Most columns of a title, as in a terminal."""


LONGEST = 320
"""Most columns of a value of the metadata."""

PACKAGES = (
    *("numpy", "scipy", "netcal", "torchmetrics", "torch", "transformers"),
    *("pyarrow", "matplotlib", "jinja2"),
)
"""Dependencies whose versions are recorded, without importing them."""

MOST_CLASSES = 40
"""Most class names to list."""

Provenance = Mapping[str, str | Mapping[str, str]]
"""Facts about the run by name; a mapping as a value becomes a separate part."""


def compose(
    title: str, facts: Facts, drawings: Drawings, *, provenance: Provenance, column: str | None
) -> Document:
    """Compose sentences, tables and figures into a document.

    Without a title, it names or counts the methods. `column` is the further column with the rows'
    texts, if it exists; None leaves examples out.
    """
    methods, scores = facts.methods, facts.scores
    glance, drawings = _first_screen(facts, drawings)
    parts = _numbered("parts", [*tables_of.group_tables(scores), tables_of.class_table(scores)])
    automation = _numbered("automation", [tables_of.automation_table(facts.fits)])
    terms = glossary()
    sections = (
        Section("overview", "At a glance", glance),
        Section("findings", "Findings", findings(facts)),
        Section("scores", "Scores", _scores(facts)),
        Section(
            "reliability",
            "Reliability",
            (
                *_drawn(drawings["reliability"], drawings["confidence"]),
                *_numbered("shift", [tables_of.shift_table(facts.shift)]),
            ),
        ),
        Section("ood", "Out-of-distribution detection", _ood(facts, drawings), "OOD detection"),
        Section("confidence", "Selective prediction", _drawn(drawings["selective"])),
        Section("automation", "What can be automated", automation, "Automation"),
        Section("confused", "Confusion matrix", _confusion(facts), "Confusion"),
        Section("parts", "Groups and classes", parts),
        Section(
            "examples",
            "Most confident errors",
            () if column is None else wrong_answers(facts.fits, column),
            page_only=True,
        ),
        Section("methods", "Methods", tuple(method_card(fit, facts.sets) for fit in facts.fits)),
        Section("run", "Run", (run_record(facts, provenance),)),
        Section("terms", "Glossary", (Details(f"{len(terms)} terms", terms),)),
    )
    labels = [method.label for method in methods]
    if len(methods) == 1 and not methods[0].fits:
        labels = [methods[0].method.predictions.name or labels[0]]
    whose = listed(labels) if len(labels) < 3 else f"{len(labels)} methods"
    return Document(
        title=as_label(title or f"Reliability of {whose}", TITLE_COLUMNS),
        facts=_size(facts),
        sections=tuple(section for section in sections if section.blocks),
    )


def _first_screen(facts: Facts, drawings: Drawings) -> tuple[tuple[Block, ...], Drawings]:
    """Return the first screen with its figure, and the other figures."""
    first, to_do = overview(facts), advice(facts)
    panels = [panel for figure in drawings.values() for panel in figure.panels]
    chosen = tuple(panel for panel in panels if panel.name == first.figure)
    others = {
        topic: replace(figure, panels=tuple(p for p in figure.panels if p not in chosen))
        for topic, figure in drawings.items()
    }
    blocks: list[Block] = [first, *_drawn(Figure(first.caption, chosen))]
    if len(facts.methods) > 1 and facts.leader is not None:
        blocks.append(tables_of.first_table(facts).called("overview"))
    return (*blocks, *([] if to_do is None else [to_do])), others


def _drawn(*figures: Figure) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure.panels)


def _numbered(name: str, tables: Iterable[Table]) -> tuple[Table, ...]:
    """Return the non-empty tables with numbered names."""
    filled = (table for table in tables if table.rows)
    return tuple(table.called(f"{name}-{number}") for number, table in enumerate(filled, start=1))


def _scores(facts: Facts) -> tuple[Block, ...]:
    scores, every = (
        tables_of.score_table(facts.scores, {}, keys, facts)
        for keys in (None, tuple(tables_of.COLUMNS))
    )
    every = every.transposed("Score").called("every")
    blocks: list[Block] = [scores.called("scores"), Details("All scores", (every,))]
    if facts.comparison is not None:
        table = tables_of.difference_table(facts.comparison).called("differences")
        blocks.append(replace(table, notes=f"{table.notes} {say('chosen_by')}"))
    return tuple(blocks)


def _ood(facts: Facts, drawings: Drawings) -> tuple[Block, ...]:
    methods, sets = facts.scores, facts.sets
    if not sets:
        return ()
    every = _numbered("ood", [tables_of.ood_table(methods, *names) for names in sets.items()])
    return (
        tables_of.detection_table(methods, sets, facts).called("detection"),
        *_drawn(drawings["roc"]),
        Details("Every uncertainty of every method", every),
    )


def _confusion(facts: Facts) -> tuple[Block, ...]:
    """Return the confusion matrix of the leader, else the first, and the others folded."""
    first = facts.leader.title if facts.leader is not None else ""
    ordered = sorted(facts.scores, key=lambda method: method.name != first)
    tables = _numbered("confused", tables_of.confusion_tables(ordered))
    others = (Details("The other methods", tables[1:]),) if tables[1:] else ()
    return (*tables[:1], *others)


def glossary() -> tuple[Term, ...]:
    """Return a term for every score of the catalogue, then what they are made of."""
    scores = [
        Term(
            info.title,
            f"{info.meaning[0].upper()}{info.meaning[1:]}.",
            info.details.replace("`", ""),
            info.source if re.search(r"\d", info.source) else "",
        )
        for info in (*ALL_SCORES.values(), *DETECTION_SCORES.values())
    ]
    return (*scores, *(Term(**term) for term in words()["terms"]))


def _size(facts: Facts) -> str:
    methods, first = facts.methods, facts.scores[0]
    rows = sorted({method.scores.n for method in methods})
    size = f"{rows[0]:,} to {rows[-1]:,} examples" if rows[1:] else counted(rows[0], "example")
    counts = sorted({method.scores.num_classes for method in methods})
    classes = f"{counts[0]} to {counts[-1]} classes" if counts[1:] else classes_of(first)
    fits = f" · {len(facts.fits)} fits" if len(facts.fits) > len(methods) else ""
    what = "sample" if facts.are_samples else "method"
    return f"{counted(len(methods), what)}{fits} · {size} · {classes} · {first.num_bins} bins"


def method_card(assessed: Assessed, sets: Mapping[str, str]) -> Record:
    """Return the card of a method: its metadata, and what it was scored on."""
    method, scores, notes = assessed.method, assessed.scores, assessed.method.predictions.metadata
    links = words()["links"]
    rows = [
        (as_label(key.replace("_", " ")), as_label(links.get(value, value), LONGEST))
        for key, value in notes.items()
    ]
    classes = [as_label(name) for name in method.predictions.classes]
    unlabelled = f"{scores.n - scores.n_labelled:,} of them without a label"
    rows += [
        ("predictions", _origin(method.source)),
        ("scored on", f"{counted(scores.n, 'example')} of {classes_of(scores)}, {unlabelled}"),
        ("classes", f"{len(classes)}: {listed(classes, MOST_CLASSES)}"),
    ]
    rows += [
        (f"out of distribution: {sets[name]}", _origin(source))
        for name, source in method.ood.items()
    ]
    return Record(assessed.label, tuple(rows))


def run_record(facts: Facts, provenance: Provenance) -> Details:
    """Return everything needed to reproduce the numbers, below the run in one line."""
    scores = facts.fits[0].scores
    notes = scores.intervals
    settings = {
        "bins": f"{scores.num_bins} of equal width, [low, high), the last one holds 1",
        "intervals": f"95 %, {notes['method']}, {notes['num_resamples']:,} resamples",
        "seed of the bootstrap": str(notes["seed"]),
        "bayeslora": __version__,
        "Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        **{package: version(package) for package in PACKAGES},
    }
    alone = {key: value for key, value in provenance.items() if isinstance(value, str)}
    parts = {
        "The run": alone,
        **{key: value for key, value in provenance.items() if not isinstance(value, str)},
        "This report": settings,
    }
    records = tuple(
        Record(as_label(title), tuple((as_label(k), clean(v)) for k, v in rows.items()))
        for title, rows in parts.items()
        if rows
    )
    line = [f"bayeslora {__version__}", settings["intervals"]]
    if "command" in alone:
        line.insert(0, as_label(alone["command"], 100))
    return Details(" · ".join(line), records)


def _origin(source: Source) -> str:
    if source.path is None:
        return "in memory"
    return f"{clean(str(source.path))} (SHA-256 {source.sha256})"

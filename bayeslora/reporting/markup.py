"""The report as Markdown, with figures as links to the files beside it, and its tables as LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bayeslora.plain_text import clean
from bayeslora.reporting.document import Document
from bayeslora.reporting.figures.drawings import Drawings, Plates
from bayeslora.reporting.figures.rendering import FORMATS, Drawing
from bayeslora.reporting.glossary import Term
from bayeslora.reporting.tables import (
    PREAMBLE,
    Table,
    escape_markdown,
    sentence_to_markdown,
    to_latex,
    to_markdown,
)
from bayeslora.reporting.text import NAME_END, NAME_START


def render_markdown(
    document: Document, drawings: Drawings, formats: Sequence[str] = FORMATS[:1]
) -> str:
    """Return the report; names from outside are escaped.

    Args:
        document: Words and tables.
        drawings: Figures.
        formats: Formats of the figures' files; a picture is shown, a PDF is linked to.
    """
    suffix = next((one for one in ("svg", "png") if one in formats), "pdf")
    blocks = [f"# {escape_markdown(document.title)}", escape_markdown(document.facts)]
    for section in document.sections(drawings):
        if (write := _WRITERS.get(section.key)) is not None:
            blocks += [f"## {section.title}", *write(document, drawings, suffix)]
    return "\n\n".join(blocks) + "\n"


def _overview(document: Document, _: Drawings, __: str) -> list[str]:
    first = document.overview
    if first is None:
        return []
    about = [sentence_to_markdown(first.about)] if first.about else []
    tiles = [f"- {one.title}: **{one.value}** ({one.detail})" for one in first.tiles]
    verdict = first.verdict.replace(NAME_START, "").replace(NAME_END, "")  # bold as a whole
    return [f"**{escape_markdown(verdict)}**", *about, "\n".join(tiles)]


def _findings(document: Document, _: Drawings, __: str) -> list[str]:
    first = [] if document.advice is None else [document.advice]
    return [_finding(one.topic, one.sentences) for one in (*first, *document.findings)]


def _scores(document: Document, _: Drawings, __: str) -> list[str]:
    blocks = _table(document.scores)
    if document.detection is not None:
        blocks += _table(document.detection)
    blocks += ["### All scores", *_table(document.every)]
    if document.differences is not None:
        blocks += ["### Paired differences", *_table(document.differences)]
    return blocks


def _reliability(_: Document, drawings: Drawings, suffix: str) -> list[str]:
    groups = (drawings.equal_mass, drawings.per_class, drawings.brier, drawings.shift)
    blocks = [block for group in groups for block in _plates(group, suffix)]
    return [*_images(drawings.reliability, suffix), *blocks]


def _confidence(document: Document, drawings: Drawings, suffix: str) -> list[str]:
    blocks = [*_images(drawings.confidence, suffix), *_plates(drawings.selective, suffix)]
    if document.uncertainties is not None:
        blocks += [
            "### Uncertainty of correct and wrong predictions",
            *_table(document.uncertainties),
        ]
    return blocks


def _confused(document: Document, _: Drawings, __: str) -> list[str]:
    return _tables(document.confused)


def _parts(document: Document, _: Drawings, __: str) -> list[str]:
    return _tables(document.parts)


def _ood(document: Document, drawings: Drawings, suffix: str) -> list[str]:
    figures = [*_plates(drawings.roc, suffix), *_images(drawings.densities, suffix)]
    return [*_tables(document.ood), *figures]


def _robustness(document: Document, drawings: Drawings, suffix: str) -> list[str]:
    if document.robustness is None:
        return []
    return [*_table(document.robustness), *_images(drawings.robustness, suffix)]


def _spectra(document: Document, drawings: Drawings, suffix: str) -> list[str]:
    blocks = []
    for words, drawing in zip(document.spectra, drawings.spectra, strict=True):
        blocks += [f"### {escape_markdown(words.label)}", sentence_to_markdown(words.summary)]
        blocks += [*_table(words.table), *_images([drawing], suffix)]
    return blocks


def _run(document: Document, _: Drawings, __: str) -> list[str]:
    blocks = []
    for part in document.record:
        rows = [f"- **{escape_markdown(key)}**: {escape_markdown(text)}" for key, text in part.rows]
        blocks += [f"### {escape_markdown(part.title)}", "\n".join(rows)]
    return blocks


def _terms(document: Document, _: Drawings, __: str) -> list[str]:
    return [*map(_term, document.terms)]


_WRITERS: Mapping[str, Callable[[Document, Drawings, str], list[str]]] = {
    "overview": _overview,
    "findings": _findings,
    "scores": _scores,
    "reliability": _reliability,
    "confidence": _confidence,
    "confused": _confused,
    "parts": _parts,
    "ood": _ood,
    "robustness": _robustness,
    "spectra": _spectra,
    "run": _run,
    "terms": _terms,
}
"""What writes each section; examples and the cards of methods are on the page alone."""


def _term(term: Term) -> str:
    formulas = "; ".join(formula.text for formula in term.formulas)
    parts = (term.meaning, formulas and f"{formulas}.", term.source and f"{term.source}.")
    return f"**{term.name}**: {escape_markdown(' '.join(filter(None, parts)))}"


def _finding(topic: str, sentences: tuple[str, ...]) -> str:
    lines = [f"### {sentence_to_markdown(topic)}", ""]
    lines += [f"- {sentence_to_markdown(sentence)}" for sentence in sentences]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    blocks = [table.caption, to_markdown(table), table.notes]
    return [one if one is blocks[1] else sentence_to_markdown(one) for one in blocks if one]


def _tables(tables: Iterable[Table]) -> list[str]:
    return [block for table in tables for block in _table(table)]


def _plates(plates: Plates, suffix: str) -> list[str]:
    if not plates.drawings:
        return []
    return [f"### {plates.heading}", plates.caption, *_images(plates.drawings, suffix)]


def _images(drawings: Sequence[Drawing], suffix: str) -> list[str]:
    mark = "" if suffix == "pdf" else "!"
    return [
        f"{mark}[{escape_markdown(one.title)}](figures/{one.name}.{suffix})" for one in drawings
    ]


def render_latex(document: Document) -> str:
    """Return all tables of a report."""
    title = clean(document.title).replace("\\", "/")
    return f"% {title}\n{PREAMBLE}\n" + "\n".join(to_latex(*one) for one in document.tables.items())

"""The report as Markdown, with figures as links to the files beside it, and its tables as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from bayeslora.plain_text import clean
from bayeslora.reporting.document import Contents
from bayeslora.reporting.figures.drawings import Drawings, Plates
from bayeslora.reporting.figures.rendering import FORMATS, Drawing
from bayeslora.reporting.glossary import Term
from bayeslora.reporting.tables import PREAMBLE, Table, escape_markdown, to_latex, to_markdown
from bayeslora.reporting.text import NAME_END, NAME_START


def render_markdown(
    contents: Contents, drawings: Drawings, formats: Sequence[str] = FORMATS[:1]
) -> str:
    """Return the report; names from outside are escaped.

    Args:
        contents: Words and tables.
        drawings: Figures.
        formats: Formats of the figures' files; a picture is shown, a PDF is linked to.
    """
    suffix = next((one for one in ("svg", "png") if one in formats), "pdf")
    blocks = [
        f"# {escape_markdown(contents.title)}",
        escape_markdown(contents.facts),
        *_plain(contents),
        "## Findings",
        _sentence(contents.summary.lead),
        *(_finding(one.topic, one.sentences) for one in contents.summary.findings),
        "## Which method to trust",
        *_table(contents.scores),
        *([] if contents.detection is None else _table(contents.detection)),
        "### All scores",
        *_table(contents.every),
    ]
    if contents.differences is not None:
        blocks += ["### Row by row", *_table(contents.differences)]
    if drawings.reliability:
        blocks += ["## Reliability diagrams", *_images(drawings.reliability, suffix)]
        blocks += _plates(drawings.equal_mass, suffix) + _plates(drawings.per_class, suffix)
        blocks += _plates(drawings.brier, suffix)
        blocks += ["## Confidence of right and wrong answers"]
        blocks += [*_images(drawings.confidence, suffix), *_plates(drawings.selective, suffix)]
        if contents.uncertainties is not None:
            blocks += ["### Uncertainty of right and wrong answers"]
            blocks += _table(contents.uncertainties)
    if contents.confused:
        blocks.append("## Which classes are confused")
        blocks += [block for table in contents.confused for block in _table(table)]
    if contents.parts:
        blocks.append("## Parts of the rows")
        blocks += [block for table in contents.parts for block in _table(table)]
    if contents.ood:
        blocks.append("## Unfamiliar rows")
        blocks += [block for table in contents.ood for block in _table(table)]
        blocks += _plates(drawings.roc, suffix)
        blocks += _images(drawings.densities, suffix)
    if contents.spectra:
        blocks.append("## What the adapter changed")
        for words, drawing in zip(contents.spectra, drawings.spectra, strict=True):
            blocks += [f"### {escape_markdown(words.label)}", _sentence(words.summary)]
            blocks += [*_table(words.table), *_images([drawing], suffix)]
    blocks.append("## What was run")
    for part in contents.record:
        rows = [f"- **{escape_markdown(key)}**: {escape_markdown(text)}" for key, text in part.rows]
        blocks += [f"### {escape_markdown(part.title)}", "\n".join(rows)]
    blocks.append("## Terms")
    blocks += map(_term, contents.terms)
    return "\n\n".join(blocks) + "\n"


def _plain(contents: Contents) -> list[str]:
    if not contents.plain:
        return []
    return ["## In plain words", *(_finding(one.topic, one.sentences) for one in contents.plain)]


def _term(term: Term) -> str:
    formulas = "; ".join(formula.text for formula in term.formulas)
    parts = (term.meaning, formulas and f"{formulas}.", term.source and f"{term.source}.")
    return f"**{term.name}**: {escape_markdown(' '.join(filter(None, parts)))}"


def _finding(topic: str, sentences: tuple[str, ...]) -> str:
    lines = [f"### {_sentence(topic)}", ""]
    lines += [f"- {_sentence(sentence)}" for sentence in sentences]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return escape_markdown(text).replace(NAME_START, "**").replace(NAME_END, "**")


def _table(table: Table) -> list[str]:
    return [_sentence(table.caption), to_markdown(table)]


def _plates(plates: Plates, suffix: str) -> list[str]:
    if not plates.drawings:
        return []
    return [f"### {plates.heading}", plates.caption, *_images(plates.drawings, suffix)]


def _images(drawings: Sequence[Drawing], suffix: str) -> list[str]:
    mark = "" if suffix == "pdf" else "!"
    return [
        f"{mark}[{escape_markdown(one.title)}](figures/{one.name}.{suffix})" for one in drawings
    ]


def render_latex(contents: Contents) -> str:
    """Return all tables of a report."""
    tables = [("scores", contents.scores)]
    if contents.detection is not None:
        tables.append(("detection", contents.detection))
    tables.append(("every", contents.every))
    if contents.differences is not None:
        tables.append(("differences", contents.differences))
    if contents.uncertainties is not None:
        tables.append(("uncertainties", contents.uncertainties))
    tables += [(f"confused-{place}", one) for place, one in enumerate(contents.confused, start=1)]
    tables += [(f"parts-{place}", table) for place, table in enumerate(contents.parts, start=1)]
    tables += [(f"ood-{place}", table) for place, table in enumerate(contents.ood, start=1)]
    spectra = enumerate(contents.spectra, start=1)
    tables += [(f"spectrum-{place}", words.table) for place, words in spectra]
    title = clean(contents.title).replace("\\", "/")
    return f"% {title}\n{PREAMBLE}\n" + "\n".join(to_latex(*one) for one in tables)

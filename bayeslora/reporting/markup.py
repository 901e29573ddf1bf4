"""The report as Markdown, with links to figure files, and its tables as LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bayeslora.plain_text import clean
from bayeslora.reporting.blocks import Block, Details, Figure, Finding, Overview, Prose, Record
from bayeslora.reporting.document import Document
from bayeslora.reporting.figures.rendering import FORMATS
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


def render_markdown(document: Document, formats: Sequence[str] = FORMATS[:1]) -> str:
    """Return the report as Markdown; external names are escaped.

    An image is shown if one of the figures' formats is one, else the PDF is linked.
    """
    suffix = next((kind for kind in ("svg", "png") if kind in formats), "pdf")
    parts = [f"# {escape_markdown(document.title)}", escape_markdown(document.facts)]
    if document.view:
        parts.append(f"[Every example, to filter and sort]({document.view})")
    for section in document.sections:
        if not section.page_only:
            parts += [f"## {section.heading}", *_blocks(section.blocks, suffix)]
    return "\n\n".join(parts) + "\n"


def _blocks(blocks: Sequence[Block], suffix: str) -> Iterator[str]:
    for block in blocks:
        yield from filter(None, _block(block, suffix))


def _block(block: Block, suffix: str) -> Iterator[str]:
    """Yield the paragraphs of a block."""
    match block:
        case Prose():
            yield sentence_to_markdown(block.text)
        case Finding():
            yield f"### {sentence_to_markdown(block.topic)}"
            yield "\n".join(f"- {sentence_to_markdown(sentence)}" for sentence in block.sentences)
        case Table():
            yield sentence_to_markdown(block.caption)
            yield to_markdown(block)
            yield sentence_to_markdown(block.notes)
        case Figure():
            mark = "" if suffix == "pdf" else "!"
            yield f"### {block.heading}" if block.heading else ""
            yield block.caption
            for drawing in block.drawings:
                yield f"{mark}[{escape_markdown(drawing.title)}](figures/{drawing.name}.{suffix})"
        case Overview():
            verdict = block.verdict.replace(NAME_START, "").replace(NAME_END, "")  # bold as a whole
            yield f"**{escape_markdown(verdict)}**"
            yield sentence_to_markdown(block.about)
            yield "\n".join(
                f"- {tile.title}: **{tile.value}** ({tile.detail})" for tile in block.tiles
            )
        case Details():
            yield sentence_to_markdown(block.summary)
            yield from _blocks(block.blocks, suffix)
        case Record():
            yield f"### {escape_markdown(block.title)}"
            yield escape_markdown(block.summary)
            rows = ((escape_markdown(key), escape_markdown(text)) for key, text in block.rows)
            yield "\n".join(f"- **{key}**: {text}" for key, text in rows)
        case Term():
            formulas = "; ".join(formula.text for formula in block.formulas)
            words = (
                block.meaning,
                formulas and f"{formulas}.",
                block.source and f"{block.source}.",
            )
            yield f"**{block.name}**: {escape_markdown(' '.join(filter(None, words)))}"


def render_latex(document: Document) -> str:
    """Return all tables of a report."""
    title = clean(document.title).replace("\\", "/")
    return f"% {title}\n{PREAMBLE}\n" + "\n".join(map(to_latex, document.tables))

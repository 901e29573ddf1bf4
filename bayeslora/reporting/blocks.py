"""Building blocks of a report: sections of blocks, rendered as page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bayeslora.reporting.figures.rendering import Drawing
from bayeslora.reporting.findings import Finding
from bayeslora.reporting.glossary import Term
from bayeslora.reporting.overview import Overview
from bayeslora.reporting.run_record import Record
from bayeslora.reporting.tables import Table
from bayeslora.reporting.wrong_answers import Example


@dataclass(frozen=True)
class Prose:
    """A paragraph, with names marked by `text.named`."""

    text: str


@dataclass(frozen=True)
class Figure:
    """Drawings, maybe none, with a caption of at most 25 words and a heading or none."""

    caption: str
    drawings: tuple[Drawing, ...]
    heading: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks folded on the page below a visible line, with names marked by `text.named`.

    `unfolded` ones are open initially, and printed.
    """

    summary: str
    blocks: tuple[Block, ...]
    unfolded: bool = False


Block = Prose | Finding | Table | Figure | Overview | Details | Record | Term | Example
"""A piece of a section; every format has a rule for each of these classes."""


@dataclass(frozen=True)
class Section:
    """A section of a report; an empty one is left out.

    `id` is its anchor on the page and the name of its template block, `short` its title in the
    table of contents, if different from the heading. Texts of examples are `page_only`: not in the
    Markdown.
    """

    id: str
    heading: str
    blocks: tuple[Block, ...]
    short: str = ""
    page_only: bool = False


def walk(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield every block in order, including folded ones."""
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from walk(block.blocks)

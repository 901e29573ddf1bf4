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
    """Drawings with a caption.

    Attributes:
        caption: How to read them, in at most 25 words.
        drawings: The drawings; empty if there is nothing to draw.
        heading: A few words, or empty.
    """

    caption: str
    drawings: tuple[Drawing, ...]
    heading: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks folded on the page.

    Attributes:
        summary: The visible line, with names marked by `text.named`.
        blocks: The folded blocks.
        unfolded: Whether they are unfolded initially, and printed.
    """

    summary: str
    blocks: tuple[Block, ...]
    unfolded: bool = False


Block = Prose | Finding | Table | Figure | Overview | Details | Record | Term | Example
"""A piece of a section; every format has a rule for each of these classes."""


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        id: Its anchor on the page, and the name of its template block.
        heading: Its heading.
        blocks: Its content, in order; an empty section is left out.
        short: Its title in the table of contents, if different from the heading.
        page_only: Whether to leave it out of the Markdown, as for texts of examples.
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

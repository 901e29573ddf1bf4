"""What a report is made of: sections of blocks, which the page, Markdown and LaTeX loop over."""

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
    """A paragraph; names in it are marked by `text.named`."""

    text: str


@dataclass(frozen=True)
class Figure:
    """Drawings with what is said above them.

    Attributes:
        caption: How to read them, in at most 25 words.
        drawings: The drawings; empty where there is nothing to draw.
        heading: A few words, or empty.
    """

    caption: str
    drawings: tuple[Drawing, ...]
    heading: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that the page folds.

    Attributes:
        summary: One line that stays visible; names in it are marked by `text.named`.
        blocks: What is folded.
        unfolded: Whether they show at first, and are printed.
    """

    summary: str
    blocks: tuple[Block, ...]
    unfolded: bool = False


Block = Prose | Finding | Table | Figure | Overview | Details | Record | Term | Example
"""One piece of a section; each format has one rule for each of these classes."""


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        id: Its anchor on the page, and the block of the template that holds it.
        heading: Its heading.
        blocks: What it holds, in order; a section without any is left out.
        short: What the table of contents calls it, where that is not the heading.
        page_only: Whether it is left out of the Markdown, as texts of examples are.
    """

    id: str
    heading: str
    blocks: tuple[Block, ...]
    short: str = ""
    page_only: bool = False


def walk(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield every block, those that are folded too, in order."""
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from walk(block.blocks)

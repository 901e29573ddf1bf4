"""Building blocks of a report: sections of blocks, rendered as page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bayeslora.reporting.figure_style import Panel
from bayeslora.reporting.tables import Table

Kind = Literal["plain", "good", "warning", "open", "advice"]
"""Style of a finding or a badge; `open` if the rows are inconclusive."""


@dataclass(frozen=True)
class Prose:
    """A paragraph, with names marked by `text.named`."""

    text: str


@dataclass(frozen=True)
class Finding:
    """Full sentences on one topic, with names marked by `text.named`.

    `key` is for programs and tests, such as `ranking`, `limits` or `ood`; `kind` is the style.
    """

    key: str
    topic: str
    sentences: tuple[str, ...]
    kind: Kind = "plain"


@dataclass(frozen=True)
class Tile:
    """A number of the first screen as text, with its interval or an explanation."""

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Overview:
    """The first screen: verdict, numbers, and the diagram of a name.

    With several methods the verdict names the method, marked by `text.named`, and `about` says why
    it is shown. The diagram is the reliability
    diagram of that fit or, without labels, the histogram.
    """

    verdict: str
    kind: Kind
    about: str
    tiles: tuple[Tile, ...]
    figure: str
    caption: str


@dataclass(frozen=True)
class Figure:
    """Drawings, maybe none, with a caption of at most 25 words and a heading or none."""

    caption: str
    panels: tuple[Panel, ...]
    heading: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks folded on the page below a visible line, with names marked by `text.named`.

    `unfolded` ones are open initially, and printed.
    """

    summary: str
    blocks: tuple[Block, ...]
    unfolded: bool = False


@dataclass(frozen=True)
class Record:
    """Facts about a method or a run, plain text: names and values, and a summary or none."""

    title: str
    rows: tuple[tuple[str, str], ...]
    summary: str = ""


@dataclass(frozen=True)
class Term:
    """A term and its meaning, plain text, with its formula and who proposed it, if any."""

    name: str
    meaning: str
    formula: str = ""
    source: str = ""


@dataclass(frozen=True)
class Example:
    """A wrongly classified row, as plain text; unknown texts are empty.

    `row` is its id, or its number from 1, `text` its text on one line, or the beginning. `image` is
    a PNG image as a data URI, if the text is the path of one; `options` are letter, text and
    probability of every option of a question.
    """

    row: str
    confidence: str
    predicted: str
    label: str
    label_probability: str
    text: str = ""
    image: str = ""
    options: tuple[tuple[str, str, str], ...] = ()


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


@dataclass(frozen=True)
class Document:
    """A report, independent of its format.

    `facts` is one line under the title; only non-empty sections are in it.
    """

    title: str
    facts: str
    sections: tuple[Section, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table, in order."""
        return tuple(block for block in self._blocks if isinstance(block, Table))

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Every drawn figure, in order."""
        figures = (block for block in self._blocks if isinstance(block, Figure))
        return tuple(panel for figure in figures for panel in figure.panels)

    @property
    def _blocks(self) -> Iterator[Block]:
        return (block for section in self.sections for block in walk(section.blocks))

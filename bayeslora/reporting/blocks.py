"""Building blocks of a report: sections of blocks, rendered as page, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL
from bayeslora.reporting.text import say

if TYPE_CHECKING:
    from bayeslora.reporting.panel import Panel

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
class Column:
    """A column of numbers: heading, arrow, and a second line such as the name of a data set.

    External names are in `detail`, alone if the title is empty. The arrow is `↑` if higher is
    better, `↓` if lower is, `→0` if zero is best, or empty.
    """

    title: str
    arrow: str = ""
    detail: str = ""

    @property
    def title_and_arrow(self) -> str:
        """First line of the heading."""
        return f"{self.title} {self.arrow}".strip()


@dataclass(frozen=True)
class Cell:
    """A value with its interval and p-values, or the uncertainty it was judged by, as text.

    All may be empty. `best` marks the best of its column and those tied with it.
    """

    value: str = ""
    interval: str = ""
    best: bool = False
    p: str = ""

    @property
    def below(self) -> tuple[str, str]:
        """Lines below the value."""
        return self.interval, self.p


@dataclass(frozen=True)
class Row:
    """Headings of a row, one per column of headings, and its cells."""

    headings: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def lines_below(self) -> list[list[str]]:
        """Lines below the values of all cells, without empty lines."""
        lines = [list(line) for line in zip(*(cell.below for cell in self.cells), strict=True)]
        return [line for line in lines if any(line)]


@dataclass(frozen=True)
class Table:
    """A table, with a name of letters, digits and hyphens for its anchors in a report.

    The caption says what it holds, in at most 25 words, with names marked by `text.named`; the
    notes how the numbers were computed and how to read them, folded on the page. `headings` are the
    titles of the columns of row headings, before those of numbers. Rows of a table that is not
    `sortable` are not comparable.
    """

    caption: str
    headings: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: str = ""
    name: str = ""
    sortable: bool = True

    @property
    def spans(self) -> list[int]:
        """Number of rows that each row's first heading spans; 0 if an earlier heading spans it."""
        if len(self.headings) < 2:
            return [1] * len(self.rows)
        firsts = groupby(self.rows, key=lambda row: row.headings[0])
        lengths = [len(list(run)) for _, run in firsts]
        return [span for length in lengths for span in (length, *[0] * (length - 1))]

    def called(self, name: str) -> Table:
        """Return the table with a name, and a note on missing intervals if a cell has none."""
        if any(cell.interval == NO_INTERVAL for row in self.rows for cell in row.cells):
            notes = f"{self.notes} {say('no_interval_note', least=LEAST_ROWS)}".strip()
            return replace(self, name=name, notes=notes)
        return replace(self, name=name)

    def part(self, rows: slice = slice(None), columns: slice = slice(None)) -> Table:
        """Return the table with some of its rows and columns of numbers."""
        chosen = tuple(replace(row, cells=row.cells[columns]) for row in self.rows[rows])
        return replace(self, columns=self.columns[columns], rows=chosen)

    @property
    def has_second_line(self) -> bool:
        """Whether a heading of numbers has both a title and a detail."""
        return any(column.title and column.detail for column in self.columns)

    def transposed(self, heading: str) -> Table:
        """Return the table with a row per column, below `heading`, and a column per row."""
        rows = tuple(
            Row((f"{column.title_and_arrow} {column.detail}".strip(),), cells)
            for column, cells in zip(
                self.columns, zip(*(row.cells for row in self.rows), strict=True), strict=True
            )
        )
        columns = tuple(Column("", detail=row.headings[0]) for row in self.rows)
        return replace(self, headings=(heading,), columns=columns, rows=rows, sortable=False)


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
    """Facts about a method or a run, plain text: names and values."""

    title: str
    rows: tuple[tuple[str, str], ...]


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
    def blocks(self) -> list[Block]:
        """Every block, in order."""
        return [block for section in self.sections for block in walk(section.blocks)]

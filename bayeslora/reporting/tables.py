r"""The model of a table, rendered as Markdown or aligned text, and by templates.

LaTeX uses the package booktabs. A table is a `table` environment to `\input`: intervals are small
and below their values, and bold marks the same values as on the page. External names are escaped.
pdfLaTeX supports Latin letters; names in other scripts need LuaLaTeX or XeLaTeX and a suitable
font.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL
from bayeslora.plain_text import display_columns
from bayeslora.reporting.text import NAME_END, NAME_START, pad, say


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

    @property
    def name(self) -> str:
        """Title and detail."""
        return f"{self.title} {self.detail}".strip()


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


def to_markdown(table: Table) -> str:
    """Return a pipe table, with the best values in bold and markup in names escaped."""
    rule = ["---"] * len(table.headings) + ["---:"] * len(table.columns)
    head, *rows = _single_lines(table, "**{}**", escape_markdown)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def _single_lines(table: Table, best: str, escape: Callable[[str], str] = str) -> list[list[str]]:
    """Return the headings and every row as cells of one line, in the order of the table.

    `best` is the format of the best values; `escape` formats external names.
    """
    titles = (f"{column.title_and_arrow} {escape(column.detail)}" for column in table.columns)
    lines = [[*table.headings, *(title.strip() for title in titles)]]
    for row in table.rows:
        cells = (
            (best.format(cell.value) if cell.best else cell.value, *cell.below)
            for cell in row.cells
        )
        lines.append([*map(escape, row.headings), *(" ".join(filter(None, c)) for c in cells)])
    return lines


def to_text(table: Table, *, sparse: bool = False) -> str:
    """Return aligned columns for a terminal, with intervals and p below and stars at best values.

    `sparse` is for programs: one line of titles, no rule, and one line per row, with intervals and
    p beside the values.
    """
    if sparse:
        return _aligned_lines(_single_lines(table, "{}*"), len(table.headings))
    starred = any(cell.best for row in table.rows for cell in row.cells)
    if table.has_second_line:
        titles = [column.title_and_arrow for column in table.columns]
        details = [column.detail for column in table.columns]
        head = [[*table.headings, *titles], [*("" for _ in table.headings), *details]]
    else:
        titles = [column.title_and_arrow or column.detail for column in table.columns]
        head = [[*table.headings, *titles]]
    body: list[list[str]] = []
    for row in table.rows:
        body.append([*row.headings, *(cell.value + "*" * cell.best for cell in row.cells)])
        body += [["" for _ in row.headings] + line for line in row.lines_below]
    left = len(table.headings)
    lines = [
        [
            cell if index < left or cell.endswith("*") or not starred else f"{cell} "
            for index, cell in enumerate(line)
        ]
        for line in (*head, *body)
    ]
    return _aligned_lines(lines, left, ruled_after=len(head))


def _aligned_lines(lines: Sequence[Sequence[str]], left: int, ruled_after: int = 0) -> str:
    """Align lines of cells as columns, the first `left` of them to the left."""
    widths = [max(map(display_columns, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            pad(cell, width, right=index >= left)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    if ruled_after:
        text.insert(ruled_after, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in text)


def escape_markdown(text: str) -> str:
    """Escape `text` so that Markdown shows it verbatim."""
    return text.translate(_MARKDOWN)


def sentence_to_markdown(text: str) -> str:
    """Return a sentence with names in bold."""
    return escape_markdown(text).replace(NAME_START, "**").replace(NAME_END, "**")


_MARKDOWN = str.maketrans(
    {char: f"\\{char}" for char in "\\`*_{}[]#|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)

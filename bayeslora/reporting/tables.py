"""One model of a table, as Markdown or aligned text; the page's template reads it as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bayeslora.reporting.text import display_columns, pad


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        title: Heading without the arrow.
        arrow: `↑` where more is better, `↓` where less is, `→0` where zero is; empty for none.
        detail: What else tells the column from others, such as the name of a data set.
    """

    title: str
    arrow: str = ""
    detail: str = ""

    @property
    def heading(self) -> str:
        """Title, detail and arrow."""
        return " ".join(filter(None, (self.title, self.detail, self.arrow)))


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        value: The number as text; empty where there is none.
        interval: Its interval as text; empty where there is none.
        best: Whether it is the best of its column or cannot be told from the best.
    """

    value: str = ""
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """Headings of a row, one for each column of headings, and its cells."""

    headings: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What the table says and how to read it.
        headings: Titles of the columns of row headings.
        columns: Columns of numbers.
        rows: Rows in the order they are shown.
    """

    caption: str
    headings: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def spans(self) -> list[int]:
        """For each row, how many rows its first heading covers: 0 where an earlier one's does."""
        starts = [
            index
            for index, row in enumerate(self.rows)
            if index == 0 or len(self.headings) < 2 or row.headings[0] != self._first(index - 1)
        ]
        spans = [0] * len(self.rows)
        for start, end in pairwise([*starts, len(self.rows)]):
            spans[start] = end - start
        return spans

    def _first(self, index: int) -> str:
        return self.rows[index].headings[0]


def to_markdown(table: Table) -> str:
    """Return a pipe table; values in bold where they are best, markup in names escaped."""
    head = [*table.headings, *(column.heading for column in table.columns)]
    rule = ["---"] * len(table.headings) + ["---:"] * len(table.columns)
    lines = [_pipes(head), _pipes(rule)]
    for row in table.rows:
        names = [escape_markdown(name) for name in row.headings]
        lines.append(_pipes([*names, *(_markdown_cell(cell) for cell in row.cells)]))
    return "\n".join(lines)


def to_text(table: Table) -> str:
    """Return aligned columns for a terminal; a star marks the best values."""
    starred = any(cell.best for row in table.rows for cell in row.cells)
    body = [
        [*row.headings, *(_text_cell(cell, starred) for cell in row.cells)] for row in table.rows
    ]
    gap = " " if starred else ""
    head = [*table.headings, *(column.heading + gap for column in table.columns)]
    widths = [max(map(display_columns, column)) for column in zip(head, *body, strict=True)]
    left = len(table.headings)
    lines = [_aligned(line, widths, left) for line in (head, *body)]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def escape_markdown(text: str) -> str:
    """Return `text` so that Markdown shows every character of it as it is."""
    escaped = "".join(f"\\{char}" if char in _MARKDOWN else char for char in text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_MARKDOWN = frozenset("\\`*_{}[]()#+-!|~$")


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return f"{value} {cell.interval}".strip()


def _text_cell(cell: Cell, starred: bool) -> str:
    mark = ("*" if cell.best else " ") if starred else ""
    return f"{cell.value} {cell.interval}".strip() + mark


def _aligned(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    return "  ".join(
        pad(cell, width, right=index >= left)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )

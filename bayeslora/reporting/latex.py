r"""Tables for LaTeX papers, with the rules of the package booktabs.

A table is a `table` environment to `\input`: the intervals stand small under their values, bold
marks what the page marks. Names from outside show as they are. pdfLaTeX knows Latin letters; names
in other scripts need LuaLaTeX or XeLaTeX and a font that has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bayeslora.plain_text import clean
from bayeslora.reporting.contents import Contents
from bayeslora.reporting.tables import Cell, Column, Row, Table
from bayeslora.reporting.text import NAME_END, NAME_START

PREAMBLE = "% In the preamble: \\usepackage{booktabs}\n"

MOST_COLUMNS = 4
"""Columns of numbers beside each other, so that a long name fits a page as well."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"{}\char96{}",
    "\N{NO-BREAK SPACE}": "~",
    "…": r"\ldots{}",
    "−": "$-$",
    "–": r"\textendash{}",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
_ESCAPES = str.maketrans(_SPECIAL)
_LIGATURES = re.compile(r"-(?=-)|,(?=,)|'(?=')")


def escape_latex(text: str) -> str:
    """Return `text` so that LaTeX shows every character of it as it is."""
    return _LIGATURES.sub(r"\g<0>{}", text.translate(_ESCAPES))


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


def to_latex(name: str, table: Table) -> str:
    """Return a `table` environment; columns that a page is too narrow for follow below.

    Args:
        name: End of its label, `tab:bayeslora-<name>`.
        table: What it shows.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_sentence(table.caption)}}}",
        rf"\label{{tab:bayeslora-{name}}}",
        r"\setlength{\tabcolsep}{3pt}\footnotesize\par\medskip",
        "\n\\par\\medskip\n".join(map(_tabular, _parts(table))),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _parts(table: Table) -> Iterator[Table]:
    """Yield the table in parts of about equally many columns."""
    columns = range(len(table.columns))
    parts = max(1, -(-len(columns) // MOST_COLUMNS))
    size = max(1, -(-len(columns) // parts))
    yield from (table.with_columns(columns[start : start + size]) for start in columns[::size])


def _tabular(table: Table) -> str:
    aligned = "l" * len(table.headings) + "r" * len(table.columns)
    lines = [
        rf"\begin{{tabular}}{{{aligned}}}",
        r"\toprule",
        *_heading(table),
        r"\midrule",
        *_body(table),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _heading(table: Table) -> Iterator[str]:
    yield _cells([*map(_group, table.headings), *map(_column, table.columns)])
    if any(column.detail for column in table.columns):
        empty = [""] * len(table.headings)
        yield _cells([*empty, *(_small(column.detail) for column in table.columns)])


def _body(table: Table) -> Iterator[str]:
    for row, span in zip(table.rows, table.spans, strict=True):
        yield from _row(row, repeated=span == 0)


def _row(row: Row, *, repeated: bool) -> Iterator[str]:
    first, *others = map(_group, row.headings)
    yield _cells(["" if repeated else first, *others, *map(_value, row.cells)])
    for line in row.lines_below:
        yield _cells([*("" for _ in row.headings), *map(_small, line)])
    if row.lines_below:
        yield r"\addlinespace[2pt]"


def _cells(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _group(text: str) -> str:
    r"""Return a text in braces: after `\\`, a star or a bracket would belong to that command."""
    return f"{{{escape_latex(text)}}}" if text else ""


def _column(column: Column) -> str:
    return escape_latex(column.title_and_arrow)


def _small(text: str) -> str:
    return rf"{{\scriptsize {escape_latex(text)}}}" if text else ""


def _value(cell: Cell) -> str:
    value = escape_latex(cell.value)
    return rf"\textbf{{{value}}}" if cell.best else value


def _sentence(text: str) -> str:
    return escape_latex(text.replace(NAME_START, "").replace(NAME_END, ""))

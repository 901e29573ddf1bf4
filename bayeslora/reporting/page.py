"""A report as one self-contained HTML page, as Markdown, and its tables as LaTeX, by templates.

The page needs no network or other files. Its only script sorts tables, and its
Content-Security-Policy allows this script by its hash, and no other. Jinja2 escapes every text of
a page; the other templates escape names by the filters `md` and `tex`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bayeslora._version import __version__
from bayeslora.errors import unknown_choice
from bayeslora.io import atomic_file, check_writable, refuse_existing
from bayeslora.metrics.compare import Comparison
from bayeslora.plain_text import clean
from bayeslora.reporting.blocks import Block, Document, Table
from bayeslora.reporting.score_tables import difference_table
from bayeslora.reporting.text import NAME_END, NAME_START, brief, plain, score_words, shown

if TYPE_CHECKING:
    from jinja2 import Environment

_ASSETS = files("bayeslora.reporting").joinpath("templates")


def render_page(document: Document) -> str:
    """Return the page."""
    return render("report.html.j2", {"page": document}, script="report.js", styles=("report.css",))


def render_markdown(document: Document, formats: Sequence[str]) -> str:
    """Return the report as Markdown.

    An image is shown if one of the figures' formats is one, else the PDF is linked.
    """
    suffix = next((kind for kind in ("svg", "png") if kind in formats), "pdf")
    return render_text("report.md.j2", page=document, suffix=suffix) + "\n"


def render_text(name: str, **values: object) -> str:
    """Return the Markdown that a template makes of values, without repeated blank lines."""
    text = _environment().get_template(name).render(version=__version__, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


PREAMBLE = "% In the preamble: \\usepackage{booktabs}\n"


def render_latex(document: Document) -> str:
    """Return all tables of a report."""
    title = clean(document.title).replace("\\", "/")
    tables = [block for block in document.blocks if isinstance(block, Table)]
    return f"% {title}\n{PREAMBLE}\n" + "\n".join(map(to_latex, tables))


def render(name: str, values: Mapping[str, Any], *, script: str, styles: Sequence[str]) -> str:
    """Return the HTML page that a template makes of `values`, with a script and style sheets."""
    code, style = asset(script), "\n".join(map(asset, styles))
    about = {"script": code, "style": style, "policy": content_policy(code), **values}
    page = _environment().get_template(name).render(version=__version__, **about)
    return page.rstrip() + "\n"


def content_policy(script: str) -> str:
    """Return the Content-Security-Policy of a page with one script, passed verbatim.

    Images are part of the page; `unsafe-inline` loads nothing for styles.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    """Return a template, style sheet or script."""
    return _ASSETS.joinpath(name).read_text(encoding="utf-8").strip()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

    jinja = Environment(
        loader=FunctionLoader(asset),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {
        "names": _names,
        "breakable": _breakable,
        "md": escape_markdown,
        "sentence": sentence_to_markdown,
        "plain": plain,
        "pipes": to_markdown,
        "tex": escape_latex,
        "brief": brief,
        "score_words": score_words,
        "shown": shown,
        "runs": _runs,
    }
    return jinja


def _runs(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Return consecutive blocks of the same class, with the name of the class."""
    return [(kind.__name__, list(run)) for kind, run in groupby(blocks, key=type)]


def _names(sentence: str) -> Markup:
    """Escape a sentence, keep percent signs with their numbers, and mark up names."""
    spaced = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", sentence)
    opened = escape(spaced).replace(NAME_START, Markup('<bdi class="name">'))
    return opened.replace(NAME_END, Markup("</bdi>"))


def _breakable(name: str) -> Markup:
    """Escape a name, which may then be broken behind its separators."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/:-])(?=.)", name))


def to_markdown(table: Table) -> str:
    """Return a pipe table, with the best values in bold and markup in names escaped."""
    titles = [
        f"{column.title_and_arrow} {escape_markdown(column.detail)}" for column in table.columns
    ]
    lines = [
        [*table.headings, *map(str.strip, titles)],
        ["---"] * len(table.headings) + ["---:"] * len(table.columns),
    ]
    for row in table.rows:
        cells = [
            (f"**{cell.value}**" if cell.best else cell.value, *cell.below) for cell in row.cells
        ]
        headings = map(escape_markdown, row.headings)
        lines.append([*headings, *(" ".join(filter(None, cell)) for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_MARKDOWN = str.maketrans(
    {char: f"\\{char}" for char in "\\`*_{}[]#|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


def escape_markdown(text: str) -> str:
    """Escape `text` so that Markdown shows it verbatim."""
    return text.translate(_MARKDOWN)


def sentence_to_markdown(text: str) -> str:
    """Return a sentence with names in bold."""
    return escape_markdown(text).replace(NAME_START, "**").replace(NAME_END, "**")


MOST_COLUMNS = 4
"""Most columns of numbers side by side in LaTeX, to leave room for a long name."""

MOST_LINES = 40
"""Most lines of a table in LaTeX, to leave room for its caption; a longer one continues."""


def to_latex(table: Table) -> str:
    """Return a `table` environment with the label `tab:bayeslora-<name>`.

    Columns beyond the width of a page follow below, rows beyond its height in further environments.
    """
    columns = _slices(len(table.columns), MOST_COLUMNS)
    lines_per_row = 1 + max((len(row.lines_below) for row in table.rows), default=0)
    rows = _slices(len(table.rows), max(1, (MOST_LINES // len(columns) - 2) // lines_per_row))
    parts = [[table.part(some, across) for across in columns] for some in rows]
    words = f"{table.caption} {table.notes}".strip()
    text = _environment().get_template("table.tex.j2").render(table=table, parts=parts, words=words)
    return text.rstrip() + "\n"


def _slices(count: int, most: int) -> list[slice]:
    return [slice(start, start + most) for start in range(0, max(count, 1), most)]


_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{char: f"\\{char}" for char in "{}#$%&_"},
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
)
_LIGATURES = re.compile(r"-(?=-)|,(?=,)|'(?=')")


def escape_latex(text: str) -> str:
    """Escape `text` so that LaTeX shows it verbatim."""
    return _LIGATURES.sub(r"\g<0>{}", text.translate(_ESCAPES))


def write_comparison(comparison: Comparison, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the table of `compare` atomically as Markdown or LaTeX, and return the file.

    Args:
        comparison: The paired differences.
        out: A `.md` or `.tex` file.
        overwrite: Whether a file may be replaced.

    Raises:
        InputError: The suffix is another, or `out` exists and may not be replaced, or cannot be
            written.
    """
    target = Path(out)
    if target.suffix not in (".md", ".tex"):
        raise unknown_choice("ending of a comparison's file", target.suffix, (".md", ".tex"))
    check_writable(target)
    refuse_existing(target, overwrite=overwrite)
    table = difference_table(comparison).called("differences")
    text = f"{PREAMBLE}\n{to_latex(table)}"
    if target.suffix == ".md":
        words = sentence_to_markdown(f"{table.caption} {table.notes}".strip())
        text = f"{words}\n\n{to_markdown(table)}\n"
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return target

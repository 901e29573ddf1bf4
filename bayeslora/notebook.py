"""A small HTML table, for notebooks.

It stands beside the scores because it may need nothing above them: no figure, no template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table_html(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names its rows; all text is escaped."""
    body = "".join(_row(first, rest) for first, *rest in rows)
    return (
        f'<table class="bayeslora-scores"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{_cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
    )


def _row(first: str, rest: Sequence[str]) -> str:
    return f"<tr>{_cells('th', [first])}{_cells('td', rest)}</tr>"


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)

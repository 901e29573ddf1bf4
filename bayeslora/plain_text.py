r"""Safe display of text from files and arguments.

A name or a path can hold anything: escape sequences that control a terminal, line breaks that forge
a second message, marks that reorder or hide letters, 100,000 characters. `visible` replaces all
invisible characters by escapes such as `\x1b` or `\u200b`; `one_line` also limits the length.

`table_html` returns a small table of such texts for a notebook. It is here, below figures and
templates, because scores use it too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

LONGEST_MESSAGE = 2000
"""Characters of a message on a terminal: about twenty lines; more would hide the problem."""

LABEL_COLUMNS = 28
"""Widest label in tables and figures, in columns of a terminal."""

_SUSPECT = re.compile(r"[^ -~]+")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NO_TEXT = "\ufffe\uffff"  # not allowed in XML
# Persian, Indic scripts and emoji need them.
_JOINERS = "\u200c\u200d"


def visible(text: str, keep: str = "") -> str:
    r"""Return `text` with invisible characters replaced by escapes.

    These are control and format characters (such as direction marks), line separators and
    surrogates.

    Args:
        text: Any text.
        keep: Control characters to keep, such as a line feed between our own lines.

    Example:
        >>> print(visible("café\x1b[2J"))
        café\x1b[2J
    """
    return _SUSPECT.sub(lambda run: _escaped(run[0], keep), text)


def one_line(text: str) -> str:
    """Return a message as one visible line of at most about `LONGEST_MESSAGE` characters."""
    line, end = visible(text), LONGEST_MESSAGE // 4
    is_short = len(line) <= LONGEST_MESSAGE
    return line if is_short else f"{line[: LONGEST_MESSAGE - end - 1]}…{line[-end:]}"


def _escaped(run: str, keep: str) -> str:
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if char in _NO_TEXT
        or (unicodedata.category(char) in _HIDDEN and char not in keep + _JOINERS)
        else char
        for char in run
    )


def quoted(name: str) -> str:
    """Return a name in quotation marks, with escapes for invisible characters.

    `repr` would escape the backslashes of an already escaped label again.
    """
    return f"'{visible(name)}'"


def clean(text: str) -> str:
    r"""Return `text` on one line, with escapes such as `\u202e` for invisible characters."""
    return visible(" ".join(text.split())) or "unnamed"


def counted(count: int, noun: str) -> str:
    """Return `1 row`, `600 rows`, `1,000,000 rows`, `2 classes`, `1 epoch`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def duration(seconds: float) -> str:
    """Return a rounded time as text: `20 s`, `7 min`, `3 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"


def display_columns(text: str) -> int:
    """Return the number of terminal columns of `text`: two for wide characters, none for marks."""
    return sum(_char_columns(char) for char in text)


def shorten(text: str, columns: int = LABEL_COLUMNS, *, middle: bool = False) -> str:
    """Return `text`, shortened to `columns` with an ellipsis if it is wider.

    Args:
        text: Any text.
        columns: Maximum number of terminal columns.
        middle: Cut out the middle, which distinguishes names that differ at the end.
    """
    if display_columns(text) <= columns:
        return text
    tail = _beginning(text[::-1], (columns - 1) // 2)[::-1].lstrip() if middle else ""
    return f"{_beginning(text, columns - 1 - display_columns(tail)).rstrip()}…{tail}"


def as_label(text: str, columns: int = LABEL_COLUMNS) -> str:
    """Return external text for one line: cleaned, and shortened to `columns`."""
    return shorten(clean(text), columns)


def _beginning(text: str, columns: int) -> str:
    """Return the longest prefix of `text` that is not wider than `columns`."""
    used = 0
    for position, char in enumerate(text):
        used += _char_columns(char)
        if used > columns:
            return text[:position]
    return text


def _char_columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


_WIDTH = 60


def shown(value: object) -> str:
    """Return the `repr` of a value, cut to 60 characters."""
    if isinstance(value, str | bytes):
        value = value[:_WIDTH]  # the `repr` of megabytes of text takes seconds
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # deep nesting, or an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def listed(names: Sequence[str]) -> str:
    """Return names in quotation marks, separated by commas; at most the first eight."""
    rest = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(map(shown, names[:8])) + rest


def table_html(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table whose first column names its rows, with all text escaped."""
    body = "".join(_row(first, rest) for first, *rest in rows)
    return (
        f'<table class="bayeslora-scores"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{_cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
    )


def _row(first: str, rest: Sequence[str]) -> str:
    return f"<tr>{_cells('th', [first])}{_cells('td', rest)}</tr>"


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)

"""The formats of figure files: SVG, and the same drawing as PNG or PDF.

SVG keeps a name as text, which a browser shapes. In PNG and PDF matplotlib draws the letters, in
the one font that comes with it: a character that the font lacks shows as �, and letters that run
from right to left are neither joined nor reordered.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.reporting.svg import Drawing, Panel, drawing_style, filled, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.ft2font import FT2Font

FORMATS = ("svg", "png", "pdf")
"""Formats of figure files; the first is the default."""

DOTS_PER_INCH = 300
"""Resolution of PNG files."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_AS_TEXT: Any = {"pdf.fonttype": 42}  # text in the PDF can be searched and copied


def check_formats(figures: Sequence[str]) -> tuple[str, ...]:
    """Return the formats of figure files without repetition, in the order given.

    Raises:
        InputError: None is given, or one is unknown.
    """
    if isinstance(figures, str):
        figures = (figures,)
    for one in figures:
        if one not in FORMATS:
            raise unknown_choice("figure format", one, FORMATS)
    if not figures:
        raise InputError(f"figures names no format; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(figures))


def render_files(panel: Panel, formats: Sequence[str] = FORMATS[:1]) -> Drawing:
    """Return the panel as SVG for the page, with its files in the formats asked for."""
    drawing = render(panel)
    files = {
        one: drawing.standalone.encode() if one == "svg" else _raster_or_pdf(panel, one)
        for one in formats
    }
    return replace(drawing, files=files)


def _raster_or_pdf(panel: Panel, kind: str) -> bytes:
    from matplotlib import rc_context

    about: dict[str, Any] = {"Title": panel.title}
    if kind == "png":
        about |= {"Description": panel.description, "Software": None}
    else:
        about |= {"Subject": panel.description, "Creator": None, "Producer": None}
        about |= {"CreationDate": None}
    buffer = io.BytesIO()
    with drawing_style(), rc_context(_AS_TEXT), _names_in_place(panel):
        panel.figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=about)
    return buffer.getvalue()


@contextmanager
def _names_in_place(panel: Panel) -> Iterator[None]:
    """Fill the slots of the figure's texts as plain text, and take the names out again."""
    from matplotlib.text import Text

    before = [(text, text.get_text()) for text in panel.figure.findobj(Text)]
    for text, words in before:
        text.set_parse_math(False)
        text.set_text(_drawable(filled(words, panel.texts)))
    try:
        yield
    finally:
        for text, words in before:
            text.set_text(words)


def _drawable(words: str) -> str:
    font = _font()
    return "".join(char if font.get_char_index(ord(char)) else _REPLACEMENT for char in words)


@cache
def _font() -> FT2Font:
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont("DejaVu Sans"))

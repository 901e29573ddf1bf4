"""Matplotlib figures as SVG elements for a page, and as SVG, PNG or PDF files.

Matplotlib only draws text chosen by this package. External names replace short slots afterwards,
escaped: they cannot be read as formulas, lack a glyph or break the page. The same figure gives the
same bytes on every run.

SVG keeps a name as text, which a browser shapes. In PNG and PDF matplotlib draws the letters in its
bundled font: missing characters show as �, and right-to-left letters are neither joined nor
reordered.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.reporting.text import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bayeslora",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "axes.labelpad": 2.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "hatch.linewidth": 0.7,
    "text.parse_math": False,
    "path.simplify": False,
    "figure.facecolor": "white",
}


def drawing_style() -> AbstractContextManager[None]:
    """Return a context with matplotlib's defaults and the package's settings.

    Settings of a user or a notebook (fonts, TeX, a style sheet) have no effect and are preserved.
    """
    from matplotlib import style

    return style.context(["default", _STYLE])


@dataclass(frozen=True)
class Panel:
    """A drawn figure.

    `name` is the stem of its file, unique in a report: letters, digits and hyphens. `description`
    says what it shows in words and numbers, for people who cannot see it. `texts` maps the slots in
    the figure's texts, letters and digits only, to the names that fill them.
    """

    name: str
    figure: Figure
    title: str
    description: str
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawing:
    """A panel as text: a complete SVG file, the same as an element for a page, files by format."""

    name: str
    title: str
    standalone: str
    inline: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def render(panel: Panel) -> Drawing:
    """Render the panel as SVG, with identifiers prefixed by its name."""
    buffer = io.BytesIO()
    with drawing_style():
        panel.figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    body = buffer.getvalue().decode("utf-8")
    body = body[body.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # The default style would apply to the whole page; the root element sets it instead.
    body = re.sub(r"\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = compact(_own_identifiers(body, panel.name))
    body = filled(body, panel.texts, lambda name: escape(named(name)))
    end = body.index(">") + 1
    box = re.findall(r'viewBox="([^"]+)"', body[:end])[0]
    width, height = box.split()[2:]
    root = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{box}" width="{width}pt" height="{height}pt" role="img"'
        f' aria-labelledby="{panel.name}-title {panel.name}-desc"'
        f' style="stroke-linejoin: round; stroke-linecap: butt; font-family: {FONTS}">\n'
        f'<title id="{panel.name}-title">{escape(panel.title)}</title>\n'
        f'<desc id="{panel.name}-desc">{escape(panel.description)}</desc>'
    )
    body = root + body[end:]
    inline = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body, count=2)
    declaration = '<?xml version="1.0" encoding="utf-8" standalone="no"?>\n'
    return Drawing(panel.name, panel.title, declaration + body, inline)


def filled(text: str, texts: Mapping[str, str], form: Callable[[str], str] = str) -> str:
    """Fill all slots in one pass, so that names that look like slots are unchanged.

    `texts` maps a slot to the name that fills it, which `form` formats.
    """
    if not texts:
        return text
    slots = re.compile("|".join(re.escape(slot) for slot in texts))
    return slots.sub(lambda match: form(texts[match[0]]), text)


def _own_identifiers(body: str, prefix: str) -> str:
    referenced = set(re.findall(r"url\(#([^)]+)\)", body))
    referenced |= set(re.findall(r'xlink:href="#([^"]+)"', body))

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in referenced else ""

    body = re.sub(r' id="([^"]+)"', rename, body)
    body = body.replace("url(#", f"url(#{prefix}-")
    return body.replace('xlink:href="#', f'xlink:href="#{prefix}-')


FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"
"""Fonts of all texts, set once at the root: the font of the layout, then wide ones."""

_COORDINATES = re.compile(r' (?:d|x|y)="[^"]*"')
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_NO_TURN = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_OWN_FONT = re.compile(r" font-family: 'DejaVu Sans'[^;\"]*;?")


def compact(body: str) -> str:
    """Return matplotlib's SVG, without external names, without long numbers, blanks and fonts."""

    def shortened(attribute: re.Match[str]) -> str:
        # A hundredth of a point is what no screen or printer resolves.
        short = _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", attribute[0])
        return re.sub(r"\s+(?=\")", "", short.replace("\n", " "))

    body = _NO_TURN.sub("", _COORDINATES.sub(shortened, body))
    return _OWN_FONT.sub("", re.sub(r">\s+<", "><", body))


FORMATS = ("svg", "png", "pdf")
"""Formats of figure files; the first is the default."""

DOTS_PER_INCH = 300
"""Resolution of PNG files."""

_AS_TEXT: Any = {"pdf.fonttype": 42}  # text in the PDF can be searched and copied


def check_formats(figures: Sequence[str]) -> tuple[str, ...]:
    """Return the formats of figure files without duplicates, in the original order.

    Raises:
        InputError: There is no format, or a format is unknown.
    """
    if isinstance(figures, str):
        figures = (figures,)
    for kind in figures:
        if kind not in FORMATS:
            raise unknown_choice("figure format", kind, FORMATS)
    if not figures:
        raise InputError(f"figures names no format; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(figures))


def render_files(panel: Panel, formats: Sequence[str] = FORMATS[:1]) -> Drawing:
    """Render the panel as SVG for the page, and its files in the requested formats."""
    drawing = render(panel)
    files = {
        kind: drawing.standalone.encode() if kind == "svg" else _raster_or_pdf(panel, kind)
        for kind in formats
    }
    return replace(drawing, files=files)


def _raster_or_pdf(panel: Panel, kind: str) -> bytes:
    from matplotlib import rc_context

    about: dict[str, Any] = {"Subject": panel.description, "Creator": None, "Producer": None}
    about["CreationDate"] = None
    if kind == "png":
        about = {"Description": panel.description, "Software": None}
    buffer = io.BytesIO()
    with drawing_style(), rc_context(_AS_TEXT), _names_in_place(panel):
        panel.figure.savefig(
            buffer, format=kind, dpi=DOTS_PER_INCH, metadata={"Title": panel.title, **about}
        )
    return buffer.getvalue()


@contextmanager
def _names_in_place(panel: Panel) -> Iterator[None]:
    """Fill the slots of the figure's texts as plain text, and restore the slots on exit."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    font = get_font(findfont("DejaVu Sans"))
    originals = [(text, text.get_text()) for text in panel.figure.findobj(Text)]
    for text, words in originals:
        letters = filled(words, panel.texts)
        drawn = (c if font.get_char_index(ord(c)) else "\N{REPLACEMENT CHARACTER}" for c in letters)
        text.set_parse_math(False)
        text.set_text("".join(drawn))
    try:
        yield
    finally:
        for text, words in originals:
            text.set_text(words)

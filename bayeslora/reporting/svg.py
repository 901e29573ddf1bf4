"""Matplotlib figures as SVG text that can stand in a page beside others, and read aloud.

Matplotlib only ever draws text that this package chose. Names from outside are put in afterwards,
escaped, in place of short slots: so they cannot be taken for formulas, cannot lack a glyph and
cannot break the page. The same figure gives the same bytes on every run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from bayeslora.reporting.text import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bayeslora",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
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
    """Return a context in which the package's matplotlib settings hold, and no others change."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


@dataclass(frozen=True)
class Panel:
    """One drawn figure.

    Attributes:
        name: Stem of its file, unique in a report, of letters, digits and hyphens.
        figure: What matplotlib drew.
        title: What the figure is, in a few words.
        description: What it shows, in words and numbers, for people who cannot see it.
        texts: Slots in the figure's texts (letters and digits only), and the names that fill
            them.
    """

    name: str
    figure: Figure
    title: str
    description: str
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawing:
    """A panel as text.

    Attributes:
        name: Stem of its file.
        title: What it is, in a few words.
        standalone: A complete SVG file.
        inline: The same as an element for an HTML page.
    """

    name: str
    title: str
    standalone: str
    inline: str


def render(panel: Panel) -> Drawing:
    """Return the panel as SVG, with identifiers that start with its name."""
    buffer = io.BytesIO()
    with drawing_style():
        panel.figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    body = buffer.getvalue().decode("utf-8")
    body = body[body.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # The default style would apply to the whole page; the root element passes it down instead.
    body = re.sub(r"\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = body.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, Arial, sans-serif")
    body = _own_identifiers(body, panel.name)
    body = _with_names(body, panel.texts)
    body = _with_root(body, panel)
    inline = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body, count=2)
    declaration = '<?xml version="1.0" encoding="utf-8" standalone="no"?>\n'
    return Drawing(panel.name, panel.title, declaration + body, inline)


def _own_identifiers(body: str, prefix: str) -> str:
    referenced = set(re.findall(r"url\(#([^)]+)\)", body))
    referenced |= set(re.findall(r'xlink:href="#([^"]+)"', body))

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in referenced else ""

    body = re.sub(r' id="([^"]+)"', rename, body)
    body = body.replace("url(#", f"url(#{prefix}-")
    return body.replace('xlink:href="#', f'xlink:href="#{prefix}-')


def _with_names(body: str, texts: Mapping[str, str]) -> str:
    """Fill all slots in one pass, so that a name that reads like a slot stays a name."""
    if not texts:
        return body
    slots = re.compile("|".join(re.escape(slot) for slot in texts))
    return slots.sub(lambda match: escape(named(texts[match[0]])), body)


def _with_root(body: str, panel: Panel) -> str:
    start, end = body.index("<svg"), body.index(">") + 1
    box = re.search(r'viewBox="([^"]+)"', body[start:end])
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    width, height = box[1].split()[2:]
    root = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{box[1]}" width="{width}pt" height="{height}pt" role="img"'
        f' aria-labelledby="{panel.name}-title {panel.name}-desc"'
        ' style="stroke-linejoin: round; stroke-linecap: butt">\n'
        f'<title id="{panel.name}-title">{escape(panel.title)}</title>\n'
        f'<desc id="{panel.name}-desc">{escape(panel.description)}</desc>'
    )
    return root + body[end:]

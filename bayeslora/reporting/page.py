"""The report as one HTML page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import re
from importlib.resources import files

from markupsafe import Markup, escape

from bayeslora._version import __version__
from bayeslora.reporting.contents import Contents
from bayeslora.reporting.panels import Drawings
from bayeslora.reporting.text import NAME_END, NAME_START

TEMPLATE = "report.html.j2"


def render_page(contents: Contents, drawings: Drawings) -> str:
    """Return the page; every text in it is escaped by the template engine."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bayeslora.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["names"] = _names
    style = files("bayeslora.reporting").joinpath("templates/report.css")
    page: str = environment.get_template(TEMPLATE).render(
        page=contents,
        drawings=drawings,
        style=style.read_text(encoding="utf-8").strip(),
        version=__version__,
    )
    return page.rstrip() + "\n"


def _names(sentence: str) -> Markup:
    """Escape a sentence, keep numbers with their percent signs, and mark the names in it up."""
    whole = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", sentence)
    opened = escape(whole).replace(NAME_START, Markup('<bdi class="name">'))
    return opened.replace(NAME_END, Markup("</bdi>"))

"""The report as one self-contained HTML page, without network or other files.

Its only script sorts tables. The page's Content-Security-Policy allows this script by its hash, and
no other. Jinja2 escapes every text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bayeslora._version import __version__
from bayeslora.reporting.text import NAME_END, NAME_START

if TYPE_CHECKING:
    from jinja2 import Environment

    from bayeslora.reporting.document import Document

_ASSETS = files("bayeslora.reporting").joinpath("templates")


def render_page(document: Document) -> str:
    """Return the page."""
    script = asset("report.js")
    values = {
        "page": document,
        "style": asset("report.css"),
        "script": script,
        "policy": content_policy(script),
        "version": __version__,
    }
    return render("report.html.j2", values)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return the page that a template makes of `values`."""
    page: str = _environment().get_template(template).render(values)
    return page.rstrip() + "\n"


def content_policy(script: str) -> str:
    """Return the Content-Security-Policy of a page with one script, passed verbatim.

    The figures' inline styles need `unsafe-inline`, which loads nothing for styles.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    """Return a style sheet or script."""
    return _ASSETS.joinpath(name).read_text(encoding="utf-8").strip()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    jinja = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"names": _names, "sort_value": _sort_value, "breakable": _breakable}
    # Consecutive blocks of the same class, with the name of the class.
    jinja.filters["runs"] = lambda blocks: [
        (kind.__name__, list(run)) for kind, run in groupby(blocks, key=type)
    ]
    return jinja


def _names(sentence: str) -> Markup:
    """Escape a sentence, keep percent signs with their numbers, and mark up names."""
    spaced = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", sentence)
    opened = escape(spaced).replace(NAME_START, Markup('<bdi class="name">'))
    return opened.replace(NAME_END, Markup("</bdi>"))


def _breakable(name: str) -> Markup:
    """Escape a name, which may then be broken behind its separators."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/:-])(?=.)", name))


def _sort_value(shown: str) -> str:
    """Return a displayed number in JavaScript syntax; empty if there is none."""
    plain = shown.replace("−", "-").replace(",", "").replace("∞", "Infinity")
    match = re.match(r"[+-]?(\d+(\.\d+)?(e[+-]?\d+)?|Infinity)", plain)
    return match[0].lstrip("+") if match else ""

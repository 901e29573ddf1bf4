"""The report as one HTML page that needs nothing else: no network, no other file.

Its only script sorts tables. The page's policy allows it by its hash, and no other.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from bayeslora._version import __version__
from bayeslora.reporting.contents import Contents
from bayeslora.reporting.panels import Drawings
from bayeslora.reporting.template import PageTemplate


def render_page(
    contents: Contents, drawings: Drawings, template: PageTemplate | None = None
) -> str:
    """Return the page; every text in it is escaped by the template engine.

    Args:
        contents: Words and tables.
        drawings: Figures.
        template: Ours where None.

    Raises:
        InputError: The template is a user's and wrong.
    """
    script = _asset("report.js")
    # Only texts and tables of texts go in: a user's template could call whatever methods it finds.
    values = {
        "page": contents,
        "drawings": drawings,
        "style": _asset("report.css"),
        "script": script,
        "policy": content_policy(script),
        "version": __version__,
    }
    return (template or PageTemplate()).render(values).rstrip() + "\n"


def content_policy(script: str) -> str:
    """Return the Content-Security-Policy of a page with one script, given as it stands there.

    Pictures and fonts may only come from inside the page, for users' templates; the figures' inline
    styles need `unsafe-inline`, which for styles loads nothing.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    path = files("bayeslora.reporting").joinpath("templates", name)
    return path.read_text(encoding="utf-8").strip()

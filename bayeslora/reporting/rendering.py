"""Jinja2 for the page: templates in a sandbox, and where in a user's template something failed."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bayeslora.errors import unknown_choice
from bayeslora.reporting.text import NAME_END, NAME_START

if TYPE_CHECKING:
    from jinja2 import Environment

ENTRY = "report.html.j2"
"""Name of the template of the page, ours and that in a user's directory."""

MACROS = "macros.html.j2"
"""Name of our template of tables and figures, for import."""

OURS = "bayeslora/"
"""What our templates' names start with."""

_MARK = "template of the user: "  # in tracebacks, where a bare name could be any file's


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a user's template.

    Attributes:
        what: One line.
        name: Of the template; empty where that is not known.
        line: Number of the line from 1, or None.
    """

    what: str
    name: str = ""
    line: int | None = None


def render(entry: str, sources: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """Return the page that the template `entry` makes of `values`."""
    page: str = environment(sources).get_template(entry).render(values)
    return page


def check_syntax(sources: Mapping[str, str]) -> None:
    """Compile every template."""
    jinja = environment(sources)
    for name in sources:
        jinja.get_template(name)


def environment(sources: Mapping[str, str]) -> Environment:
    """Return a sandbox that sees the templates in `sources` and ours, and no other."""
    from jinja2 import ChoiceLoader, FunctionLoader, PackageLoader, PrefixLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    ours = PrefixLoader({OURS.rstrip("/"): PackageLoader("bayeslora.reporting")})

    def theirs(name: str) -> tuple[str, str, None] | None:
        return (sources[name], _MARK + name, None) if name in sources else None

    jinja = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([ours, FunctionLoader(theirs)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"names": _names, "sort_value": _sort_value}
    return jinja


def _names(sentence: str) -> Markup:
    """Escape a sentence, keep numbers with their percent signs, and mark the names in it up."""
    whole = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", sentence)
    opened = escape(whole).replace(NAME_START, Markup('<bdi class="name">'))
    return opened.replace(NAME_END, Markup("</bdi>"))


def _sort_value(shown: str) -> str:
    """Return a shown number as JavaScript reads it; empty where there is none."""
    plain = shown.replace("−", "-").replace(",", "").replace("∞", "Infinity")
    found = re.match(r"[+-]?(\d+(\.\d+)?(e[+-]?\d+)?|Infinity)", plain)
    return found[0].lstrip("+") if found else ""


def trouble_of(error: Exception, sources: Mapping[str, str]) -> Trouble:
    """Return what an error of a template is, and where it came up."""
    name, line = _place(error, sources)
    return Trouble(_what(error, sources), name, line)


def _what(error: Exception, sources: Mapping[str, str]) -> str:
    from jinja2 import TemplateNotFound

    if isinstance(error, TemplateNotFound):
        known = [*sources, *(OURS + name for name in (ENTRY, MACROS))]
        return str(unknown_choice("template", str(error.name), known))
    return " ".join(str(error).split()) or type(error).__name__


def _place(error: Exception, sources: Mapping[str, str]) -> tuple[str, int | None]:
    """Return the name and the line of the user's template where an error came up."""
    name, line = getattr(error, "name", None), getattr(error, "lineno", None)
    if isinstance(line, int) and name in sources:
        return str(name), line
    marked = {_MARK + name: name for name in sources}
    frames = traceback.extract_tb(error.__traceback__)
    places = [(marked[one.filename], one.lineno) for one in frames if one.filename in marked]
    return places[-1] if places else (next(iter(sources), ""), None)

"""The page's template: ours, or a user's that extends it.

A user's template may be somebody else's file. It runs in Jinja2's sandbox, which keeps it from
Python's insides, and all that it is given are texts and tables of texts: nothing it can reach opens
a file or a connection. It can see no template but its own and ours, which are called
`bayeslora/report.html.j2` and `bayeslora/macros.html.j2`.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bayeslora.errors import InputError, unknown_choice
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
class PageTemplate:
    """A template and what it can include.

    Attributes:
        path: The user's file or directory; None for ours.
        entry: Name of the template that makes the page.
        sources: The user's templates by name.
        sha256: Hash of the user's templates in hexadecimal; empty for ours.
    """

    path: Path | None = None
    entry: str = OURS + ENTRY
    sources: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the page.

        Raises:
            InputError: The user's template is wrong; the message names the file and the line.
        """
        try:
            page: str = _environment(self.sources).get_template(self.entry).render(values)
        except Exception as error:  # an expression in a template raises whatever Python does
            if self.path is None:
                raise
            raise self.complaint(error) from error
        return page

    def complaint(self, error: Exception) -> InputError:
        """Return the error of a template as one that names the file and the line."""
        name, line = _place(error, self.sources)
        path = self.path if self.path is None or self.path.is_file() else self.path / name
        where = f", line {line}" if line else ""
        return InputError(f"template {path}{where}: {self._what(error)}")

    def _what(self, error: Exception) -> str:
        from jinja2 import TemplateNotFound

        if isinstance(error, TemplateNotFound):
            known = [*self.sources, *(OURS + name for name in (ENTRY, MACROS))]
            return str(unknown_choice("template", str(error.name), known))
        return " ".join(str(error).split()) or type(error).__name__


def load_template(path: str | Path | None) -> PageTemplate:
    """Return the template of the page, read and checked for its syntax.

    Args:
        path: A file, or a directory with a `report.html.j2` and what that includes; None for ours.

    Raises:
        InputError: There is no such template, or it is wrong; the message names file and line.
    """
    if path is None:
        return PageTemplate()
    place = Path(path)
    if place.is_dir():
        files = {str(file.relative_to(place).as_posix()): file for file in _templates(place)}
        entry = ENTRY
    else:
        files, entry = {place.name: place}, place.name
    if entry not in files or not files[entry].is_file():
        expected = place / ENTRY if place.is_dir() else place
        raise InputError(f"template {expected} does not exist or is not a file")
    contents = {name: _content(file) for name, file in files.items()}
    sources = {name: _text(files[name], content) for name, content in contents.items()}
    template = PageTemplate(place, entry, sources, _hash(contents))
    environment = _environment(sources)
    for name in sources:
        try:
            environment.get_template(name)
        except Exception as error:
            raise template.complaint(error) from error
    return template


def _environment(sources: Mapping[str, str]) -> Environment:
    from jinja2 import ChoiceLoader, FunctionLoader, PackageLoader, PrefixLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    ours = PrefixLoader({OURS.rstrip("/"): PackageLoader("bayeslora.reporting")})

    def theirs(name: str) -> tuple[str, str, None] | None:
        return (sources[name], _MARK + name, None) if name in sources else None

    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([ours, FunctionLoader(theirs)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"names": _names, "sort_value": _sort_value}
    return environment


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


def _templates(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*.j2") if file.is_file())


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"template {file} cannot be read: {error}") from None


def _text(file: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"template {file} is not UTF-8: {error}") from None


def _hash(contents: Mapping[str, bytes]) -> str:
    """Return the hash of the only file, or that of the list of all hashes and names."""
    each = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if len(each) == 1:
        return next(iter(each.values()))
    lines = (f"{each[name]}  {name}\n" for name in sorted(each))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _place(error: Exception, sources: Mapping[str, str]) -> tuple[str, int | None]:
    """Return the name and the line of the user's template where an error came up."""
    name, line = getattr(error, "name", None), getattr(error, "lineno", None)
    if isinstance(line, int) and name in sources:
        return str(name), line
    marked = {_MARK + name: name for name in sources}
    frames = traceback.extract_tb(error.__traceback__)
    places = [(marked[one.filename], one.lineno) for one in frames if one.filename in marked]
    return places[-1] if places else (next(iter(sources), ""), None)

"""The page's template: ours, or a user's that extends it.

A user's template may be somebody else's file. It runs in Jinja2's sandbox, which keeps it from
Python's insides, and all that it is given are texts and tables of texts: nothing it can reach opens
a file or a connection. It can see no template but its own and ours, which are called
`bayeslora/report.html.j2` and `bayeslora/macros.html.j2`. And it runs in a process of its own, with
limits on time and memory, which the sandbox does not have: nested loops multiply, and one
expression, `'x' * 10**12`, fills the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.reporting.rendering import ENTRY, OURS, Trouble, render
from bayeslora.reporting.template_process import run_apart

MOST_BYTES = 10_000_000
"""Of all files of a template together; ours have 20,000, and logos can lie in it as data URLs."""


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

        Args:
            values: What the template is given by name; they can be pickled.

        Raises:
            InputError: The user's template is wrong, or takes too much time or memory; the message
                names the file and the line where it can.
        """
        if self.path is None:
            return render(self.entry, self.sources, values)
        return self._page(run_apart(self.entry, self.sources, values))

    def check(self) -> None:
        """Raise InputError if a template of the user cannot be compiled."""
        self._page(run_apart(self.entry, self.sources, None))

    def _page(self, result: str | Trouble) -> str:
        if isinstance(result, str):
            return result
        path = self.path
        if path is not None and result.name and not path.is_file():
            path = path / result.name
        where = f", line {result.line}" if result.line else ""
        raise InputError(f"template {path}{where}: {result.what}")


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
    size = sum(file.stat().st_size for file in files.values())
    if size > MOST_BYTES:
        raise InputError(f"template {place} has {size:,} bytes; at most {MOST_BYTES:,} are read")
    contents = {name: _content(file) for name, file in files.items()}
    sources = {name: _text(files[name], content) for name, content in contents.items()}
    template = PageTemplate(place, entry, sources, _hash(contents))
    template.check()
    return template


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

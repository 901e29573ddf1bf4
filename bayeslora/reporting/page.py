"""The report as one HTML page that needs nothing else: no network, no other file.

Its only script sorts tables. The page's policy allows it by its hash, and no other.

The template is ours or a user's that extends it, which may be somebody else's file. It runs in
Jinja2's sandbox, which keeps it from Python's insides, and all that it is given are texts and
tables of texts: nothing it can reach opens a file or a connection. It can see no template but its
own and ours, which are called `bayeslora/report.html.j2` and `bayeslora/macros.html.j2`. And it
runs in a process of its own, with limits on time and memory, which the sandbox does not have:
nested loops multiply, and one expression, `'x' * 10**12`, fills the memory. Only another process
can be stopped in the middle of any expression, on every thread and in notebooks too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bayeslora._version import __version__
from bayeslora.errors import InputError, unknown_choice
from bayeslora.reporting.text import NAME_END, NAME_START

if TYPE_CHECKING:
    from jinja2 import Environment

    from bayeslora.reporting.document import Document


def render_page(document: Document, template: PageTemplate | None = None) -> str:
    """Return the page; every text in it is escaped by the template engine.

    Args:
        document: What it says.
        template: Ours where None.

    Raises:
        InputError: The template is a user's and wrong.
    """
    script = asset("report.js")
    # Only texts and tables of texts go in: a user's template could call whatever methods it finds.
    values = {
        "page": document,
        "sections": {section.id: section for section in document.sections},
        "tables": {table.name: table for table in document.tables},
        "figures": {drawing.name: drawing for drawing in document.drawings},
        "style": asset("report.css"),
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


def asset(name: str) -> str:
    """Return a style sheet or a script of ours."""
    path = files("bayeslora.reporting").joinpath("templates", name)
    return path.read_text(encoding="utf-8").strip()


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
    jinja = environment(sources, values.get("sections", ()))
    page: str = jinja.get_template(entry).render(values)
    return page


def check_syntax(sources: Mapping[str, str]) -> None:
    """Compile every template."""
    jinja = environment(sources)
    for name in sources:
        jinja.get_template(name)


def environment(sources: Mapping[str, str], sections: Iterable[str] = ()) -> Environment:
    """Return a sandbox that sees the templates in `sources` and ours, and no other.

    Args:
        sources: A user's templates by name.
        sections: Ids of the sections, each of which is a block of our template of the page.
    """
    from jinja2 import (
        ChoiceLoader,
        DictLoader,
        FunctionLoader,
        PackageLoader,
        PrefixLoader,
        StrictUndefined,
    )
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    blocks = (
        f"{{% block {one} %}}{{{{ bl.section(sections.{one}) }}}}{{% endblock %}}"
        for one in sections
    )
    page = DictLoader({ENTRY: "\n".join([asset(ENTRY), *blocks])})
    packaged = PackageLoader("bayeslora.reporting")
    ours = PrefixLoader({OURS.rstrip("/"): ChoiceLoader([page, packaged])})

    def theirs(name: str) -> tuple[str, str, None] | None:
        return (sources[name], _MARK + name, None) if name in sources else None

    jinja = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([ours, FunctionLoader(theirs)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"names": _names, "sort_value": _sort_value, "runs": _runs}
    return jinja


def _runs(blocks: Sequence[object]) -> list[tuple[str, list[object]]]:
    """Return blocks in a row of one class together, with the name of the class."""
    return [(kind.__name__, list(run)) for kind, run in groupby(blocks, key=type)]


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


MOST_TEMPLATE_BYTES = 10_000_000
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
        found = sorted(file for file in place.rglob("*.j2") if file.is_file())
        files = {file.relative_to(place).as_posix(): file for file in found}
        entry = ENTRY
    else:
        files, entry = {place.name: place}, place.name
    if entry not in files or not files[entry].is_file():
        expected = place / ENTRY if place.is_dir() else place
        raise InputError(f"template {expected} does not exist or is not a file")
    size = sum(file.stat().st_size for file in files.values())
    if size > MOST_TEMPLATE_BYTES:
        raise InputError(
            f"template {place} has {size:,} bytes; at most {MOST_TEMPLATE_BYTES:,} are read"
        )
    contents = {name: _read(file) for name, file in files.items()}
    sources = {name: content.decode("utf-8-sig") for name, content in contents.items()}
    template = PageTemplate(place, entry, sources, _hash(contents))
    template.check()
    return template


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"template {file} is not UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"template {file} cannot be read: {error}") from None
    return content


def _hash(contents: Mapping[str, bytes]) -> str:
    """Return the hash of the only file, or that of the list of all hashes and names."""
    each = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if len(each) == 1:
        return next(iter(each.values()))
    lines = (f"{each[name]}  {name}\n" for name in sorted(each))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


SECONDS = 4
"""Of computing; a page of ours with fifty methods takes half a second."""

MEMORY = 1 << 30
"""Bytes beyond what the process starts with; the largest pages have 20 MB."""

MOST_PAGE_BYTES = 200_000_000
"""Of the page; no browser opens more."""

# Where computing is limited this is for a machine that gives the process hardly any time: nothing
# in a template can wait. Where it is not, it is the only limit.
_WALL_SECONDS = 600 if find_spec("resource") else 60
_COMMAND = "from bayeslora.reporting.page import serve; serve()"


def run_apart(
    entry: str, sources: Mapping[str, str], values: Mapping[str, Any] | None
) -> str | Trouble:
    """Return the page that the template makes of `values`, or what is wrong with the template.

    Args:
        entry: Name of the template.
        sources: All templates of the user by name.
        values: What the template is given; None only compiles it, and the page is empty.
    """
    job = pickle.dumps((entry, dict(sources), values, SECONDS))
    found = [part or os.getcwd() for part in sys.path]  # noqa: PTH109
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **limits, "PYTHONPATH": os.pathsep.join(found)}
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-P", "-c", _COMMAND],
            input=job,
            capture_output=True,
            env=environment,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trouble(f"it takes more than {_WALL_SECONDS} seconds")
    if done.returncode:
        return _ended(done.returncode, done.stderr)
    head, _, page = done.stdout.partition(b"\n")
    trouble = json.loads(head)
    return Trouble(**trouble) if trouble else page.decode("utf-8")


def serve() -> None:
    """Do the job on stdin; write a line of JSON, `null` where all is well, and the page."""
    entry, sources, values, seconds = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own
    _limit(seconds)
    page, trouble = b"", None
    try:
        if values is None:
            check_syntax(sources)
        else:
            page = render(entry, sources, values).encode("utf-8")
    except MemoryError:
        trouble = {"what": f"it needs more than {MEMORY >> 20:,} MB of memory"}
    except Exception as error:  # an expression in a template raises whatever Python does
        trouble = vars(trouble_of(error, sources))
    if len(page) > MOST_PAGE_BYTES:
        page, trouble = b"", {"what": f"the page has more than {MOST_PAGE_BYTES:,} bytes"}
    sys.stdout.buffer.write(json.dumps(trouble).encode() + b"\n" + page)


def _limit(seconds: int) -> None:
    """Limit time and memory of this process, as far as the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))
    with suppress(OSError, ValueError):  # no /proc, or a lower limit is set already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _ended(code: int, said: bytes) -> Trouble:
    """Return why the process ended before its time."""
    import signal

    over = [getattr(signal, name, None) for name in ("SIGXCPU", "SIGKILL")]
    if -code in over:
        return Trouble(f"it takes more than {SECONDS} seconds of computing, or too much memory")
    last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
    return Trouble(f"it cannot be rendered (exit code {code}): {' '.join(last)}")

"""The report as one self-contained HTML page, without network or other files.

Its only script sorts tables. The page's Content-Security-Policy allows this script by its hash, and
no other.

The template is the built-in one or a user's that extends it, which may come from somebody else. It
runs in Jinja2's sandbox, without access to Python internals, and receives only texts and tables of
texts: nothing within its reach opens a file or a connection. It sees only its own templates and the
built-in `bayeslora/report.html.j2` and `bayeslora/macros.html.j2`. It also runs in a separate
process with limits on time and memory, which the sandbox lacks: nested loops multiply, and a single
expression, `'x' * 10**12`, fills the memory. Only another process can be stopped in the middle of
any expression, on every thread and in notebooks too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
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
    """Return the page; the template engine escapes every text.

    Raises:
        InputError: A user's template is invalid.
    """
    script = asset("report.js")
    # Only texts and tables of texts: a user's template can call any method of its values.
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
    """Return the Content-Security-Policy of a page with one script, passed verbatim.

    Images and fonts may only be embedded, for users' templates; the figures' inline styles need
    `unsafe-inline`, which loads nothing for styles.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    """Return a built-in style sheet or script."""
    return _ASSETS.joinpath(name).read_text(encoding="utf-8").strip()


_ASSETS = files("bayeslora.reporting").joinpath("templates")

ENTRY = "report.html.j2"
"""Name of the page's template, built-in and in a user's directory."""

OURS = "bayeslora/"
"""Prefix of the names of built-in templates."""

_MARK = "template of the user: "  # in tracebacks, where a bare name would be ambiguous


Trouble = Mapping[str, Any]
"""An error in a user's template: `what` in one line, and `name` and `line` where it is known."""


def render(
    entry: str, values: Mapping[str, Any] | None, sources: Mapping[str, str] | None = None
) -> str:
    """Render the template `entry` with `values`; without values only compile a user's `sources`."""
    sources = sources or {}
    jinja = environment(sources, (values or {}).get("sections", ()))
    if values is not None:
        page: str = jinja.get_template(entry).render(values)
        return page
    for name in sources:
        jinja.get_template(name)
    return ""


def environment(sources: Mapping[str, str], sections: Iterable[str] = ()) -> Environment:
    """Return a sandbox that sees only the templates in `sources` and the built-in ones.

    Each of the ids in `sections` becomes a block of the built-in page template.
    """
    from jinja2 import ChoiceLoader, DictLoader, FunctionLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    ours = {OURS + path.name: path.read_text(encoding="utf-8") for path in _ASSETS.iterdir()}
    for section in sections:
        block = f"{{% block {section} %}}{{{{ bl.section(sections.{section}) }}}}{{% endblock %}}"
        ours[OURS + ENTRY] += f"{block}\n"

    def load_user(name: str) -> tuple[str, str, None] | None:
        return (sources[name], _MARK + name, None) if name in sources else None

    jinja = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([DictLoader(ours), FunctionLoader(load_user)]),
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


def trouble_of(error: Exception, sources: Mapping[str, str]) -> Trouble:
    """Return the message and the location of a template error."""
    from jinja2 import TemplateNotFound

    what = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TemplateNotFound):
        known = [*sources, f"{OURS}{ENTRY}", f"{OURS}macros.html.j2"]
        what = str(unknown_choice("template", str(error.name), known))
    name, line = getattr(error, "name", None), getattr(error, "lineno", None)
    if not isinstance(line, int) or name not in sources:
        name, line = next(iter(sources), ""), None
        marked = {_MARK + name: name for name in sources}
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename in marked:
                name, line = marked[frame.filename], frame.lineno
    return {"what": what, "name": name, "line": line}


MOST_TEMPLATE_BYTES = 10_000_000
"""Size limit of all files of a template, which may embed logos; the built-in ones have 20,000."""


@dataclass(frozen=True)
class PageTemplate:
    """A template of the page with the templates it can include, by name in `sources`.

    `entry` makes the page; the built-in template has no path, and an empty hash.
    """

    path: Path | None = None
    entry: str = OURS + ENTRY
    sources: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""

    def render(self, values: Mapping[str, Any] | None) -> str:
        """Return the page; `values` must be picklable. None only compiles a user's template.

        Raises:
            InputError: The user's template is invalid, or takes too much time or memory; the
                message names the file and the line if known.
        """
        if self.path is None:
            return render(self.entry, values)
        result = run_apart(self.entry, self.sources, values)
        if isinstance(result, str):
            return result
        is_file = self.path.is_file() or not result.get("name")
        path = self.path if is_file else self.path / result["name"]
        location = f", line {result['line']}" if result.get("line") else ""
        raise InputError(f"template {path}{location}: {result['what']}")


def load_template(path: str | Path | None) -> PageTemplate:
    """Read the template of the page and check its syntax.

    Args:
        path: A file, or a directory with a `report.html.j2` and the templates it includes; None for
            the built-in template.

    Raises:
        InputError: The template is missing or invalid; the message names file and line.
    """
    if path is None:
        return PageTemplate()
    template_path = Path(path)
    if template_path.is_dir():
        paths = sorted(file for file in template_path.rglob("*.j2") if file.is_file())
        files = {file.relative_to(template_path).as_posix(): file for file in paths}
        entry = ENTRY
    else:
        files, entry = {template_path.name: template_path}, template_path.name
    if entry not in files or not files[entry].is_file():
        expected = template_path / ENTRY if template_path.is_dir() else template_path
        raise InputError(f"template {expected} does not exist or is not a file")
    size = sum(file.stat().st_size for file in files.values())
    if size > MOST_TEMPLATE_BYTES:
        raise InputError(
            f"template {template_path} has {size:,} bytes; at most {MOST_TEMPLATE_BYTES:,} are read"
        )
    sources, digests = {}, {}
    for name, file in files.items():
        try:
            content = file.read_bytes()
            sources[name] = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"template {file} is not UTF-8: {error}") from None
        except OSError as error:
            raise InputError(f"template {file} cannot be read: {error}") from None
        digests[name] = hashlib.sha256(content).hexdigest()
    sha256 = digests[entry]
    if len(digests) > 1:  # of the list of all hashes and names
        lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        sha256 = hashlib.sha256(lines.encode()).hexdigest()
    template = PageTemplate(template_path, entry, sources, sha256)
    template.render(None)
    return template


SECONDS = 4
"""CPU time limit; a built-in page with fifty methods takes half a second."""

MEMORY = 1 << 30
"""Memory limit in bytes, beyond the initial size of the process; the largest pages have 20 MB."""

MOST_PAGE_BYTES = 200_000_000
"""Size limit of the page; no browser opens more."""

# With a CPU time limit, this is for heavily loaded machines only, since a template cannot sleep;
# without, it is the only limit.
_WALL_SECONDS = 600 if find_spec("resource") else 60
_COMMAND = "from bayeslora.reporting.page import serve; serve()"


def run_apart(
    entry: str, sources: Mapping[str, str], values: Mapping[str, Any] | None
) -> str | Trouble:
    """Render the template in another process; return the page, or the error of the template.

    Without `values` the templates are only compiled, and the page is empty.
    """
    job = pickle.dumps((entry, dict(sources), values, SECONDS))
    search_path = [part or os.getcwd() for part in sys.path]  # noqa: PTH109
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **limits, "PYTHONPATH": os.pathsep.join(search_path)}
    try:
        process = subprocess.run(  # noqa: S603
            [sys.executable, "-P", "-c", _COMMAND],
            input=job,
            capture_output=True,
            env=environment,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"what": f"it takes more than {_WALL_SECONDS} seconds"}
    if process.returncode:
        over = [getattr(signal, name, None) for name in ("SIGXCPU", "SIGKILL")]
        if -process.returncode in over:
            limits_hit = f"it takes more than {SECONDS} seconds of computing, or too much memory"
            return {"what": limits_hit}
        last = process.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        failed = f"it cannot be rendered (exit code {process.returncode})"
        return {"what": f"{failed}: {' '.join(last)}"}
    head, _, page = process.stdout.partition(b"\n")
    trouble: Trouble | None = json.loads(head)
    return trouble or page.decode("utf-8")


def serve() -> None:
    """Run the job on stdin; write a line of JSON, `null` on success, and the page."""
    entry, sources, values, seconds = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own
    _limit(seconds)
    page = b""
    trouble: Trouble | None = None
    try:
        page = render(entry, values, sources).encode("utf-8")
    except MemoryError:
        trouble = {"what": f"it needs more than {MEMORY >> 20:,} MB of memory"}
    except Exception as error:  # an expression in a template can raise anything
        trouble = trouble_of(error, sources)
    if len(page) > MOST_PAGE_BYTES:
        page, trouble = b"", {"what": f"the page has more than {MOST_PAGE_BYTES:,} bytes"}
    sys.stdout.buffer.write(json.dumps(trouble).encode() + b"\n" + page)


def _limit(seconds: int) -> None:
    """Limit time and memory of this process, as far as the system supports it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))
    with suppress(OSError, ValueError):  # no /proc, or a lower limit is already set
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

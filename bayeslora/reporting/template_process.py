"""A user's template in a process of its own, which a limit of time or memory can end.

Only another process can be stopped in the middle of any expression, on every thread and in
notebooks too.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bayeslora.reporting.rendering import Trouble, check_syntax, render, trouble_of

SECONDS = 4
"""Of computing; a page of ours with fifty methods takes half a second."""

MEMORY = 1 << 30
"""Bytes beyond what the process starts with; the largest pages have 20 MB."""

MOST_BYTES = 200_000_000
"""Of the page; no browser opens more."""

# Where computing is limited this is for a machine that gives the process hardly any time: nothing
# in a template can wait. Where it is not, it is the only limit.
_WALL_SECONDS = 600 if find_spec("resource") else 60
_COMMAND = "from bayeslora.reporting.template_process import serve; serve()"


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
    if len(page) > MOST_BYTES:
        page, trouble = b"", {"what": f"the page has more than {MOST_BYTES:,} bytes"}
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

"""Terminal output: results on stdout, everything else on stderr.

All output goes through `show`, `say` and our log, so that no name from a file can control a
terminal or forge a message, whichever verb prints it. Stderr shows progress, hints (our log's
INFO), notes (its WARNING) and errors. `--quiet` hides progress and hints, but never notes, which
affect the meaning of a result. The next command is a hint for people, shown only on a terminal.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from bayeslora.plain_text import one_line, visible


def show(text: object = "") -> None:
    """Print a result to stdout, with all invisible characters but line feeds escaped."""
    print(visible(str(text), keep="\n"))


def show_last(text: str, *, warns: bool = False) -> None:
    """Print a summary line: on a terminal in bold, and yellow for a warning."""
    line = one_line(text)
    print(_styled(line, "1;33" if warns else "1") if sys.stdout.isatty() else line)


def _styled(line: str, style: str) -> str:
    """Return a line in an ANSI style, unless the environment disables colour."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return line if plain else f"\x1b[{style}m{line}\x1b[0m"


# A Python argument followed by its command-line option: `keep (--keep COLUMN)`.
_BOTH = re.compile(r"\b([a-z_]+)(?:=\S+)? \((--([a-z-]+)[^()]*)\)")


def with_options_alone(text: str) -> str:
    """Return a message of the Python API with only the options of its arguments."""

    def option_alone(both: re.Match[str]) -> str:
        name, option = both[1].replace("_", "-"), both[3]
        is_same = name in (option, f"{option}s") or option.endswith(f"-{name}")
        return both[2] if is_same else both[0]

    return _BOTH.sub(option_alone, text)


def say(text: str) -> None:
    """Print one message to stderr, as one line."""
    print(one_line(text), file=sys.stderr)


def trace(error: BaseException) -> None:
    """Print a traceback to stderr."""
    lines = "".join(traceback.format_exception(error))
    print(visible(lines, keep="\n"), file=sys.stderr, end="")


def drop(stream: TextIO) -> None:
    """Discard a stream's buffered output, so that the interpreter's last flush succeeds."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # it has no file descriptor, or is closed
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, number)
    os.close(devnull)


def hint(text: str) -> None:
    """Print a hint to stderr, which `--quiet` hides."""
    logging.getLogger(__name__).info("%s", text)


def next_step(*words: object) -> None:
    """Print the next command as a dim hint if a terminal shows both results and hints.

    Args:
        words: The arguments of `bayeslora`.
    """
    if sys.stdout.isatty() and sys.stderr.isatty():
        command = shlex.join(["bayeslora", *map(str, words)])
        logging.getLogger(__name__).info("next: %s", command, extra={"style": "2"})


def note(text: str) -> None:
    """Print a note to stderr: on the meaning of a result, or on an option without effect."""
    logging.getLogger(__name__).warning("%s", text)


@contextmanager
def log_on_stderr(*, verbose: bool, quiet: bool) -> Iterator[None]:
    """Show our log on stderr and hide warnings and logs of other packages inside the context.

    Args:
        verbose: Whether to show everything, including our debug messages.
        quiet: Whether to hide hints.
    """
    logger, root = logging.getLogger("bayeslora"), logging.getLogger()
    shown, silent = logging.StreamHandler(sys.stderr), logging.NullHandler()
    shown.setFormatter(_Notes())
    previous = logger.level, logger.propagate
    logger.addHandler(shown)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    if not verbose:
        # Without any handler, Python prints the warnings of every logger.
        root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(shown)
        root.removeHandler(silent)
        logger.level, logger.propagate = previous


class _Notes(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kinds = {logging.DEBUG: f"{record.name}: ", logging.INFO: ""}
        message = with_options_alone(record.getMessage())
        line = one_line(f"{kinds.get(record.levelno, 'note: ')}{message}")
        style = getattr(record, "style", "")
        return _styled(line, style) if style else line

"""What goes to stderr: our notes, and nobody else's unless asked for."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Print text to stderr; stdout belongs to results."""
    print(text, file=sys.stderr)


@contextmanager
def third_parties_quiet(*, verbose: bool) -> Iterator[None]:
    """Show our log on stderr, and hide warnings and logs of other packages, while it lasts.

    Args:
        verbose: Show everything, our debug messages too.
    """
    ours, root = logging.getLogger("bayeslora"), logging.getLogger()
    shown, silent = logging.StreamHandler(sys.stderr), logging.NullHandler()
    shown.setFormatter(_Notes())
    before = ours.level, ours.propagate
    ours.addHandler(shown)
    ours.setLevel(logging.DEBUG if verbose else logging.WARNING)
    ours.propagate = False
    if not verbose:
        # Without any handler, Python prints the warnings of every logger.
        root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.removeHandler(shown)
        root.removeHandler(silent)
        ours.level, ours.propagate = before


class _Notes(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = "note" if record.levelno >= logging.INFO else record.name
        return f"{kind}: {record.getMessage()}"

"""Progress bars on stderr, and notes that are logged only once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from transformers.utils import logging as transformers_logging

from bayeslora.errors import MissingAssetError
from bayeslora.plain_text import visible

_SECONDS = 30.0
"""Between two updates of a bar that is not on a terminal; shorter work shows none there."""


def open_bar(
    description: str, total: int, *, shown: bool = True, unit: str = "", done: int = 0
) -> Any:
    """Return an open tqdm bar.

    Args:
        description: Title; any text.
        total: Total number of steps.
        shown: Whether it shows anything.
        unit: Unit of a step.
        done: Steps done before, which do not count for the speed.
    """
    import tqdm.auto
    import tqdm.std

    if not shown or total == 0:
        return tqdm.std.tqdm(disable=True)
    is_notebook = tqdm.auto.notebook_tqdm is not tqdm.std.tqdm
    is_seen = sys.stderr.isatty() or is_notebook
    return tqdm.auto.tqdm(
        total=total,
        initial=done,
        desc=visible(description),
        unit=unit,
        file=sys.stderr,
        **({} if is_seen else {"mininterval": _SECONDS, "delay": _SECONDS}),
    )


Advance = Callable[[int], object]


@contextmanager
def progress_bar(
    description: str, total: int, *, shown: bool, unit: str = "", done: int = 0
) -> Iterator[Advance]:
    """Yield a function that advances a bar on stderr, or one that does nothing.

    The bar starts at `done`, which does not count for the speed.
    """
    with open_bar(description, total, shown=shown, unit=unit, done=done) as bar:
        yield bar.update


def require_tracker(name: str | None) -> None:
    """Raise MissingAssetError if a tracker's package is not installed.

    Raises:
        MissingAssetError: See above.
    """
    if name is not None and find_spec(name) is None:
        raise MissingAssetError(
            f"report_to={name!r} (--report-to) needs the package {name}: pip install {name}"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' own bars and notices within the context."""
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def each_note_once(*loggers: str) -> Iterator[None]:
    """Log each message of some loggers only once while the context lasts.

    Args:
        loggers: Names of the loggers, whose messages repeat for every fit to the same rows.
    """
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text, count = record.getMessage(), len(seen)
        seen.add(text)
        return len(seen) > count

    try:
        for name in loggers:
            logging.getLogger(name).addFilter(is_new)
        yield
    finally:
        for name in loggers:
            logging.getLogger(name).removeFilter(is_new)

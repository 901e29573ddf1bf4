"""What a person sees while a fit runs: progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from bayeslora.training.bars import open_bar

Advance = Callable[[int], object]


@contextmanager
def progress_bar(
    description: str, total: int, *, shown: bool, unit: str = "", done: int = 0
) -> Iterator[Advance]:
    """Yield a function that advances a bar on stderr, or one that does nothing.

    The bar starts at `done`; how fast it goes is computed without that part.
    """
    if not shown or total == 0:
        yield lambda _: None
        return
    with open_bar(description, total, unit=unit, done=done) as bar:
        yield bar.update


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and notices off the terminal while the context lasts."""
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

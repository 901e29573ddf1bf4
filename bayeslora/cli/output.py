"""Terminal output, results on stdout and everything else on stderr; checks of output paths.

All output goes through `show`, `say` and our log, so that no name from a file can control a
terminal or forge a message, whichever verb prints it. Stderr shows progress, hints (our log's
INFO), notes (its WARNING) and errors. `--quiet` hides progress and hints, but never notes, which
affect the meaning of a result.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError
from bayeslora.io import check_writable, refuse_existing, refuse_inputs
from bayeslora.plain_text import counted, one_line, visible

if TYPE_CHECKING:
    from bayeslora.metrics.scores import Score, Scores


def show(text: object = "") -> None:
    """Print a result to stdout, with all invisible characters but line feeds escaped."""
    print(visible(str(text), keep="\n"))


def show_last(text: str, *, warns: bool = False) -> None:
    """Print a summary line: on a terminal in bold, and yellow for a warning."""
    line, style = one_line(text), "1;33" if warns else "1"
    print(f"\x1b[{style}m{line}\x1b[0m" if sys.stdout.isatty() else line)


def say(text: str) -> None:
    """Print one message to stderr, as one line."""
    print(one_line(text), file=sys.stderr)


def trace(error: BaseException) -> None:
    """Print a traceback to stderr."""
    lines = "".join(traceback.format_exception(error))
    print(visible(lines, keep="\n"), file=sys.stderr, end="")


def hint(text: str) -> None:
    """Print a hint to stderr, which `--quiet` hides."""
    logging.getLogger(__name__).info("%s", text)


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
    notes: set[str] = set()
    shown.addFilter(lambda record: _is_new(record, notes))
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


def _is_new(record: logging.LogRecord, notes: set[str]) -> bool:
    """Return whether a message is no repeated note, as of a file that is read twice."""
    text = record.getMessage()
    repeats = record.levelno >= logging.WARNING and text in notes
    notes.add(text)
    return not repeats


class _Notes(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kinds = {logging.DEBUG: f"{record.name}: ", logging.INFO: ""}
        return one_line(f"{kinds.get(record.levelno, 'note: ')}{record.getMessage()}")


BROKEN = 3
"""Exit code of a promise that does not hold."""

SCORE_NAMES = {"accuracy": "accuracy", "nll": "NLL (nats)", "ece": "ECE"}
"""Scores of a short summary, with their names there."""

_WIDEST = 100


def print_json(content: Any) -> None:
    """Print a result as indented ASCII JSON, independent of the terminal's encoding."""
    show(json.dumps(content, indent=2, allow_nan=False))


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text with aligned columns; `one_line` shortens long cells."""
    from bayeslora.plain_text import display_columns
    from bayeslora.reporting.text import pad

    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(display_columns, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (pad(cell, width) for cell, width in zip(row, widths, strict=True))
        show("  ".join(cells).rstrip())


def score_rows(scores: Mapping[str, Score]) -> list[tuple[str, str]]:
    """Return name and value with interval of each score of a short summary."""
    from bayeslora.reporting.text import shown

    return [(name, shown(scores[key])) for key, name in SCORE_NAMES.items() if key in scores]


def before_and_after(rows: str, before: Scores, after: Scores) -> list[tuple[str, str]]:
    """Return the changes of NLL and ECE on some rows, and of accuracy if it changed.

    The list is empty if no row has a label.

    Args:
        rows: Name of the rows.
        before: Scores before.
        after: Scores after.
    """
    from bayeslora.reporting.text import shown

    changes = [
        (f"{SCORE_NAMES[key]}, {rows}", f"{shown(before[key])} → {shown(after[key])}")
        for key in ("nll", "ece", "accuracy")
        if key in before and (key != "accuracy" or before[key].value != after[key].value)
    ]
    label = f"NLL, {rows}"
    return [*changes, *cut_off(f"{label}, before", before), *cut_off(f"{label}, after", after)]


def cut_off(label: str, scores: Scores) -> list[tuple[str, str]]:
    """Return the number of rows clamped by the floor of the NLL, if any."""
    if not scores.nll_clamped:
        return []
    count = counted(scores.nll_clamped, "label")
    return [(f"{label}: cut off", f"{count} with probability < 1e-12, set to 1e-12")]


def terminal_width() -> int:
    """Return the number of columns of the terminal, 100 without a terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def show_wrapped(text: str, indent: str = " " * 6) -> None:
    """Print a paragraph of at most 100 columns, with `indent` on all lines but the first."""
    width = max(40, min(terminal_width(), _WIDEST))
    for line in textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False):
        show(line)


def check_new_file(
    path: str | Path, *, overwrite: bool | None, inputs: Sequence[str | Path]
) -> None:
    """Raise InputError if predictions cannot be written to a file, before they are computed.

    Args:
        path: The file.
        overwrite: Whether it may exist.
        inputs: Files that it is made from.

    Raises:
        InputError: Its suffix is not supported, it is one of `inputs`, or it exists.
    """
    from bayeslora.predictions.files import file_kind

    file_kind(path)
    refuse_inputs(path, *inputs)
    refuse_existing(path, overwrite=overwrite)
    check_writable(path)


def check_json_file(path: str | Path, *, overwrite: bool | None, inputs: Sequence[str]) -> None:
    """Raise InputError if a calibration cannot be written to a file; see `check_new_file`."""
    if Path(path).suffix != ".json":
        raise InputError(f"save must end in .json, got {str(path)!r}", options=("save",))
    refuse_inputs(path, *inputs)
    refuse_existing(path, overwrite=overwrite)
    check_writable(path)


def check_fit_and_apply(args: Any) -> None:
    """Raise InputError if the outputs of `FitAndApply` are incomplete or cannot be written."""
    if (args.apply is None) != (args.out is None):
        raise InputError("apply and out need each other", options=("apply", "out"))
    if args.out is None and args.save is None:
        raise InputError("apply with out, or save, is required", options=("apply", "out", "save"))
    inputs = [file for file in (args.fit, args.apply) if file is not None]
    if args.out is not None:
        check_new_file(args.out, overwrite=args.overwrite, inputs=inputs)
    if args.save is not None:
        check_json_file(args.save, overwrite=args.overwrite, inputs=inputs)

"""Printing of results, and checks of output paths."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.cli.messages import next_step, show
from bayeslora.errors import InputError
from bayeslora.io.files import STDIN, check_writable, refuse_existing, refuse_inputs, shown_path
from bayeslora.plain_text import counted, one_line

if TYPE_CHECKING:
    from bayeslora.metrics.scores import Scores

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


def score_rows(scores: Scores) -> list[tuple[str, str]]:
    """Return name and value with interval of each score of a short summary."""
    from bayeslora.reporting.text import shown

    rows = [(name, shown(scores[key])) for key, name in SCORE_NAMES.items() if key in scores]
    return [*rows, *_cut_off("NLL", scores)]


def before_and_after(rows: str, before: Scores, after: Scores) -> list[tuple[str, str]]:
    """Return the changes of NLL and ECE on some rows, and of accuracy if it changed.

    The list is empty if no row has a label.

    Args:
        rows: Name of the rows.
        before: Scores before.
        after: Scores after.
    """
    from bayeslora.reporting.text import shown

    return [
        (f"{SCORE_NAMES[key]}, {rows}", f"{shown(before[key])} → {shown(after[key])}")
        for key in ("nll", "ece", "accuracy")
        if key in before and (key != "accuracy" or before[key].value != after[key].value)
    ] + [
        line
        for when, scores in (("before", before), ("after", after))
        for line in _cut_off(f"NLL, {rows}, {when}", scores)
    ]


def _cut_off(label: str, scores: Scores) -> list[tuple[str, str]]:
    """Return the number of rows clamped by the floor of the NLL, if any."""
    if not scores.nll_clamped:
        return []
    return [
        (
            f"{label}: cut off",
            f"{counted(scores.nll_clamped, 'label')} with probability < 1e-12, set to 1e-12",
        )
    ]


def hint_to_predict(model: str | Path, data: str | Path | None) -> None:
    """Print, as a hint, the command to predict a test set beside the training data.

    Args:
        model: The model directory.
        data: The training data; None for none.
    """
    train = Path("train.jsonl" if data is None or shown_path(data) == STDIN else data)
    ending = "".join(train.suffixes[-2:] if train.suffix == ".gz" else train.suffixes[-1:])
    next_step("predict", model, train.parent / f"test{ending}", "--out", "test.parquet")


def terminal_width() -> int:
    """Return the number of columns of the terminal, 100 without a terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def table_width() -> int | None:
    """Return the maximum width of a table in columns; None if stdout is not a terminal."""
    return terminal_width() if sys.stdout.isatty() else None


def show_wrapped(text: str, indent: str = " " * 6) -> None:
    """Print a paragraph of at most 100 columns, with `indent` on all lines but the first."""
    width = max(40, min(terminal_width(), _WIDEST))
    for line in textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False):
        show(line)


def check_new_file(
    path: str | Path,
    *,
    overwrite: bool | None,
    inputs: Sequence[str | Path] = (),
    ending: str | None = None,
) -> None:
    """Raise InputError if a file cannot be written, before anything is computed.

    Args:
        path: The file.
        overwrite: Whether it may exist.
        inputs: Files that it is made from.
        ending: Suffix of its name; None for the suffixes of predictions files.

    Raises:
        InputError: Its suffix is another, it is one of `inputs`, or it exists.
    """
    from bayeslora.predictions.files import file_kind

    target = Path(path)
    if ending is None:
        file_kind(target)
    elif target.suffix != ending:
        raise InputError(f"--out must end in {ending}, got {path}")
    refuse_inputs(target, *inputs)
    if target.is_dir():
        raise InputError(f"{target} is a directory; --out must be a file")
    refuse_existing(target, overwrite=overwrite)
    check_writable(target)


def check_new_directory(
    path: str | Path, *, overwrite: bool | None, inputs: Sequence[str | Path] = ()
) -> None:
    """Raise InputError if a model cannot be written, before anything is computed.

    Raises:
        InputError: It exists and may not be replaced, is not a model, or contains one of `inputs`.
    """
    from bayeslora.checkpoint import LAYOUTS
    from bayeslora.io.directories import refuse_target

    target = Path(path)
    refuse_target(target, *LAYOUTS, overwrite=overwrite)
    refuse_inputs(target, *inputs)
    check_writable(target)

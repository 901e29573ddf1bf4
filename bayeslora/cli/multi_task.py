"""Several tasks on the command line: `NAME=FILE`, with a file per task."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bayeslora.cli.data import read
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.predictions.record import Predictions
    from bayeslora.tasks.columns import DataColumns
    from bayeslora.tasks.examples import Examples


def add_multi_task(parser: argparse.ArgumentParser, source: str) -> argparse.Action:
    """Add the option for the files of several tasks.

    Args:
        parser: The parser to add it to.
        source: The argument that it replaces.
    """
    return parser.add_argument(
        "--multi-task",
        action="append",
        metavar="NAME=FILE",
        help=f"rows of one of several tasks, instead of {source}; repeatable. For a known task "
        "with --data-dir, use the name of a split, such as sst2_sentences=train",
    )


def named_files(values: Any, option: str) -> dict[str, str]:
    """Return files by task name.

    Args:
        values: `NAME=FILE` texts, or a mapping of --config.
        option: Name of the option, for messages.

    Raises:
        InputError: A value is not such a pair, or a name occurs twice.
    """
    if isinstance(values, Mapping):
        return dict(values)
    files: dict[str, str] = {}
    for value in [values] if isinstance(values, str) else values:
        name, equals, file = value.partition("=")
        if not equals or not name.strip() or not file:
            raise InputError(f"{option} must be NAME=FILE for each of several tasks, got {value!r}")
        if name in files:
            raise InputError(f"{option}: task {name!r} is listed twice")
        files[name] = file
    return files


def settle_tasks(args: argparse.Namespace) -> None:
    """Convert `args.multi_task` and its `args.validation` to mappings, or the latter to one file.

    Raises:
        InputError: They are not NAME=FILE, a validation name has no task, or one task has several
            files.
    """
    if args.multi_task is not None:
        args.multi_task = named_files(args.multi_task, "--multi-task")
        if args.train is not None:
            raise InputError(
                f"--multi-task replaces TRAIN; remove {args.train}, or pass it as NAME=FILE with "
                "--multi-task"
            )
        if args.validation is not None:
            args.validation = named_files(args.validation, "--validation")

            from bayeslora.tasks.union import check_tasks

            check_tasks(args.validation, [*args.multi_task], "--validation")
        return
    if isinstance(args.validation, Mapping):
        raise InputError("validation has a file per task, but there are no tasks; set multi_task")
    if isinstance(args.validation, list):
        if len(args.validation) > 1:
            raise InputError(
                "several --validation files require several tasks: use --multi-task NAME=FILE "
                "and --validation NAME=FILE"
            )
        (args.validation,) = args.validation


def files_of(*arguments: Any) -> list[str]:
    """Return all files of arguments that are a file, a mapping of files by task, or None."""
    files: list[str] = []
    for value in arguments:
        files += value.values() if isinstance(value, Mapping) else [] if value is None else [value]
    return files


def read_tasks(
    files: Mapping[str, str],
    args: argparse.Namespace,
    columns: DataColumns,
    *,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
) -> dict[str, Examples]:
    """Return the rows of each task; see `data.read`.

    Raises:
        InputError: As `data.read`, or --task is set too.
    """
    from bayeslora.tasks.known import KNOWN_TASKS, has_rows, load_task
    from bayeslora.tasks.readers import kept

    if args.task is not None:
        raise InputError(f"--multi-task already names the tasks; remove --task {args.task}")
    rows = {}
    directory, args.data_dir = args.data_dir, None
    try:
        for task, file in files.items():
            is_split = task in KNOWN_TASKS and file in KNOWN_TASKS[task].splits
            # Without a directory, a user's file may have the name of a split.
            if is_split and has_rows(task, directory) and (directory or not Path(file).exists()):
                rows[task] = kept(load_task(task, file, directory), keep)
            else:
                rows[task] = read(file, args, columns, labels=labels, keep=keep)
    finally:
        args.data_dir = directory
    return rows


def read_of_tasks(
    files: str | Mapping[str, str],
    args: argparse.Namespace,
    columns: DataColumns,
    record: ModelRecord,
    *,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
) -> Examples:
    """Return rows for a model of several tasks, each with its task; see `data.read`.

    Args:
        files: One file whose rows have a column `task`, or a file per task.
        args: Options for reading files.
        columns: Columns of the data.
        record: Record of the model.
        labels: Whether each row needs a label.
        keep: Additional columns.

    Raises:
        InputError: As `data.read`, or a row has no task, or an unknown one.
    """
    from bayeslora.engine.data import read_for, told_apart
    from bayeslora.tasks.union import check_tasks

    if isinstance(files, Mapping):
        check_tasks(files, [*record.tasks], "the model")
        parts = read_tasks(files, args, columns, labels=labels, keep=keep)
        return read_for(record, parts, columns, keep)
    return told_apart(
        record, lambda names: read(files, args, columns, labels=labels, keep=names), keep
    )


def scores_by_task(predictions: Predictions) -> dict[str, Any]:
    """Return the scores of the labelled rows of each task, by name.

    Args:
        predictions: Predictions with a column `task`.
    """
    import numpy as np

    from bayeslora.metrics.evaluate import evaluate
    from bayeslora.tasks.union import TASK

    names = np.asarray(predictions.columns[TASK])
    return {
        str(task): evaluate(predictions.take(chosen))
        for task in dict.fromkeys(names.tolist())
        if (chosen := (names == task) & predictions.labelled).any()
    }

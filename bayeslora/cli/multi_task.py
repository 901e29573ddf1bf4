"""Several tasks on the command line: `NAME=FILE`, a file each."""

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


def add_multi_task(parser: argparse.ArgumentParser, what: str) -> argparse.Action:
    """Add the option that names the files of several tasks.

    Args:
        parser: Gets it.
        what: The argument in whose place it is.
    """
    return parser.add_argument(
        "--multi-task",
        action="append",
        metavar="NAME=FILE",
        help=f"rows of one of several tasks, in the place of {what}; may be repeated. NAME of a "
        "known task with --data-dir takes a split, such as sst2_sentences=train",
    )


def named_files(given: Any, option: str) -> dict[str, str]:
    """Return files by the names of their tasks.

    Args:
        given: `NAME=FILE` each, or a mapping of --config.
        option: How it was given, for messages.

    Raises:
        InputError: One is no such pair, or a name is given twice.
    """
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, str] = {}
    for one in [given] if isinstance(given, str) else given:
        name, equals, file = one.partition("=")
        if not equals or not name.strip() or not file:
            raise InputError(f"{option} must be NAME=FILE for each of several tasks, got {one!r}")
        if name in found:
            raise InputError(f"{option}: task {name!r} is given twice")
        found[name] = file
    return found


def settle_tasks(args: argparse.Namespace) -> None:
    """Make `args.multi_task` and, beside it, `args.validation` mappings; else the latter one file.

    Raises:
        InputError: They are not NAME=FILE, a validation name has no task, or several files are
            given for one task.
    """
    if args.multi_task is not None:
        args.multi_task = named_files(args.multi_task, "--multi-task")
        if args.train is not None:
            raise InputError(
                f"--multi-task takes the place of TRAIN; leave {args.train} out, or give it a name"
            )
        if args.validation is not None:
            args.validation = named_files(args.validation, "--validation")

            from bayeslora.tasks.union import check_tasks

            check_tasks(args.validation, [*args.multi_task], "--validation")
        return
    if isinstance(args.validation, Mapping):
        raise InputError("validation has files by task, and there are no tasks: give multi_task")
    if isinstance(args.validation, list):
        if len(args.validation) > 1:
            raise InputError(
                "--validation is given several times, which is for several tasks: --multi-task "
                "NAME=FILE and --validation NAME=FILE"
            )
        (args.validation,) = args.validation


def files_of(*given: Any) -> list[str]:
    """Return the files among arguments that are a file, files by task, or None."""
    found: list[str] = []
    for one in given:
        found += one.values() if isinstance(one, Mapping) else [] if one is None else [one]
    return found


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
        InputError: As `data.read`, or --task is given too.
    """
    from bayeslora.tasks.known import KNOWN_TASKS, has_rows, load_task
    from bayeslora.tasks.readers import kept

    if args.task is not None:
        raise InputError(f"--multi-task names tasks itself; leave --task {args.task} out")
    found = {}
    directory, args.data_dir = args.data_dir, None
    try:
        for task, file in files.items():
            is_split = task in KNOWN_TASKS and file in KNOWN_TASKS[task].splits
            # Where no directory is named, a file of the user's own may be called like a split.
            if is_split and has_rows(task, directory) and (directory or not Path(file).exists()):
                found[task] = kept(load_task(task, file, directory), keep)
            else:
                found[task] = read(file, args, columns, labels=labels, keep=keep)
    finally:
        args.data_dir = directory
    return found


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
        files: One file whose rows have a column `task`, or a file a task.
        args: How files are read.
        columns: Where rows come from.
        record: Of the model.
        labels: Whether each row needs one.
        keep: Further columns.

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
        record, lambda kept: read(files, args, columns, labels=labels, keep=kept), keep
    )


def scores_by_task(predictions: Predictions) -> dict[str, Any]:
    """Return the scores of the labelled rows of each task, by its name.

    Args:
        predictions: With the column `task`.
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

"""Rows named by arguments: files, splits of a known task, and `NAME=FILE` for several tasks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bayeslora.cli.arguments import given
from bayeslora.errors import InputError
from bayeslora.plain_text import shown

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.examples import Examples
    from bayeslora.data.read import ExampleStream
    from bayeslora.predictions.files import PredictionsReading


def column_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the columns set by options, as keyword arguments of `fit` and `calibrate`."""
    options = given(args, "text_column", "label_column")
    if args.text_pair_column is not None:
        options["pair_column"] = args.text_pair_column
    if args.image_column is not None:
        if "text_column" in options:
            raise InputError("--image-column replaces --text-column; use only one of them")
        options["image_column"] = args.image_column
    return options


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options for reading text files, as keyword arguments of `load_examples`."""
    return given(args, "delimiter", "encoding", "blank")


def predictions_reading(args: argparse.Namespace) -> PredictionsReading:
    """Return the options for reading predictions files.

    Raises:
        InputError: An option is not allowed.
    """
    from bayeslora.data.formats import Reading
    from bayeslora.predictions.files import PredictionsReading

    classes: dict[str, str] = {}
    for pair in args.probability_column:
        column, _, name = pair.rpartition("=")
        if not column or not name or column in classes:
            raise InputError(
                f"--probability-column {shown(pair)}: expected NAME=CLASS, once per column"
            )
        classes[column] = name
    table = Reading(args.delimiter, args.encoding)
    return PredictionsReading(table, classes, renormalise=args.renormalise)


def columns_for(args: argparse.Namespace, record: ModelRecord | None) -> DataColumns:
    """Return the columns set by options, with a bayeslora model's columns as defaults."""
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.read import renamed
    from bayeslora.engine.data import check_pairs, columns_of

    known = DataColumns() if record is None else columns_of(record)
    named = column_options(args)
    pair = named.get("pair_column", known.pair)
    if record is not None:
        check_pairs(record, pair)
    names = ("text_column", "label_column", "pair_column", "image_column")
    return renamed(known, *map(named.get, names))


def read(
    data: str,
    args: argparse.Namespace,
    columns: DataColumns,
    *,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
) -> Examples:
    """Return the rows of a file, or of a split if `args.task` is a known task.

    `keep` names additional columns.

    Raises:
        InputError: As `load_examples`.
    """
    from bayeslora.data.read import is_description, load_examples, load_rows
    from bayeslora.option_checks import KINDS

    _refuse_idle(args)
    if is_description(args.task) and column_options(args):
        raise InputError(
            f"--task {args.task} already names the columns; remove --text-column, "
            "--text-pair-column and --label-column"
        )
    if args.task is None or args.task in KINDS:
        options = reading_options(args)
        return load_rows(data, columns, kind=args.task, labels=labels, keep=keep, **options)
    return load_examples(
        data,
        labels=labels,
        task=args.task,
        data_dir=args.data_dir,
        keep=keep,
        **reading_options(args),
    )


def open_rows(
    data: str, args: argparse.Namespace, columns: DataColumns, *, keep: Sequence[str] = ()
) -> ExampleStream:
    """Return the rows of `read`, labelled or not, as a stream that reads a file in pieces.

    Raises:
        InputError: As `load_examples`.
    """
    from bayeslora.data.read import open_examples, stream_of

    _refuse_idle(args)
    if args.task is not None:
        return stream_of(read(data, args, columns, keep=keep))
    return open_examples(data, columns, keep=keep, **reading_options(args))


def _refuse_idle(args: argparse.Namespace) -> None:
    if args.data_dir is not None and args.task is None:
        raise InputError(
            "--data-dir, the directory with the files of known tasks, has no effect without --task"
        )


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

            from bayeslora.data.union import check_tasks

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
    from bayeslora.data.known import KNOWN_TASKS, has_rows, load_task
    from bayeslora.data.read import kept

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


def refuse_tasks(files: Any, record: ModelRecord | None, model: str, instead: str) -> None:
    """Raise InputError for a file per task of a model that was fitted to one task.

    Args:
        files: A file, or a mapping of files by task.
        record: Record of the model; None for a classifier trained elsewhere.
        model: Path of the model, for the message.
        instead: Argument to use instead, for the message.
    """
    if isinstance(files, Mapping) and (record is None or not record.tasks):
        raise InputError(f"{model} was fitted to one task; use {instead} instead of --multi-task")


def labelled_rows(
    files: str | Mapping[str, str],
    args: argparse.Namespace,
    columns: DataColumns,
    record: ModelRecord | None,
) -> Examples:
    """Return labelled rows for a model, whose labels are checked if its classes are known.

    Raises:
        InputError: As `read_of_tasks`, or a label is not a class.
    """
    from bayeslora.engine.data import encode_for

    if record is None or not record.tasks:
        rows = read(str(files), args, columns, labels="required")
    else:
        rows = read_of_tasks(files, args, columns, record, labels="required")
    if record is not None:
        encode_for(record, rows)
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
    from bayeslora.data.union import check_tasks
    from bayeslora.engine.data import read_for, told_apart

    if isinstance(files, Mapping):
        check_tasks(files, [*record.tasks], "the model")
        parts = read_tasks(files, args, columns, labels=labels, keep=keep)
        return read_for(record, parts, columns, keep)
    return told_apart(
        record, lambda names: read(files, args, columns, labels=labels, keep=names), keep
    )

"""Rows named by an argument: a user's file, or a split of a known task."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from bayeslora.cli.arguments import given
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.predictions.columns import PredictionsReading
    from bayeslora.tasks.columns import DataColumns
    from bayeslora.tasks.examples import Examples
    from bayeslora.tasks.stream import ExampleStream


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
    from bayeslora.predictions.columns import PredictionsReading, probability_columns
    from bayeslora.tables.reading import Reading

    return PredictionsReading(
        Reading(args.delimiter, args.encoding),
        probability_columns(args.probability_column),
        renormalise=args.renormalise,
    )


def columns_for(args: argparse.Namespace, record: ModelRecord | None) -> DataColumns:
    """Return the columns set by options, with a bayeslora model's columns as defaults."""
    from bayeslora.engine.data import check_pairs, columns_of
    from bayeslora.tasks.columns import DataColumns
    from bayeslora.tasks.readers import renamed

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
    from bayeslora.option_checks import KINDS
    from bayeslora.tasks.description import is_description
    from bayeslora.tasks.readers import load_examples, load_rows

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
    from bayeslora.tasks.readers import open_examples
    from bayeslora.tasks.stream import stream_of

    _refuse_idle(args)
    if args.task is not None:
        return stream_of(read(data, args, columns, keep=keep))
    return open_examples(data, columns, keep=keep, **reading_options(args))


def _refuse_idle(args: argparse.Namespace) -> None:
    if args.data_dir is not None and args.task is None:
        raise InputError(
            "--data-dir, the directory with the files of known tasks, has no effect without --task"
        )

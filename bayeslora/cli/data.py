"""Rows named by arguments: files, standard input, splits of a known task, `NAME=FILE`s of tasks."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import given
from bayeslora.errors import InputError
from bayeslora.io.files import SPOOL, shown_path
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import shown
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.examples import Examples
    from bayeslora.data.formats import Reading
    from bayeslora.predictions.files import PredictionsReading

_STDIN = "-"
_HEAD = 2**16  # bytes

_FILES = ("train", "validation", "data", "files", "fit", "apply", "ood")
"""Arguments that name files to read, or `NAME=FILE`, one or several."""


def column_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the columns set by options, as keyword arguments of `fit` and `calibrate`."""
    if args.image_column is not None and args.text_column is not None:
        raise InputError("--image-column replaces --text-column; use only one of them")
    options = given(args, "text_column", "label_column", "image_column")
    if args.text_pair_column is not None:
        options["pair_column"] = args.text_pair_column
    return options


def reading(args: argparse.Namespace) -> Reading:
    """Return how the rows of data files are read.

    Raises:
        InputError: An option is not allowed.
    """
    from bayeslora.data.formats import Reading

    kind = args.task if args.task in KINDS else None
    return Reading(**given(args, "delimiter", "encoding", "blank"), kind=kind)


def predictions_reading(args: argparse.Namespace) -> PredictionsReading:
    """Return the options for reading predictions files.

    Raises:
        InputError: An option is not allowed.
    """
    from bayeslora.data.formats import Reading
    from bayeslora.predictions.files import PredictionsReading

    classes: dict[str, str] = {}
    for pair in args.probability_column or ():
        column, _, name = pair.rpartition("=")
        if not column or not name or column in classes:
            raise InputError(
                f"--probability-column {shown(pair)}: expected NAME=CLASS, once per column"
            )
        classes[column] = name
    table = Reading(**given(args, "delimiter", "encoding"))
    return PredictionsReading(table, classes, **given(args, "renormalise", "normalise"))


def columns_for(args: argparse.Namespace, record: ModelRecord | None) -> DataColumns:
    """Return the columns set by options, with a bayeslora model's columns as defaults.

    Raises:
        InputError: A description names the columns, too, or the model takes no second texts.
    """
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.questions import is_description, read_description
    from bayeslora.engine.data import check_pairs, columns_of

    named = column_options(args)
    if is_description(args.task):
        if named:
            raise InputError(
                f"--task {args.task} already names the columns; remove --text-column, "
                "--text-pair-column and --label-column"
            )
        return read_description(args.task).columns(args.task)
    known = DataColumns() if record is None else columns_of(record)
    names = ("text_column", "label_column", "pair_column", "image_column")
    columns = known.renamed(*map(named.get, names))
    if record is not None:
        check_pairs(record, columns.pair)
    return columns


def named_rows(files: Any, args: argparse.Namespace) -> Any:
    """Return what arguments name: the path of a file, or the rows of a split of a known task.

    Args:
        files: A file or a split; a mapping from tasks to these; or None.
        args: Options for reading files.

    Raises:
        InputError: A task or split is unknown, or an option has no effect.
    """
    from bayeslora.data.questions import is_description

    if files is None:
        return None
    if isinstance(files, Mapping):
        if args.task is not None:
            raise InputError(f"--multi-task already names the tasks; remove --task {args.task}")
        return {task: _of_task(task, file, args.data_dir) for task, file in files.items()}
    if args.task is None:
        reason = ", the directory with the files of known tasks, has no effect without --task"
        if args.data_dir is not None:
            raise InputError(f"--data-dir{reason}")
    if args.task is None or args.task in KINDS or is_description(args.task):
        return Path(files)

    from bayeslora.data.known import load_task

    if args.delimiter is not None or args.encoding is not None:
        raise InputError(f"delimiter and encoding apply only to files, not to task {args.task!r}")
    return load_task(args.task, files, args.data_dir)


def _of_task(task: str, file: str, data_dir: str | None) -> Any:
    from bayeslora.data.known import KNOWN_TASKS, has_rows, load_task

    is_split = task in KNOWN_TASKS and file in KNOWN_TASKS[task].splits
    # Without a directory, a user's file may have the name of a split.
    if is_split and has_rows(task, data_dir) and (data_dir or not Path(file).exists()):
        return load_task(task, file, data_dir)
    return Path(file)


def labelled_rows(
    files: Any,
    args: argparse.Namespace,
    columns: DataColumns,
    record: ModelRecord | None,
) -> Any:
    """Return the labelled rows of files, by task where they are a mapping; None for None.

    Args:
        files: As for `named_rows`.
        args: Options for reading files.
        columns: Names of the columns.
        record: The record of a fitted model, of whose classes the labels must be.

    Raises:
        InputError: A value is not allowed, or a label is not a class.
    """
    from bayeslora.data.read import read
    from bayeslora.engine.data import encode_for, read_for

    data, how = named_rows(files, args), reading(args)
    if record is not None and data is not None:
        rows = read_for(record, data, columns, labels="required", reading=how)
        encode_for(record, rows)
        return rows

    def plain(source: Any) -> Examples:
        return read(source, columns, labels="required", reading=how)

    if isinstance(data, Mapping):
        return {task: plain(source) for task, source in data.items()}
    return None if data is None else plain(data)


def settle_tasks(args: argparse.Namespace, source: str) -> None:
    """Convert `args.multi_task` and `args.validation` to mappings, or the latter to one file.

    Args:
        args: The arguments.
        source: Name of the argument that `--multi-task` replaces: `train` or `data`.

    Raises:
        InputError: They are not NAME=FILE, a validation name has no task, or one task has several
            files.
    """
    validation, replaced = getattr(args, "validation", None), getattr(args, source)
    if args.multi_task is not None:
        args.multi_task = _named_files(args.multi_task, "--multi-task")
        if replaced is not None:
            raise InputError(
                f"--multi-task replaces {source.upper()}; remove {replaced}, or pass it as "
                "NAME=FILE with --multi-task"
            )
        if validation is not None:
            args.validation = _named_files(validation, "--validation")

            from bayeslora.data.union import check_tasks

            check_tasks(args.validation, [*args.multi_task], "--validation")
    elif isinstance(validation, Mapping):
        raise InputError("validation has a file per task, but there are no tasks; set multi_task")
    elif validation is not None:
        if len(validation) > 1:
            raise InputError(
                "several --validation files require several tasks: use --multi-task NAME=FILE "
                "and --validation NAME=FILE"
            )
        (args.validation,) = validation


def _named_files(values: Any, option: str) -> dict[str, str]:
    """Return files by task name.

    Args:
        values: `NAME=FILE` texts, or a mapping of --config.
        option: Name of the option, for messages.

    Raises:
        InputError: A value is not such a pair, or a name occurs twice.
    """
    if isinstance(values, Mapping):
        if not all(isinstance(file, str) for file in values.values()):
            raise InputError(f"{option} must map each task to a file, got {dict(values)!r}")
        return {str(name): file for name, file in values.items()}
    files: dict[str, str] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not equals or not name.strip() or not file:
            raise InputError(f"{option} must be NAME=FILE for each of several tasks, got {value!r}")
        if name in files:
            raise InputError(f"{option}: task {name!r} is listed twice")
        files[name] = file
    return files


def files_of(*arguments: Any) -> list[str]:
    """Return all files of arguments that are a file, a mapping of files by task, or None."""
    files: list[str] = []
    for value in arguments:
        files += value.values() if isinstance(value, Mapping) else [] if value is None else [value]
    return files


@contextmanager
def stdin_as_file(args: argparse.Namespace) -> Iterator[None]:
    """Replace `-` in arguments by the path of a file with the content of standard input.

    Commands read their files more than once. The file is deleted when the block ends; errors name
    `<stdin>` instead.

    Raises:
        InputError: Standard input is empty, is closed, or has an endless first line.
    """
    values = {name: getattr(args, name, None) for name in _FILES}
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    if not any(_names_stdin(item) for items in lists.values() for item in items):
        yield
        return
    if current().size > 1:
        raise InputError(
            "several processes cannot share standard input; pass a file instead of '-'"
        )
    with tempfile.TemporaryDirectory(prefix=SPOOL) as folder:
        path = str(_spooled(Path(folder), getattr(args, "encoding", None)))
        for name, items in lists.items():
            replaced = [
                f"{str(item).removesuffix(_STDIN)}{path}" if _names_stdin(item) else item
                for item in items
            ]
            if replaced != items:
                setattr(args, name, replaced if isinstance(values[name], list) else replaced[0])
        try:
            yield
        except InputError as error:
            message = str(error).replace(path, shown_path(path))
            raise InputError(message, code=error.code, option=error.option) from None


def _names_stdin(value: Any) -> bool:
    return isinstance(value, str) and (value == _STDIN or value.endswith(f"={_STDIN}"))


def _spooled(folder: Path, encoding: str | None) -> Path:
    """Copy standard input to a file with the suffix of the format that its beginning suggests."""
    if sys.stdin is None:
        raise InputError("standard input is closed, so '-' cannot be read")
    stream = sys.stdin.buffer
    head = stream.read(_HEAD)
    path = folder / f"stdin{suffix_of(head, encoding)}"
    with path.open("wb") as out:
        out.write(head)
        shutil.copyfileobj(stream, out)
    return path


def suffix_of(head: bytes, encoding: str | None = None) -> str:
    """Infer the suffix of a file from its first bytes.

    Parquet is detected by its first bytes and JSON by its first character; everything else is a
    comma-separated table, or tab-separated if its first line has a tab and no comma.

    Args:
        head: The first few thousand bytes, which may be compressed by gzip.
        encoding: Encoding of the text; None for UTF-8.

    Raises:
        InputError: The bytes are not the start of a table.
    """
    from bayeslora.data.formats import Reading

    packed = ".gz" if head.startswith(b"\x1f\x8b") else ""
    if packed:
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(head) * 16)
        except zlib.error as error:
            raise InputError(f"<stdin> cannot be decompressed with gzip: {error}") from None
    if head.startswith(b"PAR1"):
        return ".parquet"
    text = head.decode(Reading(encoding=encoding).encoding or "utf-8-sig", "replace").lstrip()
    if "\0" in text:
        raise InputError(f"<stdin> is not a table; it starts with {shown(text[:20])}")
    if text.startswith(("{", "[")):
        return f".json{packed}"
    line = text.partition("\n")[0]
    kind = ".tsv" if "\t" in line and "," not in line else ".csv"
    return f"{kind}{packed}"

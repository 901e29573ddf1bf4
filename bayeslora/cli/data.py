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

_FILES = ("train", "validation", "data", "file", "files", "fit", "apply", "ood")
"""Arguments that name files to read, or `NAME=FILE`, one or several."""


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


def reading(args: argparse.Namespace) -> Reading:
    """Return how the rows of data files are read.

    Raises:
        InputError: An option is not allowed.
    """
    from bayeslora.data.formats import Reading

    kind = args.task if args.task in KINDS else None
    return Reading(args.delimiter, args.encoding, args.blank or "refuse", kind)


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
    if args.data_dir is not None and args.task is None:
        raise InputError(
            "--data-dir, the directory with the files of known tasks, has no effect without --task"
        )
    if args.task is None or args.task in KINDS or is_description(args.task):
        return Path(files)

    from bayeslora.data.known import load_task

    if args.delimiter is not None or args.encoding is not None:
        raise InputError(
            f"--delimiter and --encoding apply only to files, not to task {args.task!r}"
        )
    return load_task(args.task, files, args.data_dir)


def _of_task(task: str, file: str, data_dir: str | None) -> Any:
    from bayeslora.data.known import KNOWN_TASKS, has_rows, load_task

    is_split = task in KNOWN_TASKS and file in KNOWN_TASKS[task].splits
    # Without a directory, a user's file may have the name of a split.
    if is_split and has_rows(task, data_dir) and (data_dir or not Path(file).exists()):
        return load_task(task, file, data_dir)
    return Path(file)


def labelled_rows(
    files: str | Mapping[str, str],
    args: argparse.Namespace,
    columns: DataColumns,
    record: ModelRecord | None,
) -> Examples:
    """Return labelled rows for a model, whose labels are checked if its classes are known.

    Raises:
        InputError: As `read_for`, or a label is not a class.
    """
    from bayeslora.data.read import read
    from bayeslora.engine.data import encode_for, read_for

    data, how = named_rows(files, args), reading(args)
    if record is None and isinstance(files, Mapping):
        raise InputError("MODEL was not fitted to several tasks; use TRAIN instead of --multi-task")
    if record is None:
        return read(data, columns, labels="required", reading=how)
    rows = read_for(record, data, columns, labels="required", reading=how)
    encode_for(record, rows)
    return rows


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


@contextmanager
def stdin_as_file(args: argparse.Namespace) -> Iterator[None]:
    """Replace `-` in arguments by the path of a file with the content of standard input.

    Commands read their files more than once. The file is deleted when the block ends; errors name
    `<stdin>` instead.

    Raises:
        InputError: Standard input is empty, is closed, or has an endless first line.
    """
    if not any(map(_names_stdin, _values(args))):
        yield
        return
    if current().size > 1:
        raise InputError(
            "several processes cannot share standard input; pass a file instead of '-'"
        )
    with tempfile.TemporaryDirectory(prefix=SPOOL) as folder:
        path = str(_spooled(Path(folder), getattr(args, "encoding", None)))
        for name in _FILES:
            value = getattr(args, name, None)
            if isinstance(value, list):
                setattr(args, name, [_replaced(argument, path) for argument in value])
            elif isinstance(value, str):
                setattr(args, name, _replaced(value, path))
        try:
            yield
        except InputError as error:
            raise InputError(str(error).replace(path, shown_path(path))) from None


def _values(args: argparse.Namespace) -> Iterator[object]:
    for name in _FILES:
        value = getattr(args, name, None)
        yield from value if isinstance(value, list) else [value]


def _names_stdin(value: object) -> bool:
    return isinstance(value, str) and (value == _STDIN or value.endswith(f"={_STDIN}"))


def _replaced(value: str, path: str) -> str:
    return f"{value.removesuffix(_STDIN)}{path}" if _names_stdin(value) else value


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

    packed = head.startswith(b"\x1f\x8b")
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
    line = text.partition("\n")[0]
    kind = ".tsv" if "\t" in line and "," not in line else ".csv"
    kind = ".json" if text.startswith(("{", "[")) else kind
    return f"{kind}.gz" if packed else kind

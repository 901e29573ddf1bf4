"""Rows named by arguments: files, standard input, splits of a known task, `NAME=FILE`s of tasks."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import given
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import SPOOL, shown_path
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import quoted, shown
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.examples import Examples
    from bayeslora.data.formats import Reading
    from bayeslora.predictions.collection import Method
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


TEST = "predictions/test.parquet"
FITTED = frozenset({"train", "validation"})
"""Splits in `predictions/` that are not out of distribution but were used for fitting."""


@dataclass(frozen=True)
class Scored:
    """Predictions to score.

    Attributes:
        files: In-distribution predictions, one file per method.
        ood: Files of the out-of-distribution sets, by the method's label, then by name.
        reading: How to read them.
        shifted: Files in run directories with deliberately corrupted rows.
    """

    files: list[Path]
    ood: dict[str, dict[str, Path]]
    reading: PredictionsReading
    shifted: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [*self.files, *(path for sets in self.ood.values() for path in sets.values())]

    def methods(self, needed: Sequence[str] = ()) -> list[Method]:
        """Read all predictions, with additional columns that every method's file must have."""
        from bayeslora.predictions.collection import gather

        return gather(self.files, self.ood, needed=needed, reading=self.reading)


def find(args: argparse.Namespace) -> Scored:
    """Return the predictions named by the arguments of a scoring verb.

    Args:
        args: Arguments with `files`, predictions files and run directories, reading options, and
            perhaps `ood`, each `NAME=FILE` or `METHOD:NAME=FILE`.

    Raises:
        InputError: A file is missing or wrong, or a set cannot be assigned to a method.
    """
    from bayeslora.predictions.collection import labels_of

    paths, reading = args.files, predictions_reading(args)
    files = [_test_file(Path(path)) for path in paths]
    called = labels_of(files, reading)
    sets: dict[str, dict[str, Path]] = {}
    shifted: list[Path] = []
    for path, file, (label, _) in zip(paths, files, called, strict=True):
        beside = _sets_beside(file) if Path(path).is_dir() else {}
        corrupted = [name for name, sibling in beside.items() if _is_shifted(sibling, reading)]
        shifted += [beside.pop(name) for name in corrupted]
        sets[label] = beside
    for option in getattr(args, "ood", ()):
        label, name, file = _tied(option, called)
        if name in sets[label]:
            raise InputError(f"--ood {option}: {label} already has a set {name!r}")
        sets[label][name] = file
    if getattr(args, "ood_score", None) is not None and not any(sets.values()):
        raise InputError(
            f"--ood-score {args.ood_score}: there are no out-of-distribution sets; add them with "
            "--ood"
        )
    return Scored(files, sets, reading, tuple(shifted))


def _test_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / TEST).is_file():
        from bayeslora.checkpoint import is_model

        if is_model(path):
            raise InputError(
                f"{path} is a model without predictions; create them with `bayeslora predict "
                f"{path} DATA --out FILE.parquet`"
            )
        raise InputError(
            f"{path} has no {TEST}; pass a predictions file (.parquet, .csv, .jsonl) or a run "
            "directory"
        )
    return path / TEST


def _sets_beside(test: Path) -> dict[str, Path]:
    return {
        file.stem: file
        for file in sorted(test.parent.glob("*.parquet"))
        if file != test and file.stem not in FITTED
    }


def _is_shifted(file: Path, reading: PredictionsReading) -> bool:
    from bayeslora.predictions.files import open_columns

    return "corruption" in open_columns(file, reading).notes


def _tied(option: str, called: Sequence[tuple[str, str]]) -> tuple[str, str, Path]:
    """Parse an OOD option into the label of the method, the name of the set and its file.

    Args:
        option: `NAME=FILE`, or `METHOD:NAME=FILE` with a label, or a name that one method has.
        called: Label and name of each method.
    """
    left, equals, file = option.partition("=")
    if not (left and equals and file):
        raise InputError(f"--ood {option}: expected NAME=FILE or METHOD:NAME=FILE")
    methods = {label: label for label, _ in called}
    count = Counter(name for _, name in called)
    for label, name in called:
        if count[name] == 1:
            methods.setdefault(name, label)
    for method, label in methods.items():
        if left.startswith(f"{method}:") and left != f"{method}:":
            return label, left.removeprefix(f"{method}:"), Path(file)
    unknown, colon, _ = left.partition(":")
    if colon:
        raise unknown_choice("method", unknown, methods).within(f"--ood {option}")
    if len(called) > 1:
        raise InputError(
            f"--ood {option}: specify which of the {len(called)} methods made these predictions, "
            f"as METHOD:{option}, with METHOD one of {', '.join(map(quoted, methods))}"
        )
    return called[0][0], left, Path(file)

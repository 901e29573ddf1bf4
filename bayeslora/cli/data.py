"""Rows and predictions that arguments name: files, known tasks, `NAME=FILE`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import given, refuse
from bayeslora.errors import InputError
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import listed, shown

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.formats import Reading
    from bayeslora.predictions.collection import Method
    from bayeslora.predictions.files import PredictionsReading
    from bayeslora.predictions.record import Predictions


def column_options(args: Any) -> dict[str, Any]:
    """Return the columns set by options, as keyword arguments of `fit` and `calibrate`."""
    if args.image_column is not None and args.text_column is not None:
        raise InputError("--image-column replaces --text-column; use only one of them")
    options = given(args, "text_column", "label_column", "image_column")
    if args.text_pair_column is not None:
        options["pair_column"] = args.text_pair_column
    return options


def reading(args: Any) -> Reading:
    """Return how the rows of data files are read.

    Raises:
        InputError: An option is not allowed.
    """
    from bayeslora.data.formats import Reading

    kind = args.task if args.task in KINDS else None
    return Reading(**given(args, "delimiter", "encoding"), kind=kind)


def predictions_reading(args: Any) -> PredictionsReading:
    """Return the options for reading predictions files.

    Raises:
        InputError: An option is not allowed.
    """
    from bayeslora.data.formats import Reading
    from bayeslora.predictions.files import PredictionsReading

    classes = pairs(args.probability_column or (), "--probability-column", "NAME=CLASS")
    table = Reading(**given(args, "delimiter", "encoding"))
    options = given(args, "renormalise", "label_column")
    return PredictionsReading(table, classes, **options, name=getattr(args, "name", None) or "")


def columns_for(args: Any, record: ModelRecord | None) -> DataColumns:
    """Return the columns set by options, with a bayeslora model's columns as defaults."""
    from bayeslora.data.columns import DataColumns
    from bayeslora.engine.data import columns_of
    from bayeslora.engine.training_options import columns_in

    known = DataColumns() if record is None else columns_of(record)
    return known.renamed(**columns_in(column_options(args)))


def named_rows(files: Any, args: Any) -> Any:
    """Return what arguments name: the path of a file, or the rows of a split of a known task.

    Args:
        files: A file or a split; a mapping from tasks to these; or None.
        args: Options for reading files.

    Raises:
        InputError: A task or split is unknown, or an option has no effect.
    """
    if files is None:
        return None
    if isinstance(files, Mapping):
        refuse(args, ["task"], "has no effect: --multi-task names the tasks")
        return {task: Path(file) for task, file in files.items()}
    if args.task is None:
        refuse(args, ["data_dir"], "has no effect without --task")
    if args.task in (None, *KINDS):
        return Path(files)

    from bayeslora.data.known import load_task

    return load_task(args.task, files, args.data_dir)


def labelled_rows(
    data: Any,
    columns: DataColumns,
    how: Reading,
    record: ModelRecord | None = None,
    keep: Sequence[str] = (),
) -> Any:
    """Return the labelled rows of files, by task where they are a mapping; None for None.

    Args:
        data: Rows or files, as from `named_rows`.
        columns: Names of the columns.
        how: How to read files.
        record: The record of a fitted model, of whose classes the labels must be.
        keep: Further columns to keep.

    Raises:
        InputError: A value is not allowed, or a label is not a class.
    """
    from bayeslora.data.read import read
    from bayeslora.engine.data import encode_for, read_for

    if data is None:
        return None
    if record is not None:
        rows = read_for(record, data, columns, labels="required", keep=keep, reading=how)
        encode_for(record, rows)
        return rows
    if isinstance(data, Mapping):
        return {task: labelled_rows(source, columns, how) for task, source in data.items()}
    return read(data, columns, labels="soft", keep=keep, reading=how)


def training_rows(args: Any, record: ModelRecord | None) -> tuple[Any, Any]:
    """Return the labelled rows of TRAIN and of --validation, None where there are none.

    Args:
        args: Arguments with `train`, `validation`, and options for reading files.
        record: The record of the model that they are for, if it has one.
    """
    columns, how = columns_for(args, record), reading(args)
    train, validation = (
        labelled_rows(named_rows(files, args), columns, how, record)
        for files in (args.train, args.validation)
    )
    return train, validation


def settle_tasks(args: Any, source: str) -> None:
    """Move the files of `--multi-task` and `--validation` to mappings, or the latter to one file.

    Args:
        args: The arguments.
        source: Name of the argument that `--multi-task` replaces: `train` or `data`.

    Raises:
        InputError: They are not NAME=FILE, or one task has several files.
    """
    if args.multi_task is not None:
        refuse(args, [source], "is replaced by --multi-task; pass it there as NAME=FILE")
        setattr(args, source, pairs(args.multi_task, "--multi-task", "NAME=FILE"))
    validation = getattr(args, "validation", None)
    if isinstance(validation, list):
        if args.multi_task is not None:
            args.validation = pairs(validation, "--validation", "NAME=FILE")
        elif len(validation) > 1:
            raise InputError("several --validation files require --multi-task NAME=FILE")
        else:
            (args.validation,) = validation


def pairs(values: Any, option: str, form: str) -> dict[str, str]:
    """Return the values of an option by name, from `NAME=VALUE` texts or a mapping of --config.

    Args:
        values: The texts, or the mapping.
        option: The option, for messages.
        form: Form of a text, such as `NAME=FILE`.

    Raises:
        InputError: A text has another form, or a name occurs twice.
    """
    if isinstance(values, Mapping):
        return {str(name): str(value) for name, value in values.items()}
    by_name: dict[str, str] = {}
    for text in values:
        name, _, value = text.partition("=")
        if not name.strip() or not value.strip() or name in by_name:
            raise InputError(f"{option} must be {form}, each name once, got {shown(text)}")
        by_name[name] = value
    return by_name


def files_of(*arguments: Any) -> list[str]:
    """Return all files of arguments that are a file, a mapping of files by task, or None."""
    files: list[str] = []
    for value in arguments:
        files += value.values() if isinstance(value, Mapping) else [] if value is None else [value]
    return files


TEST = "predictions/test.parquet"
FITTED = frozenset({"train", "validation"})
"""Splits in `predictions/` that are not out of distribution but were used for fitting."""


@dataclass(frozen=True)
class Scored:
    """Predictions to score.

    Attributes:
        items: In-distribution predictions, one per method: a file, or those of a checkpoint.
        ood: Files of the out-of-distribution sets, by the method's label or name, then by name.
        reading: How to read files.
    """

    items: list[Path | Predictions]
    ood: dict[str, dict[str, Path]]
    reading: PredictionsReading

    def methods(self, *needed: str | None) -> list[Method]:
        """Read all predictions, with additional columns that every method's file must have."""
        from bayeslora.predictions.collection import gather

        columns = [*dict.fromkeys(filter(None, needed))]
        return gather(self.items, self.ood, needed=columns, reading=self.reading)


def find(args: Any) -> Scored:
    """Return the predictions named by the arguments of a scoring verb.

    Args:
        args: Arguments with `files` (predictions files, run directories, and checkpoints that are
            each followed by labelled rows), reading options, and perhaps `ood`, each `NAME=FILE` or
            `METHOD:NAME=FILE`.

    Raises:
        InputError: A file is missing or wrong, or a set cannot be assigned to a method.
    """
    from bayeslora.data.formats import SUFFIXES
    from bayeslora.predictions.collection import labels_of

    reading = predictions_reading(args)
    items: list[Path | Predictions] = []
    beside: list[list[Path]] = []
    paths = iter(map(Path, args.files))
    for path in paths:
        test = path / TEST
        if test.is_file():
            items.append(test)
            others = (file for file in sorted(test.parent.glob("*.parquet")) if file != test)
            beside.append([file for file in others if file.stem not in FITTED])
        else:
            # Data files have a suffix; any other missing name may be a model on the hub.
            named = path.is_dir() or (path.suffix not in (*SUFFIXES, ".gz") and not path.exists())
            items.append(_predicted(args, path, next(paths, None)) if named else path)
            beside.append([])
    if reading.name and len(items) > 1:
        raise InputError(f"--name {reading.name} names one method, but there are {len(items)}")
    labels = labels_of(items, reading)
    sets = {
        label: {file.stem: file for file in files}
        for label, files in zip(labels, beside, strict=True)
    }
    for option in getattr(args, "ood", None) or ():
        method, name, path = _set(option, labels)
        if name in sets.setdefault(method, {}):
            raise InputError(f"--ood {option}: {method} already has a set {name!r}")
        sets[method][name] = path
    return Scored(items, sets, reading)


def _set(option: str, labels: Sequence[str]) -> tuple[str, str, Path]:
    """Return method, name and file of an OOD option, `NAME=FILE` or `METHOD:NAME=FILE`."""
    left, _, path = option.partition("=")
    method, _, name = left.rpartition(":")
    if not name or not path:
        raise InputError(f"--ood {option}: expected NAME=FILE or METHOD:NAME=FILE")
    if not method and len(labels) > 1:
        raise InputError(
            f"--ood {option}: specify which of the {len(labels)} methods made these predictions, "
            f"as METHOD:{option}, with METHOD one of {listed(labels)}"
        )
    return method or labels[0], name, Path(path)


_CHECKPOINTS = ("bayeslora.json", "config.json", "adapter_config.json")
"""Files of our models, of transformers, and of PEFT."""


def _predicted(args: Any, model: Path, data: Path | None) -> Predictions:
    """Return the predictions of a checkpoint for labelled rows, with their texts."""
    from bayeslora.checkpoint import is_model, local_directory, read_record
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.columns import DataColumns
    from bayeslora.data.formats import Reading
    from bayeslora.engine.data import columns_of

    folder = Path(local_directory(model))
    if not any((folder / name).is_file() for name in _CHECKPOINTS):
        raise InputError(f"{model} is neither a predictions file, nor has it {TEST}, nor a model")
    if data is None:
        raise InputError(f"{model} is a model; pass labelled rows after it, such as rows.csv")
    record = read_record(folder) if is_model(folder) else None
    known = DataColumns() if record is None else columns_of(record)
    columns = known.renamed(args.text_column, args.label_column)
    further = [*(getattr(args, "group_by", None) or ()), getattr(args, "cluster_by", None)]
    keep = [*dict.fromkeys(filter(None, further))]
    table = Reading(**given(args, "delimiter", "encoding"))
    rows = labelled_rows(data, columns, table, record, keep)
    if record is None:
        # As it is: with the softmax of its own layer.
        clf = BayesianClassifier.from_transformers(folder, "mle", progress=not args.quiet)
    else:
        clf = BayesianClassifier.from_pretrained(folder, progress=not args.quiet)
    predictions = clf.predict(rows, keep=["text", *keep])
    own = model.name if record is None else predictions.name
    return predictions.replace(name=args.name or own)

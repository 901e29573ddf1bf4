"""Load examples from a file, a data set object, a list, a pair of lists, or a known task."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bayeslora.errors import InputError, unknown_choice
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import counted, listed, shown
from bayeslora.tables.images import holds_images, is_image, open_images
from bayeslora.tables.opening import open_table
from bayeslora.tables.reading import DEFAULT, Reading
from bayeslora.tables.table import Table, columns_table, plain_values, records_table
from bayeslora.tasks.columns import DataColumns, MissingColumnError, RowChecks
from bayeslora.tasks.description import is_description, read_description
from bayeslora.tasks.examples import Examples
from bayeslora.tasks.known import KNOWN_TASKS, known_name, load_task
from bayeslora.tasks.questions import (
    QUESTIONS,
    are_questions,
    may_be_of_questions,
    question_checks,
)
from bayeslora.tasks.stream import ExampleStream, load_all, open_stream

_DATA_FILE = re.compile(
    r"\.(jsonl|ndjson|json|csv|tsv|parquet)(\.(gz|bz2|xz|zst))?\s*$", re.IGNORECASE
)
_ENDING = re.compile(r"\w\.[a-z][a-z0-9]{1,7}$", re.IGNORECASE)
"""A word that ends like a file name; a full stop after a word does not match."""


def as_texts(data: Any) -> Any:
    """Return `data`, wrapping a string that is a text rather than a path in a list.

    A string is a path if such a file exists, if it ends like a data file (`.jsonl`, `.csv.gz`), or
    if it is one word with a slash or an ending such as `.txt`. A misspelt file name is thus an
    error rather than a text to classify.

    Raises:
        InputError: A string looks like a path, and the file does not exist.
    """
    # Path.exists raises an error if a text is longer than file names may be.
    if not isinstance(data, str) or os.path.exists(data):  # noqa: PTH110
        return data
    if _looks_like_a_path(data.strip()):
        raise InputError(
            f"file {data.strip()} does not exist; to pass a text that looks like a file name, "
            "use a list: [text]"
        )
    return [data]


def are_texts(data: object) -> bool:
    """Return whether data are only texts: a list, a tuple, an array or a series of strings."""
    if isinstance(data, list | tuple):
        return bool(data) and isinstance(data[0], str)
    return hasattr(data, "tolist") and getattr(data, "ndim", 0) == 1


def _looks_like_a_path(text: str) -> bool:
    if _DATA_FILE.search(text):
        return True
    is_word = not any(map(str.isspace, text))
    return is_word and ("/" in text or os.sep in text or _ENDING.search(text) is not None)


def load_examples(
    data: object = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    image_column: str | None = None,
    labels: Literal["optional", "required"] = "optional",
    task: str | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
    keep: Sequence[str] = (),
    blank: Literal["refuse", "skip"] = "refuse",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Examples:
    """Load and check the examples in `data`.

    Args:
        data: Path of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, the text formats also
            with `.gz`; a directory of images, or of one directory of images per class, or a `.npz`
            or `.npy` file of images; an object with named columns (a `datasets.Dataset`, a data
            frame); a list or another iterable of mappings, or of texts; a pair (texts, labels),
            where labels may be None. For a known task: the name of the split.
        text_column: Column of the texts.
        label_column: Column of the labels, strings or integers. If it is missing and labels are
            optional, the examples are unlabelled.
        pair_column: Column of the second text, if the task has two.
        image_column: Column of image paths, relative to the file, instead of texts; detected by
            default if data have a column `image` and no `text`.
        labels: `required` raises an error for examples without a label.
        task: Name of a known task (see `KNOWN_TASKS`); or, for your own `data`,
            `text-classification`, `multiple-choice`, a YAML file that names its columns
            (`tasks.description`), or None to infer the kind from the columns.
        data_dir: Directory of the files of known tasks; default: `BAYESLORA_DATA`.
        split: Split of the known task, if not given by `data`.
        keep: Further columns to keep, as texts; known tasks have `text`.
        blank: `skip` skips rows with a missing or blank text, and logs their number.
        delimiter: Delimiter of a `.csv` or `.tsv` file, one character or `tab`; None uses a comma
            or a tab, depending on the suffix.
        encoding: Encoding of a text file, such as `latin-1`; None uses UTF-8.

    Raises:
        InputError: The data or an argument is invalid; the message names the file, the row, the
            column, the value and what is allowed.
    """
    reading = Reading(delimiter, encoding)
    described = read_description(task).columns if task and is_description(task) else None
    if task is not None and task not in KINDS and described is None:
        _check_choices(labels, blank)
        return kept(_known(task, data, split, data_dir, reading), keep)
    if split is not None:
        raise InputError(f"split={split!r} requires a known task; see `bayeslora tasks`")
    columns = described or data_columns(text_column, label_column, pair_column, image_column)
    try:
        examples = load_rows(
            data,
            columns,
            kind=task if described is None else KINDS[1],
            labels=labels,
            keep=keep,
            blank=blank,
            delimiter=delimiter,
            encoding=encoding,
        )
    except MissingColumnError as error:
        if described is None:
            raise
        raise InputError(
            f"{error.problem}; the columns are set by {task}", code=error.code
        ) from None
    return examples if described is None else replace(examples, columns=described.recorded())


def load_rows(
    data: object,
    columns: DataColumns,
    *,
    kind: str | None = None,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
    blank: Literal["refuse", "skip"] = "refuse",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Examples:
    """Load the examples in `data` that are not a known task.

    Args:
        data: As for `load_examples`, as are the other arguments.
        columns: Columns of the examples.
        kind: `text-classification`, `multiple-choice`, or None to infer it from the columns.
        labels: Whether labels are required.
        keep: Further columns to keep.
        blank: How to handle rows without a text.
        delimiter: Delimiter of a text file.
        encoding: Encoding of a text file.

    Raises:
        InputError: As for `load_examples`.
    """
    checks = _checks(
        data,
        as_questions(columns) if kind == KINDS[1] and columns.choices is None else columns,
        labels=labels,
        keep=keep,
        blank=blank,
        reading=Reading(delimiter, encoding),
        finds_questions=kind is None,
    )
    return load_all(checks)


def renamed(
    known: DataColumns,
    text: str | None = None,
    label: str | None = None,
    pair: str | None = None,
    image: str | None = None,
) -> DataColumns:
    """Return the columns of a model, replacing those that are named here."""
    columns = data_columns(
        text or known.text,
        label or known.label,
        pair or known.pair,
        image or (known.text if known.images else None),
    )
    return replace(columns, choices=known.choices)


def data_columns(
    text: str = "text", label: str = "label", pair: str | None = None, image: str | None = None
) -> DataColumns:
    """Return the columns given by the options of a fit; `image` replaces `text`."""
    return DataColumns(text if image is None else image, label, pair, images=image is not None)


def open_examples(
    data: object,
    columns: DataColumns,
    *,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
    blank: Literal["refuse", "skip"] = "refuse",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> ExampleStream:
    """Return the examples in `data` as a stream, after a pass that checks all of them.

    `load_examples` returns its pieces concatenated; arguments and errors are the same.
    """
    reading = Reading(delimiter, encoding)
    return open_stream(
        _checks(data, columns, labels=labels, keep=keep, blank=blank, reading=reading)
    )


def _checks(
    data: object,
    columns: DataColumns,
    *,
    labels: str,
    keep: Sequence[str],
    blank: str,
    reading: Reading,
    finds_questions: bool = True,
) -> RowChecks:
    _check_choices(labels, blank)
    table = _table(data, columns, keep, reading)
    columns = columns.among(table.names)
    if finds_questions and columns.choices is not None and columns.text not in table.names:
        # A model fitted to other column names accepts the usual ones too.
        columns = QUESTIONS if are_questions(table.names) else columns
    is_found = (
        finds_questions
        and columns.text == DataColumns.text
        and _begins_with_question(table, columns.text)
    )
    of_questions = columns.choices is not None or is_found
    if is_found:
        columns = as_questions(columns)
    return (question_checks if of_questions else RowChecks)(
        table,
        columns,
        required=labels == "required",
        keep=tuple(keep),
        skip_blank=blank == "skip",
    )


def _begins_with_question(table: Table, text: str) -> bool:
    """Return whether the first row is a question with options and no text."""
    if not are_questions(table.names):
        return False
    if text not in table.names:
        return True
    first = next(table.pieces([text], 1), None)
    return first is not None and plain_values(first.columns.get(text, [None]))[0] is None


def as_questions(columns: DataColumns) -> DataColumns:
    """Return columns of questions with options, with default names for those not named."""
    text = QUESTIONS.text if columns.text == DataColumns.text else columns.text
    label = QUESTIONS.label if columns.label == DataColumns.label else columns.label
    return DataColumns(text, label, columns.pair, columns.choices or QUESTIONS.choices)


def _check_choices(labels: str, blank: str) -> None:
    for name, value, allowed in (
        ("labels", labels, ("optional", "required")),
        ("blank", blank, ("refuse", "skip")),
    ):
        if value not in allowed:
            raise unknown_choice(name, str(value), allowed)


def kept(examples: Examples, keep: Sequence[str]) -> Examples:
    """Return examples with the further columns of `keep`, among which `text` is always available.

    Raises:
        InputError: A column was not read.
    """
    known = {"text": examples.texts, **examples.further}
    for name in keep:
        if name not in known:
            problem = str(unknown_choice("column to keep", name, known))
            raise MissingColumnError(problem, "", examples.source, name)
    return replace(examples, further={name: known[name] for name in keep}) if keep else examples


def _known(
    task: str,
    data: object,
    split: str | None,
    data_dir: str | Path | None,
    reading: Reading,
) -> Examples:
    if reading != DEFAULT:
        raise InputError(f"--delimiter and --encoding apply only to files, not to task {task!r}")
    key = known_name(task)
    name = data if split is None else split
    if not isinstance(name, str) or (split is not None and data is not None):
        raise InputError(
            f"task {task!r} needs exactly one split name ({', '.join(KNOWN_TASKS[key].splits)}), "
            f"got data={shown(data)}, split={split!r}"
        )
    return load_task(key, name, data_dir)


def _table(data: Any, columns: DataColumns, keep: Sequence[str], reading: Reading) -> Table:
    if isinstance(data, str | Path):
        return _file_table(data, columns, reading)
    if reading != DEFAULT:
        raise InputError("delimiter and encoding apply only to files, but the data is in memory")
    names = getattr(data, "column_names", getattr(data, "columns", None))
    if isinstance(names, Mapping):
        raise InputError(
            f"the data has several splits ({listed(list(names))}); pass one split, such as "
            f"data[{next(iter(names), 'train')!r}]"
        )
    source = f"<{type(data).__name__}>"
    if names is not None:
        selected = (*columns.among(list(names)).column_names, *keep)
        values = {
            name: plain_list(data[name])
            for name in names
            if name in selected or may_be_of_questions(name)
        }
        return columns_table(values, list(map(str, names)), source, len(data))
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str | Mapping):
        return _pair_table(data[0], data[1], columns)
    if are_texts(data):
        return _pair_table(data, None, columns)
    # A set has no order for the predictions; a mapping is a single row, or columns.
    if isinstance(data, Iterable) and not isinstance(data, bytes | Mapping | set | frozenset):
        rows = data if isinstance(data, Sequence) else list(data)
        return _pair_table(rows, None, columns) if are_texts(rows) else records_table(rows, source)
    raise InputError(
        "data must be the path of a file, an object with named columns, a list or another "
        f"iterable of texts or of mappings, or a pair (texts, labels), got {shown(data)}"
    )


def _file_table(path: str | Path, columns: DataColumns, reading: Reading) -> Table:
    if columns.images and is_image(path):
        return _pair_table([str(path)], None, columns)
    if holds_images(path) and reading == DEFAULT:
        return open_images(path)
    return open_table(path, reading)


def _pair_table(texts: Any, labels: Any, columns: DataColumns) -> Table:
    """Return the table of two lists; arrays and tensors are converted to plain values."""
    source = "<texts, labels>"
    values = {columns.text: plain_list(texts)}
    if labels is not None:
        values[columns.label] = plain_list(labels)
    sizes = [len(column) for column in values.values()]
    if min(sizes) != max(sizes):
        raise InputError(
            f"{source}: {counted(sizes[0], 'text')} but {counted(sizes[1], 'label')}; pass one "
            "label per text"
        )
    return columns_table(values, tuple(values), source, sizes[0])


def plain_list(values: Any) -> list[Any]:
    """Return a column as a list; arrays and tensors are converted to plain Python values.

    Raises:
        InputError: `values` is not a sequence of values.
    """
    for method in ("to_pylist", "tolist"):
        values = getattr(values, method, lambda values=values: values)()
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"expected a list of values, got {shown(values)}")
    return list(values)

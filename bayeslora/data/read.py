"""One way in: rows of any kind become `Examples`, checked once.

`read` returns all examples. `stream` checks all of them in a first pass, which stores eight bytes
per row, and returns what yields them in pieces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Number
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bayeslora.data.columns import DataColumns, Reader
from bayeslora.data.examples import IMAGE, Examples, joined
from bayeslora.data.formats import DEFAULT, Reading, Record, Table, open_table
from bayeslora.data.questions import QUESTIONS, QuestionReader, are_questions
from bayeslora.errors import InputError, unknown_choice
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import counted, listed, shown

_FILE_NAME = re.compile(
    r"\S*[/\\]\S*|\S*\w\.[a-z][a-z0-9]{1,7}|.*\.(jsonl|json|csv|tsv|parquet)(\.gz)?", re.IGNORECASE
)
"""A word with a slash or an ending, which a full stop after a word is not; or words with an ending
of data files."""


def as_texts(data: Any) -> Any:
    """Return `data`, wrapping a string that is a text rather than a path in a list.

    A string is a path if such a file exists or if it looks like one, so that a misspelt file name
    is an error rather than a text to classify.

    Raises:
        InputError: A string looks like a path, and the file does not exist.
    """
    # Path.exists raises an error if a text is longer than file names may be.
    if not isinstance(data, str) or os.path.exists(data):  # noqa: PTH110
        return data
    if _FILE_NAME.fullmatch(data.strip()):
        raise InputError(
            f"file {data.strip()} does not exist; to pass a text that looks like a file name, "
            "use a list: [text]"
        )
    return [data]


def are_labels(values: Any) -> bool:
    """Return whether a second argument of `fit` holds the labels of the first, not rows."""
    is_column = hasattr(values, "__len__") and not isinstance(values, str | Mapping | Examples)
    if not is_column or len(values) == 0 or hasattr(values, "columns"):
        return False
    return isinstance(next(iter(values)), str | Number | np.generic | None)


def read(
    data: object,
    columns: DataColumns = DataColumns(),  # noqa: B008 (immutable)
    *,
    labels: Literal["optional", "required", "soft"] = "optional",
    keep: Sequence[str] = (),
    reading: Reading = DEFAULT,
) -> Examples:
    """Return the checked examples in `data`.

    Args:
        data: Path of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, the text formats also
            with `.gz`; a directory of images, or of one directory of images per class; an object
            with named columns (a `datasets.Dataset`, a data frame); a list or another iterable of
            mappings, or of texts; a pair (texts, labels), where labels may be None; or examples,
            which are returned with the columns to keep. Without required labels, a string may also
            be a text; see `as_texts`.
        columns: Names of the columns. Labels may be missing if they are optional. The default
            columns also find questions with options, and images.
        labels: `required` raises an error for examples without a label, and so does `soft`, which
            takes columns `label_<class>` of annotators or probabilities in place of one of labels.
        keep: Further columns to keep, as texts.
        reading: How to read the rows, where `data` does not say it.

    Raises:
        InputError: The data or an argument is invalid; the message names the file, the row, the
            column, the value and what is allowed.
    """
    if isinstance(data, Examples):
        return _kept(data, keep, reading.optional)
    rows = as_texts(data) if labels == "optional" else data
    required, soft = labels != "optional", labels == "soft"
    reader = _reader(rows, columns, keep, reading, required=required, soft=soft)
    pieces = list(reader.checked())
    return reader.finished(pieces[0] if len(pieces) == 1 else joined(pieces))


def stream(
    data: object,
    columns: DataColumns = DataColumns(),  # noqa: B008 (immutable)
    *,
    keep: Sequence[str] = (),
    reading: Reading = DEFAULT,
) -> Examples | Reader:
    """Check the examples of `read`, labelled or not, and return what has them as `pieces()`."""
    if isinstance(data, Examples):
        return _kept(data, keep, reading.optional)
    reader = _reader(as_texts(data), columns, keep, reading)
    for _ in reader.checked():
        pass
    return reader


def _reader(
    data: object,
    columns: DataColumns,
    keep: Sequence[str],
    reading: Reading,
    *,
    required: bool = False,
    soft: bool = False,
) -> Reader:
    """Return the reader of `data` for its kind of rows."""
    as_questions = reading.kind == KINDS[1]
    if as_questions:
        columns = _as_questions(columns)
    table = _table(data, columns, reading)
    columns = columns.among(table.names)
    is_named = columns.text != DataColumns.text or columns.text in table.names
    if reading.kind is None and are_questions(table.names) and not is_named:
        columns, as_questions = _as_questions(columns), True
    kind = QuestionReader if as_questions else Reader
    return kind(
        table,
        columns,
        required=required,
        soft=soft and not as_questions,
        keep=tuple(dict.fromkeys([*keep, *(n for n in reading.optional if n in table.names)])),
    )


def _as_questions(columns: DataColumns) -> DataColumns:
    """Return columns of questions with options, with default names for those not named."""
    text = QUESTIONS.text if columns.text == DataColumns.text else columns.text
    label = QUESTIONS.label if columns.label == DataColumns.label else columns.label
    return DataColumns(text, label, columns.pair)


def _kept(examples: Examples, keep: Sequence[str], optional: Sequence[str]) -> Examples:
    """Return examples with the further columns to keep, of which `text` always exists."""
    known = {"text": examples.texts, **examples.further}
    for name in keep:
        if name not in known:
            raise unknown_choice("column to keep", name, known)
    names = [*keep, *(name for name in optional if name in known)]
    return replace(examples, further={name: known[name] for name in names}) if names else examples


def _table(data: Any, columns: DataColumns, reading: Reading) -> Table:
    if isinstance(data, Table):
        return data
    if isinstance(data, str | Path):
        return _file_table(data, columns, reading)
    names = getattr(data, "column_names", getattr(data, "columns", None))
    if isinstance(names, Mapping):
        raise InputError(
            f"the data has several splits ({listed(list(names))}); pass one split, such as "
            f"data[{next(iter(names), 'train')!r}]"
        )
    source = f"<{type(data).__name__}>"
    if names is not None and hasattr(data, "__len__"):
        # Column names of a frame may be numbers.
        known = {str(name): name for name in names}
        table = _columns_table(
            lambda name: plain_list(data[known[name]]), list(known), source, len(data)
        )
        return _with_class_names(table, data, columns.label)
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str | Mapping):
        return _pair_table(data[0], data[1], columns)
    is_array = hasattr(data, "tolist") and getattr(data, "ndim", 0) == 1
    # A set has no order for the predictions; a mapping is a single row, or columns.
    if not isinstance(data, Iterable) or isinstance(data, bytes | Mapping | set | frozenset):
        raise InputError(
            "data must be the path of a file, an object with named columns, a list or another "
            f"iterable of texts or of mappings, or a pair (texts, labels), got {shown(data)}"
        )
    rows: Any = data if isinstance(data, Sequence) or is_array else list(data)
    if is_array or (len(rows) and isinstance(rows[0], str)):
        return _pair_table(rows, None, columns)
    return _with_class_names(records_table(rows, source), data, columns.label)


def _with_class_names(table: Table, data: Any, label: str) -> Table:
    """Return the table of a `datasets.Dataset` with the names that its `ClassLabel` gives."""
    feature = (getattr(data, "features", None) or {}).get(label)
    names = getattr(feature, "names", None)
    if names is None:
        return table

    def rows(requested: Sequence[str]) -> Iterator[tuple[int, Record]]:
        for row, record in table.rows(requested):
            code = record.get(label)
            yield row, {**record, label: None if code is None or code < 0 else names[code]}

    return replace(table, rows=rows)


def _file_table(path: str | Path, columns: DataColumns, reading: Reading) -> Table:
    if columns.images or Path(path).is_dir():
        # Imported here: texts do not need it.
        from bayeslora.data.images import image_columns, is_image

        if columns.images and is_image(path):
            return _pair_table([str(path)], None, columns)
        if Path(path).is_dir():
            values = image_columns(path)
            return _columns_table(values.__getitem__, [*values], str(path), len(values[IMAGE]))
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
    return _columns_table(values.__getitem__, tuple(values), source, sizes[0])


def records_table(records: Sequence[Any], source: str) -> Table:
    """Return the table of a list of mappings; missing keys count as None.

    Raises:
        InputError: There are no records, or a record is not a mapping.
    """
    if not records:
        raise InputError(f"{source} is empty; at least one row is needed")
    for row, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise InputError(
                f"{source}, row {row}: expected an object with columns such as "
                f'{{"text": …, "label": …}}, got {shown(record)}'
            )
    names = dict.fromkeys(name for record in records for name in record if isinstance(name, str))
    return Table(source, tuple(names), lambda _names: enumerate(records, 1))


def _columns_table(
    column: Callable[[str], Sequence[Any]], names: Sequence[str], source: str, size: int
) -> Table:
    """Return the table of equally long columns in memory.

    Args:
        column: Returns the values of the column of a name.
        names: Names of the columns.
        source: Name of the table for messages.
        size: Number of rows.

    Raises:
        InputError: There are no rows.
    """
    if not size:
        raise InputError(f"{source} is empty; at least one row is needed")

    def rows(requested: Sequence[str]) -> Iterator[tuple[int, Record]]:
        columns = {name: column(name) for name in names if name in requested}
        for row in range(size):
            yield row + 1, {name: values[row] for name, values in columns.items()}

    return Table(source, tuple(names), rows)


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

"""One way in: rows of any kind become `Examples`, checked once.

`read` returns all examples; `stream` returns the same in pieces, after a first pass that checks all
of them and stores eight bytes per row, a hash of its id.
"""

from __future__ import annotations

import logging
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bayeslora.data.columns import (
    IMAGE,
    DataColumns,
    Piece,
    RowChecks,
    Table,
    as_integer,
    is_integer,
)
from bayeslora.data.examples import Examples, is_numbered, joined
from bayeslora.data.formats import DEFAULT, PIECE, Reading, open_table
from bayeslora.data.questions import QUESTIONS, are_questions, question_checks
from bayeslora.errors import InputError, unknown_choice
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import counted, listed, shown

logger = logging.getLogger(__name__)

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


def _looks_like_a_path(text: str) -> bool:
    if _DATA_FILE.search(text):
        return True
    is_word = not any(map(str.isspace, text))
    return is_word and ("/" in text or os.sep in text or _ENDING.search(text) is not None)


@dataclass(frozen=True)
class ExampleStream:
    """Examples that can be read repeatedly in pieces.

    Attributes:
        source: Path of the file, or a placeholder such as `<list>` for data in memory.
        num_rows: Number of examples.
        numbered: Whether all labels are non-negative integers, like class indices.
        pieces: Function of a number of rows; yields all examples in order, at most so many at a
            time, from the start at each call.
        notes: Metadata for predictions of these rows.
    """

    source: str
    num_rows: int
    numbered: bool
    pieces: Callable[[int], Iterator[Examples]]
    notes: Mapping[str, str] = field(default_factory=dict)


def stream_of(examples: Examples) -> ExampleStream:
    """Return examples in memory as a stream."""

    def pieces(rows: int) -> Iterator[Examples]:
        for start in range(0, len(examples), rows):
            yield examples.take(range(start, min(start + rows, len(examples))))

    return ExampleStream(examples.source, len(examples), is_numbered(examples.labels), pieces)


def read(
    data: object,
    columns: DataColumns = DataColumns(),  # noqa: B008 (immutable)
    *,
    labels: Literal["optional", "required"] = "optional",
    keep: Sequence[str] = (),
    reading: Reading = DEFAULT,
) -> Examples:
    """Return the checked examples in `data`.

    Args:
        data: Path of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, the text formats also
            with `.gz`; a directory of images, or of one directory of images per class, or a `.npz`
            or `.npy` file of images; an object with named columns (a `datasets.Dataset`, a data
            frame); a list or another iterable of mappings, or of texts; a pair (texts, labels),
            where labels may be None; or examples, which are returned with the columns to keep.
            Without required labels, a string may also be a text; see `as_texts`.
        columns: Names of the columns. Labels may be missing if they are optional. The default
            columns also find questions with options, and images.
        labels: `required` raises an error for examples without a label.
        keep: Further columns to keep, as texts.
        reading: How to read the rows, where `data` does not say it.

    Raises:
        InputError: The data or an argument is invalid; the message names the file, the row, the
            column, the value and what is allowed.
    """
    if isinstance(data, Examples):
        return _kept(data, keep, reading.optional)
    rows = as_texts(data) if labels == "optional" else data
    survey = _Survey(_checks(rows, columns, labels, keep, reading))
    pieces = list(survey.examples())
    examples = survey.finished(pieces[0] if len(pieces) == 1 else joined(pieces))
    if columns.described is None:
        return examples
    return replace(examples, columns=columns.recorded())


def stream(
    data: object,
    columns: DataColumns = DataColumns(),  # noqa: B008 (immutable)
    *,
    keep: Sequence[str] = (),
    reading: Reading = DEFAULT,
) -> ExampleStream:
    """Return the examples of `read`, labelled or not, as a stream that reads a file in pieces."""
    if isinstance(data, Examples):
        return stream_of(_kept(data, keep, reading.optional))
    checks = _checks(as_texts(data), columns, "optional", keep, reading)
    survey = _Survey(checks)
    for _ in survey.examples():
        pass

    def pieces(rows: int) -> Iterator[Examples]:
        for piece in checks.table.pieces(checks.column_names, rows):
            examples = checks.examples(piece, has_ids=survey.has_ids)
            if len(examples):
                yield survey.finished(examples)

    return ExampleStream(checks.table.source, survey.num_rows, survey.numbered, pieces)


class _Survey:
    """A pass over the examples of a table, which finds the properties of the whole.

    Attributes:
        checks: The table and its checks.
        num_rows: Number of examples.
        has_ids: Whether rows have ids.
        integer_labels: Whether all labels read from text are integers.
        has_pairs: Whether any row has a non-empty second text.
    """

    def __init__(self, checks: RowChecks) -> None:
        self.checks = checks
        self.num_rows = 0
        self.has_ids = self.has_pairs = False
        self.integer_labels = checks.table.is_text
        self._decimal, self._negative = True, False

    @property
    def numbered(self) -> bool:
        """Whether all labels are non-negative integers, like class indices."""
        # `1.0` in a file is the integer 1.
        return not self._negative if self.integer_labels else self._decimal

    def examples(self) -> Iterator[Examples]:
        """Yield the examples of the table before `finished`.

        Raises:
            InputError: A value is not allowed, an id is repeated, or no row is left.
        """
        table, hashes, total = self.checks.table, array("q"), 0
        for piece in table.pieces(self.checks.column_names, PIECE):
            if not total:
                self.has_ids = piece.columns.get("id", (None,))[0] is not None
            examples = self.checks.examples(piece, has_ids=self.has_ids)
            total += len(piece.rows)
            self.num_rows += len(examples)
            if self.has_ids:
                hashes.extend(map(hash, examples.ids))
            self.has_pairs |= any(examples.pairs or ())
            labels = set(examples.labels)
            self.integer_labels = self.integer_labels and all(map(is_integer, labels))
            self._decimal = self._decimal and is_numbered(labels)
            self._negative |= any(str(label).startswith("-") for label in labels)
            yield examples
        if not self.num_rows:
            raise InputError(f"{table.source}: every row is blank ({total}), so no rows are left")
        if self.num_rows < total:
            skipped = total - self.num_rows
            logger.warning("%s: skipped %d of %d rows without text", table.source, skipped, total)
        ordered = np.sort(np.frombuffer(hashes, np.int64))
        repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if repeated:
            self._refuse_repeated(repeated)

    def _refuse_repeated(self, hashes: set[int]) -> None:
        first: dict[str, int] = {}
        for piece in self.checks.table.pieces(self.checks.column_names, PIECE):
            examples = self.checks.examples(piece, has_ids=True)
            for name, row in zip(examples.ids, examples.rows, strict=True):
                if hash(name) in hashes and first.setdefault(name, row) != row:
                    raise InputError(
                        f"{examples.source}, row {row}, column 'id': {shown(name)} duplicates the "
                        f"id of row {first[name]}; ids must be unique"
                    )

    def finished(self, examples: Examples) -> Examples:
        """Adapt labels and pairs of some examples to the properties of the whole table."""
        labels = tuple(map(as_integer, examples.labels)) if self.integer_labels else examples.labels
        return replace(examples, labels=labels, pairs=examples.pairs if self.has_pairs else None)


def _checks(
    data: object, columns: DataColumns, labels: str, keep: Sequence[str], reading: Reading
) -> RowChecks:
    """Return the table of `data` with the conversion of its kind of rows."""
    if reading.kind == KINDS[1] and columns.choices is None:
        columns = as_questions(columns)
    table = _table(data, columns, reading)
    columns = columns.among(table.names)
    if reading.kind is None and columns.described is None and are_questions(table.names):
        # A model fitted to questions with other column names accepts the usual ones too.
        if columns.choices is not None and columns.text not in table.names:
            columns = QUESTIONS
        elif columns.choices is None and columns.text == DataColumns.text and _lacks_text(table):
            columns = as_questions(columns)
    checks = RowChecks if columns.choices is None else question_checks
    return checks(
        table,
        columns,
        required=labels == "required",
        keep=tuple(dict.fromkeys([*keep, *(n for n in reading.optional if n in table.names)])),
        skip_blank=reading.blank == "skip",
    )


def _lacks_text(table: Table) -> bool:
    """Return whether the first row has no text."""
    name = DataColumns.text
    return name not in table.names or next(table.pieces([name], 1)).columns[name][0] is None


def as_questions(columns: DataColumns) -> DataColumns:
    """Return columns of questions with options, with default names for those not named."""
    text = QUESTIONS.text if columns.text == DataColumns.text else columns.text
    label = QUESTIONS.label if columns.label == DataColumns.label else columns.label
    return DataColumns(text, label, columns.pair, columns.choices or QUESTIONS.choices)


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
    if reading.is_of_text_file:
        raise InputError("delimiter and encoding apply only to files, but the data is in memory")
    names = getattr(data, "column_names", getattr(data, "columns", None))
    if isinstance(names, Mapping):
        raise InputError(
            f"the data has several splits ({listed(list(names))}); pass one split, such as "
            f"data[{next(iter(names), 'train')!r}]"
        )
    source = f"<{type(data).__name__}>"
    if names is not None:
        # Column names of a frame may be numbers.
        known = {str(name): name for name in names}
        return _columns_table(
            lambda name: plain_list(data[known[name]]), list(known), source, len(data)
        )
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
    return records_table(rows, source)


def _file_table(path: str | Path, columns: DataColumns, reading: Reading) -> Table:
    if columns.images or Path(path).suffix.lower() in (".npz", ".npy") or Path(path).is_dir():
        # Imported here: texts do not need it.
        from bayeslora.data.images import holds_images, image_columns, is_image

        if columns.images and is_image(path):
            return _pair_table([str(path)], None, columns)
        if holds_images(path) and not reading.is_of_text_file:
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
    for row, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise InputError(
                f"{source}, row {row}: expected an object with columns such as "
                f'{{"text": …, "label": …}}, got {shown(record)}'
            )

    names = dict.fromkeys(name for record in records for name in record if isinstance(name, str))

    def column(name: str) -> list[Any]:
        return [record.get(name) for record in records]

    return _columns_table(column, [*names], source, len(records))


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

    def read(requested: Sequence[str], rows: int) -> Iterator[Piece]:
        columns = {name: column(name) for name in names if name in requested}
        for start in range(0, size, rows):
            end = min(start + rows, size)
            part = {name: values[start:end] for name, values in columns.items()}
            yield Piece(part, range(start + 1, end + 1))

    return Table(source, tuple(names), read)


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

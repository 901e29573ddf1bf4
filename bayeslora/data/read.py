"""Read examples from a file, a data set object, a list, a pair of lists, or a known task.

`load_rows` returns all examples; `open_examples` returns them in pieces, after a first pass that
checks all of them and stores eight bytes per row, a hash of its id.
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

from bayeslora.data import formats
from bayeslora.data.columns import (
    DataColumns,
    MissingColumnError,
    RowChecks,
    as_integer,
    is_integer,
)
from bayeslora.data.examples import Examples, is_numbered, joined
from bayeslora.data.formats import DEFAULT, PIECE, Reading, Table
from bayeslora.data.images import holds_images, is_image, open_images
from bayeslora.data.questions import QUESTIONS, are_questions, may_be_of_questions, question_checks
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_yaml
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


class _Survey:
    """A pass over the examples of a table, which finds the properties of the whole.

    Attributes:
        checks: The table and its checks.
        num_rows: Number of examples.
        has_ids: Whether rows have ids.
        integer_labels: Whether all labels read from text are integers.
        numbered: Whether all labels are non-negative integers, like class indices.
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
                self.has_ids = piece.column("id")[0] is not None
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
            logger.warning(
                "%s: skipped %d of %d rows, which have no text or repeated options",
                table.source,
                total - self.num_rows,
                total,
            )
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


def open_stream(checks: RowChecks) -> ExampleStream:
    """Check all examples of a table and return a stream that rereads them.

    Raises:
        InputError: A value is not allowed, an id is repeated, or no row is left.
    """
    survey = _Survey(checks)
    for _ in survey.examples():
        pass

    def pieces(rows: int) -> Iterator[Examples]:
        for piece in checks.table.pieces(checks.column_names, rows):
            examples = checks.examples(piece, has_ids=survey.has_ids)
            if len(examples):
                yield survey.finished(examples)

    return ExampleStream(checks.table.source, survey.num_rows, survey.numbered, pieces)


def load_all(checks: RowChecks) -> Examples:
    """Return all examples of a table in one pass.

    Raises:
        InputError: As for `open_stream`.
    """
    survey = _Survey(checks)
    return survey.finished(joined(list(survey.examples())))


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
            (`TaskDescription`), or None to infer the kind from the columns.
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
        if reading != DEFAULT:
            raise InputError(
                f"--delimiter and --encoding apply only to files, not to task {task!r}"
            )
        return kept(_known(task, data, split, data_dir), keep)
    if split is not None:
        raise InputError(f"split={split!r} requires a known task; see `bayeslora tasks`")
    try:
        examples = load_rows(
            data,
            described or data_columns(text_column, label_column, pair_column, image_column),
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
        problem = f"{error.problem}; the columns are set by {task}"
        raise InputError(problem, code=error.code) from None
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
    """Return all examples in `data`; see `load_examples`.

    Args:
        data: The rows.
        columns: Names of their columns.
        kind: A kind of task among `KINDS`; None to infer it from the columns.
        labels: Whether each row needs a label.
        keep: Further columns to keep.
        blank: How to handle rows without a text.
        delimiter: Delimiter of a text file.
        encoding: Encoding of a text file.

    Raises:
        InputError: As for `load_examples`.
    """
    reading = Reading(delimiter, encoding)
    return load_all(
        _checks(data, columns, reading, keep=keep, blank=blank, labels=labels, kind=kind)
    )


def open_examples(
    data: object,
    columns: DataColumns,
    *,
    keep: Sequence[str] = (),
    blank: Literal["refuse", "skip"] = "refuse",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> ExampleStream:
    """Return the examples in `data`, labelled or not, as a stream; see `load_rows`."""
    reading = Reading(delimiter, encoding)
    return open_stream(_checks(data, columns, reading, keep=keep, blank=blank))


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


def _checks(
    data: object,
    columns: DataColumns,
    reading: Reading,
    *,
    keep: Sequence[str],
    blank: str,
    labels: str = "optional",
    kind: str | None = None,
) -> RowChecks:
    if kind == KINDS[1] and columns.choices is None:
        columns = as_questions(columns)
    table = _table(data, columns, keep, reading)
    columns = columns.among(table.names)
    if kind is None and are_questions(table.names):
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
        keep=tuple(keep),
        skip_blank=blank == "skip",
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


def _known(task: str, data: object, split: str | None, data_dir: str | Path | None) -> Examples:
    from bayeslora.data.known import KNOWN_TASKS, known_name, load_task

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
        return formats.columns_table(values, list(map(str, names)), source, len(data))
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str | Mapping):
        return _pair_table(data[0], data[1], columns)
    if are_texts(data):
        return _pair_table(data, None, columns)
    # A set has no order for the predictions; a mapping is a single row, or columns.
    if isinstance(data, Iterable) and not isinstance(data, bytes | Mapping | set | frozenset):
        rows = data if isinstance(data, Sequence) else list(data)
        return (
            _pair_table(rows, None, columns)
            if are_texts(rows)
            else formats.records_table(rows, source)
        )
    raise InputError(
        "data must be the path of a file, an object with named columns, a list or another "
        f"iterable of texts or of mappings, or a pair (texts, labels), got {shown(data)}"
    )


def _file_table(path: str | Path, columns: DataColumns, reading: Reading) -> Table:
    if columns.images and is_image(path):
        return _pair_table([str(path)], None, columns)
    if holds_images(path) and reading == DEFAULT:
        return open_images(path)
    return formats.open_table(path, reading)


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
    return formats.columns_table(values, tuple(values), source, sizes[0])


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


_KEYS = ("question", "choices", "answer", "context", "prompt")


@dataclass(frozen=True)
class TaskDescription:
    """A YAML description of files of questions with options.

        question: stem
        choices: [option_a, option_b]
        answer: key
        context: story
        prompt: "{text_pair} {text}"

    All lines are optional. `choices` is one column of lists, or a list of columns; columns that are
    not named have their usual names (see `questions`). In the prompt, `{text}` is the question and
    `{text_pair}` the context.

    Attributes:
        columns: Columns of the questions.
        prompt: Prompt around each question, a `template`; None for the default.
    """

    columns: DataColumns
    prompt: str | None = None


def is_description(task: str | None) -> bool:
    """Return whether `task` is the path of a description rather than a task name."""
    return task is not None and task.lower().endswith((".yaml", ".yml"))


def read_description(path: str) -> TaskDescription:
    """Read a description.

    Raises:
        InputError: The file is missing or not YAML, or a key or value is not allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} must be a mapping, such as `question: stem`")
    for key, value in content.items():
        if key not in _KEYS:
            raise InputError(f"{path}: {unknown_choice('key', str(key), _KEYS)}")
        several = key == "choices" and isinstance(value, list) and len(value) > 1
        texts = value if several else [value]
        if not all(isinstance(text, str) and text for text in texts):
            allowed = "a column or a list of columns" if key == "choices" else "a text"
            raise InputError(f"{path}: {key} must be {allowed}, got {shown(value)}")
    return TaskDescription(_columns(path, content), content.get("prompt"))


def _columns(path: str, content: dict[str, Any]) -> DataColumns:
    choices: str | list[str] = content.get("choices") or "choices"
    names = (choices,) if isinstance(choices, str) else tuple(choices)
    try:
        columns = DataColumns(
            content.get("question", QUESTIONS.text),
            content.get("answer", QUESTIONS.label),
            content.get("context"),
            choices if isinstance(choices, str) else names,
        )
    except InputError as error:
        raise error.within(path) from None
    used = [columns.text, columns.label, *filter(None, [columns.pair]), *names]
    if repeated := next((name for index, name in enumerate(used) if name in used[:index]), None):
        raise InputError(f"{path}: column {shown(repeated)} is listed twice")
    return columns

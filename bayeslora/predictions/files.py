"""Predictions on disk: one table per file (Parquet, CSV or JSON lines), which any tool can write.

| column | content |
|---|---|
| `id` | string, optional, unique |
| `label` | class name, or index from 0; null where the row has no label; optional |
| `label_<class>` | annotators who chose the class, or its probability, for every class; optional |
| `prob_<class>` | probability, a column for each of two or more classes; or `logit_<class>` |
| | null where the row does not have the class, as a question with fewer options than others |
| `total`, `aleatoric`, `epistemic` | uncertainty in nats, optional |
| `score_<name>` | any other uncertainty, higher = more uncertain, optional |
| `set_<class>` | whether the class is in the row's prediction set, one column for every class |
| `interval_low_<class>`, `interval_high_<class>` | credible interval of the probability, optional |

JSON may also hold `{"probs": {"<class>": 0.2, …}}`, or `logits`, in each row, in place of columns.
Only Parquet stores the name and the metadata of a record. Sample logs of lm-evaluation-harness
(`harness`), log-probabilities of servers (`servers`) and answers of decision models (`answers`) are
read as well, detected by the keys of their first line.

Other columns are read as texts if requested by name, else ignored, and so are those of sets and
intervals unless every class has them. Classes are in the order of the columns, unless the Parquet
metadata lists the same classes in another order. Labels are names if any of them is a class name,
else indices: a column never mixes the two.

Reading has two steps. `open_columns` finds the columns of a file of any format; `fields_of` reads
those that are needed as an Arrow table and converts them. The record checks the values (`record`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data import formats
from bayeslora.data.formats import File, Reading, Record, Table
from bayeslora.errors import InputError, RowError, unknown_choice
from bayeslora.io import atomic_file
from bayeslora.plain_text import listed, shown
from bayeslora.predictions.answers import decision_records, is_decision_log
from bayeslora.predictions.logs import (
    is_sample_log,
    is_server_log,
    log_metadata,
    log_records,
    server_records,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = "1"
UNCERTAINTIES = ("total", "aleatoric", "epistemic")
RESERVED = frozenset({"format_version", "name", "classes"})
"""Keys of the Parquet metadata that are not the caller's."""

HELD_OUT = "held-out.parquet"
"""Name of the predictions in a model directory; see `BayesianClassifier.held_out`."""

HELD_OUT_ROWS = "held_out_rows"
"""Key in their metadata: the number of these rows and of all training rows."""

SUFFIXES = (".parquet", ".csv", ".jsonl")
"""Suffixes of predictions files to write."""

SUM_TOLERANCE = 1e-5
"""How far from 1 a row's probabilities may sum; float32 softmax is off by about 2e-7."""

ROW_GROUP = 65_536
"""Rows that are written, or read from JSON, at a time; of 150 columns 80 MB."""

SOFT = "label_"
"""Prefix of the columns of soft labels, which a file has for every class or for none."""

PREFIX = "bayeslora."  # of the keys of our Parquet metadata
_NESTED = {"probs": "prob_", "logits": "logit_"}
_NUMBERS = ("prob_", "logit_", "score_")
_FIXED = frozenset({"id", "label", "prediction", "confidence", *UNCERTAINTIES, *_NESTED})

Where = Callable[[int], str]
"""Takes the index of a row, from 0; returns its name in messages."""


@dataclass(frozen=True)
class PredictionsReading:
    """How to read a predictions file.

    Attributes:
        table: Delimiter and encoding of a text file.
        probability_columns: The class whose probability a column holds, by the column's name, in
            the order of the classes; empty takes the columns `prob_<class>`, or `logit_<class>`.
        renormalise: Whether rows whose probabilities do not sum to 1 are divided by their sum.
        name: Name of the predictions; empty for the stored one, else that of the file.
        label_column: Column of the labels, which must exist; None means `label`, if there is one.
    """

    table: Reading = formats.DEFAULT
    probability_columns: Mapping[str, str] = field(default_factory=dict)
    renormalise: bool = False
    name: str = ""
    label_column: str | None = None


AS_WRITTEN = PredictionsReading()
"""Columns and format as written by this package."""


def is_ours(column: str) -> bool:
    """Return whether a column's name has a fixed meaning in predictions files."""
    return column in _FIXED or column.startswith((*_NUMBERS, "set_", "interval_"))


def interval_columns(classes: Iterable[str]) -> list[str]:
    """Return the columns of the ends of the intervals of each class."""
    return [f"interval_{end}_{name}" for name in classes for end in ("low", "high")]


def row_number(index: int) -> str:
    """Return the name, in messages, of a row that is not from a text file."""
    return f"row {index + 1}"


@contextmanager
def named(source: str, where: Where = row_number) -> Iterator[None]:
    """Add the name of the source, and of the row, to an `InputError` that is raised within."""
    try:
        yield
    except RowError as error:
        raise InputError(f"{source}, {error.named(where)}") from None
    except InputError as error:
        raise error.within(source) from None


def refuse(wrong: NDArray[np.bool_], problem: Callable[..., str]) -> None:
    """Raise RowError for the first row with a true value.

    Args:
        wrong: [N] or [N, C].
        problem: Takes the index of that value; returns the message after the row's name.
    """
    if wrong.any():
        row, *column = np.argwhere(wrong)[0].tolist()
        raise RowError(row, problem(row, *column))


@dataclass(frozen=True)
class Columns:
    """Columns that have not been read yet.

    Attributes:
        source: Name of the file in messages.
        names: Names of the columns.
        read: Takes the names of columns of numbers and of columns of texts; returns a
            `pyarrow.Table` with both. Values of text formats are converted.
        where: Returns the name of a row in messages; after `read`.
        metadata: Our metadata, with keys without their prefix.
        reading: Which columns are the probabilities.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[Sequence[str], Sequence[str]], Any]
    where: Where = row_number
    metadata: Mapping[str, str] = field(default_factory=dict)
    reading: PredictionsReading = AS_WRITTEN

    @property
    def title(self) -> str:
        """The chosen or stored name of the predictions, else the file's without its suffix."""
        stem = Path(self.source.removesuffix(".gz")).stem
        return self.reading.name or self.metadata.get("name") or stem

    @property
    def notes(self) -> dict[str, str]:
        """The metadata of the record."""
        return {key: value for key, value in self.metadata.items() if key not in RESERVED}

    @property
    def further(self) -> list[str]:
        """The names of the columns without a fixed meaning, in order."""
        used = {*self.reading.probability_columns, self.reading.label_column}
        return [name for name in self.names if not is_ours(name) and name not in used]


def in_model(path: str | Path) -> Path:
    """Return the predictions of held-out rows in a model directory; a file as it is.

    Raises:
        InputError: It is a directory without such predictions.
    """
    file = Path(path)
    if not file.is_dir():
        return file
    if not (file / HELD_OUT).is_file():
        raise InputError(
            f"{path} is a directory without {HELD_OUT}, which `bayeslora fit` writes if it "
            "cross-validates (cv); pass a predictions file"
        )
    return file / HELD_OUT


def open_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> Columns:
    """Open a predictions file, reading only its header; sample logs are read as a whole.

    Args:
        path: The file, or a model directory with predictions of held-out rows.
        reading: How to read a file in another format than this package writes.

    Raises:
        InputError: The file is missing, unreadable, empty, or of another format version.
    """
    file = formats.open_file(in_model(path), reading.table)
    if file.kind == ".parquet":
        opened = _parquet_columns(file)
    elif file.is_csv:
        opened = _text_columns(file, formats.csv_table(file), {})
    else:
        opened = _text_columns(file, *_json_table(file))
    return replace(opened, reading=reading)


def _parquet_columns(file: File) -> Columns:
    with formats.parquet_file(file) as parquet:
        schema = parquet.schema_arrow
    metadata = {
        key.decode(errors="replace").removeprefix(PREFIX): value.decode(errors="replace")
        for key, value in (schema.metadata or {}).items()
        if key.startswith(PREFIX.encode())
    }
    version = metadata.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(f"{file} has format version {shown(version)}, not {FORMAT_VERSION}")

    def read_columns(numbers: Sequence[str], texts: Sequence[str]) -> Any:
        with formats.parquet_file(file) as parquet:
            table = parquet.read([*numbers, *texts], use_threads=False)
            table.validate(full=True)
        return table

    return Columns(str(file), tuple(schema.names), read_columns, metadata=metadata)


def _text_columns(file: File, rows: Table, metadata: Mapping[str, str]) -> Columns:
    """Return the columns of CSV or JSON."""

    def read_columns(numbers: Sequence[str], texts: Sequence[str]) -> Any:
        table = _csv_by_arrow(file, numbers, texts) if file.is_csv else None
        return _by_rows(file, rows, numbers, texts) if table is None else table

    def where(index: int) -> str:
        row, _ = next(islice(rows.rows(()), index, None))
        return f"row {row}"

    return Columns(str(file), rows.names, read_columns, where, metadata)


def _csv_by_arrow(file: File, numbers: Sequence[str], texts: Sequence[str]) -> Any:
    """Return the table of a CSV file; None if it has an error, or rows may be parts of a field.

    Arrow converts numbers ten times faster than Python, but takes everything between two unclosed
    quotation marks for a field, and does not name the row of an error.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(texts, pa.string())
    with file.binary() as stream:
        content = stream.read()
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            pa.csv.ReadOptions(
                use_threads=False,
                block_size=min(len(content) + 1, 2**31 - 1),
                encoding=file.reading.encoding or "utf8",
            ),
            pa.csv.ParseOptions(delimiter=file.delimiter, newlines_in_values=True),
            pa.csv.ConvertOptions(
                include_columns=[*types],
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, UnicodeError):
        return None
    names = [name for name in texts if name in ("id", "label")]
    broken = (pc.any(pc.match_substring(table.column(name), "\n")).as_py() for name in names)
    return None if content.count(b'"') % 2 or any(broken) else table


def _by_rows(file: File, rows: Table, numbers: Sequence[str], texts: Sequence[str]) -> Any:
    """Return the table of rows of a text file, read one by one.

    Raises:
        InputError: A value is not a number or not Unicode, or an id of CSV has other rows in it.
    """
    import pyarrow as pa

    def value(row: int, record: Record, name: str) -> float | str | None:
        cell = record[name]
        try:
            if name in numbers:
                return _number(cell, rows)
            text = as_text(cell)
            (text or "").encode()
            if name != "id" or not text:
                return text
            if rows.is_text and {"\n", file.delimiter} <= {*text}:
                problem = "contains rows; check for an unclosed quotation mark"
            elif isinstance(cell, list | dict):
                problem = "is not a string"
            else:
                return text
        except UnicodeEncodeError:
            problem = "contains an unpaired surrogate, which is not valid Unicode"
        except (OverflowError, TypeError, ValueError):
            problem = "is not a number"
        raise InputError(f"{file}, row {row}, column {shown(name)}: {shown(cell)} {problem}")

    names = [*numbers, *texts]
    kinds = [pa.float64()] * len(numbers) + [pa.string()] * len(texts)
    tables = []
    remaining = rows.rows(names)
    while piece := list(islice(remaining, ROW_GROUP)):
        columns = ([value(row, record, name) for row, record in piece] for name in names)
        tables.append(pa.table([*map(pa.array, columns, kinds)], names))
    return pa.concat_tables(tables)


def _number(value: Any, rows: Table) -> float | None:
    if isinstance(value, bool) or (isinstance(value, str) and not rows.is_text):
        raise ValueError
    return None if value is None else float(value)


def _json_table(file: File) -> tuple[Table, dict[str, str]]:
    """Return the rows of a JSON file or of a log, and the metadata of a log.

    Rows must have the columns of the first, apart from those that have no fixed meaning.
    """
    first = next((record for _, record in formats.json_rows(file)), None)
    if first is None:
        raise InputError(f"{file} is empty; at least one row is needed")
    log: list[tuple[int, Record]] = []
    metadata: dict[str, str] = {}
    if is_sample_log(first):
        log = log_records(file, formats.json_rows(file), is_ours)
        metadata = log_metadata(file.path)
    elif is_decision_log(first):
        log, metadata = decision_records(file, formats.json_rows(file), is_ours)
    elif is_server_log(first):
        log = server_records(file, formats.json_rows(file))
    if log:
        first = log[0][1]
    names = tuple(_flat(first))

    def rows(used: Sequence[str]) -> Iterator[tuple[int, Record]]:
        for line, record in log or formats.json_rows(file):
            row = _flat(record)
            for name in sorted(row.keys() ^ {*names}) if tuple(row) != names else ():
                if is_ours(name) or name in used:
                    has = f"{'has' if name in row else 'lacks'} {shown(name)}"
                    raise InputError(f"{file}, row {line} {has}, unlike the first row")
            yield line, row

    return Table(str(file), names, rows), metadata


def _flat(record: Record) -> Record:
    """Return the row with `{"probs": {"a": 0.2}}` as `prob_a`, and the same for logits."""
    for key, prefix in _NESTED.items():
        nested = record.get(key)
        if isinstance(nested, dict) and not any(name.startswith(_NUMBERS[:2]) for name in record):
            record = {name: value for name, value in record.items() if name != key}
            record |= {f"{prefix}{name}": value for name, value in nested.items()}
    return record


def _class_columns(opened: Columns) -> dict[str, str]:
    """Return the class of each column of probabilities or logits, by the column's name.

    Raises:
        InputError: There are none, there are several kinds, or a named column is missing.
    """
    names, chosen = opened.names, opened.reading.probability_columns
    for name in chosen:
        if name not in names:
            raise unknown_choice("probability column", name, names)
    kinds = [prefix for prefix in _NESTED.values() if any(n.startswith(prefix) for n in names)]
    if not kinds and not chosen:
        raise InputError(
            "no columns prob_<class> (or logit_<class>); add them (`bayeslora predict` makes them "
            f"from data), or use --probability-column NAME=CLASS. The columns are {listed(names)}"
        )
    kinds += [name for name in _NESTED if name in names]
    if len(kinds) > 1 and not chosen:
        raise InputError(f"columns {kinds[0]}<class> and {kinds[1]!r}; keep only one kind")
    if chosen:
        return dict(chosen)
    classes = [name.removeprefix(kinds[0]) for name in names if name.startswith(kinds[0])]
    with suppress(ValueError, TypeError, RecursionError):  # columns were moved, or it is damaged
        stored = json.loads(opened.metadata.get("classes", "[]"))
        classes = stored if sorted(stored) == sorted(classes) else classes
    return {f"{kinds[0]}{name}": name for name in classes}


def fields_of(opened: Columns, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Return the keyword arguments of `Predictions` from a table.

    Args:
        opened: A file whose header has been read, or a data frame.
        columns: Further columns to read.

    Raises:
        InputError: The table has no predictions, lacks one of `columns`, or a value is wrong.
    """
    names, label = opened.names, opened.reading.label_column or "label"
    with named(opened.source):
        if opened.reading.label_column and label not in names:
            raise unknown_choice("label column", label, opened.further or names)
        class_of = _class_columns(opened)
        if len(class_of) == 1 and not opened.reading.probability_columns:
            (column, name), *_ = class_of.items()
            raise InputError(
                f"column {shown(column)} alone has probabilities; add that of the other class, or "
                f"name it: --probability-column {shown(column)}={name}"
            )
        for column in columns:
            if column not in opened.further:
                raise unknown_choice("column", column, opened.further)
        classes = class_of.values()
        soft = _soft_columns(opened, classes, label)
    scores = [name for name in names if name.startswith("score_") or name in UNCERTAINTIES]
    sets, ends = (
        group if len(class_of) > 1 and {*group} <= {*names} else []
        for group in ([f"set_{name}" for name in classes], interval_columns(classes))
    )
    columns = [name for name in columns if name not in soft]
    texts = [name for name in names if name in {"id", label, *columns}]
    table = opened.read((*class_of, *scores, *ends, *soft), (*texts, *sets))
    with named(opened.source, opened.where):
        values = {n: [*map(as_text, formats.python_values(table.column(n)))] for n in texts}
        numbers = {name: _numbers(table, name) for name in scores}
        fields: dict[str, Any] = {
            "name": opened.title,
            "metadata": opened.notes,
            "columns": {name: values[name] for name in columns},
            **{name: numbers.pop(name) for name in UNCERTAINTIES if name in numbers},
            **_probabilities(table, class_of, values.get(label)),
        }
        fields["scores"] = {name.removeprefix("score_"): v for name, v in numbers.items()}
        if opened.reading.renormalise:
            sums = renormalise(fields["probs"])
            extent = sums.min(), sums.max()
            logger.warning("%s: divided rows by sums from %.4g to %.4g", opened.source, *extent)
        if label in values:
            fields["labels"] = label_codes(values[label], fields["classes"])
        if sets:
            fields["sets"] = np.column_stack([_truths(table, name) for name in sets])
        if soft:
            fields["soft_labels"] = np.column_stack([_counts(table, name) for name in soft])
        if ends:
            flat = np.column_stack([_numbers(table, name) for name in ends])
            fields["intervals"] = flat.reshape(len(flat), -1, 2)
        if "id" in values:
            if None in values["id"]:
                empty = ", column 'id': empty; give every row an id, or no row"
                raise RowError(values["id"].index(None), empty)
            fields["ids"] = values["id"]
    return fields


def _soft_columns(opened: Columns, classes: Collection[str], label: str) -> list[str]:
    """Return the columns of soft labels: of every class, or none beside a column of labels."""
    soft = [f"{SOFT}{name}" for name in classes]
    others = [n for n in opened.names if n.startswith(SOFT) and n not in {*soft, label}]
    missing = [name for name in soft if name not in opened.names]
    if len(soft) == 1 or (missing and (len(missing) == len(soft) or label in opened.names)):
        return []
    if missing:
        raise InputError(f"soft labels need a column of every class; add {listed(missing)}")
    if others:
        logger.warning("%s: no class has the labels %s", opened.source, listed(others))
    return soft


def _probabilities(
    table: Any, class_of: Mapping[str, str], labels: Sequence[str | None] | None
) -> dict[str, Any]:
    """Return `probs` [N, C], not yet checked, `classes` and `available`."""
    classes, available = [*class_of.values()], None
    are_logits = all(column == f"logit_{name}" for column, name in class_of.items())
    values = np.empty((len(table), len(classes)))
    for place, column in enumerate(class_of):
        values[:, place] = _numbers(table, column)
    if len(classes) == 1:
        # The class without a column is first, so that labels 0 and 1 are correct.
        classes = [_other_class(classes[0], labels), *classes]
        values = np.hstack([np.zeros_like(values) if are_logits else 1 - values, values])
    elif np.isnan(values).any():
        gaps = [_floats(table.column(column).is_null()) for column in class_of]
        available = np.column_stack(gaps) == 0
        available[available.sum(1) < 2] = True  # too few for a question: NaN is refused
    if are_logits:
        softmax(values, classes, available)
    elif available is not None:
        values[~available] = 0
    return {"probs": values, "classes": classes, "available": available}


def _other_class(name: str, labels: Sequence[str | None] | None) -> str:
    """Return the name of the class without a column."""
    known = {label for label in labels or () if label is not None}
    are_indices = name not in known and known <= {"0", "1"}
    return f"not {name}" if are_indices or known <= {name} else min(known - {name})


def renormalise(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each row by its sum in place; return the sums [N]."""
    sums: NDArray[np.float64] = probs.sum(1)
    refuse(
        ~((probs >= 0).all(1) & (sums > 0) & (sums < np.inf)),
        lambda row: f": probabilities sum to {sums[row]:.9g} and cannot be renormalised",
    )
    probs /= np.where(np.abs(sums - 1) > SUM_TOLERANCE, sums, 1)[:, None]
    return sums


def _floats(column: Any) -> NDArray[np.float64]:
    """Return a column of numbers or booleans, null as NaN.

    `to_numpy` would import pandas (0.5 s), as do `fill_null` and `pyarrow.array`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = pc.cast(column, pa.float64(), safe=False).combine_chunks()
    return np.asarray(np.from_dlpack(pc.fill_null(array, np.nan) if array.null_count else array))


def _numbers(table: Any, name: str) -> NDArray[np.float64]:
    """Return the [N] values of a column of numbers, null as NaN."""
    import pyarrow as pa

    kind = table.column(name).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise InputError(f"column {shown(name)} contains {str(kind)[:60]}, not numbers")
    return _floats(table.column(name))


def _counts(table: Any, name: str) -> NDArray[np.float64]:
    """Return the [N] numbers of a column, or of texts such as `predict --keep` writes."""
    import pyarrow as pa

    try:
        return _floats(table.column(name))
    except pa.ArrowException:
        raise InputError(f"column {shown(name)} contains values that are not numbers") from None


def _truths(table: Any, name: str) -> NDArray[np.bool_]:
    """Return the [N] booleans of a column; `true` and `1` are accepted in any type and case."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = table.column(name).type
    if pa.types.is_nested(kind):
        raise InputError(f"column {shown(name)} contains {str(kind)[:60]}, not booleans")
    words = pc.cast(table.column(name), pa.string())
    yes, no = (
        np.asarray(pc.is_in(pc.utf8_lower(words), pa.array(texts)))
        for texts in (["1", "true"], ["0", "false"])
    )
    problem = f", column {shown(name)}: {{}} is not a boolean"
    refuse(~(yes | no), lambda row: problem.format(shown(words[row].as_py())))
    return yes


def as_text(value: Any) -> str | None:
    """Return a value as text; None and NaN as None, lists and mappings as JSON.

    3.0 reads '3', since integer columns with gaps become floats.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def softmax(
    logits: NDArray[np.float64], classes: Sequence[str], available: NDArray[np.bool_] | None = None
) -> None:
    """Turn logits [N, C] into probabilities in place.

    Args:
        logits: [N, C].
        classes: C names.
        available: [N, C] mask of the classes of each row, at least one; others get 0. None: all.

    Raises:
        RowError: A logit is NaN or ∞, or all of a row are −∞, a probability of 0.
    """
    absent = np.zeros(logits.shape, bool) if available is None else ~available
    logits[absent] = -np.inf
    refuse(
        ~(logits < np.inf) | (logits.max(1, keepdims=True) == -np.inf),
        lambda row, k: f", column {shown(f'logit_{classes[k]}')}: {logits[row, k]} is not finite",
    )
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(1, keepdims=True)


def label_codes(labels: Sequence[str | None], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return [N] class indices of labels; -1 for None.

    Labels are class names or, if no label is a class name, indices.

    Raises:
        RowError: A label is neither the name nor the index of a class.
    """
    codes = {name: index for index, name in enumerate(classes)}
    for name in set(classes) & {"True", "False", "true", "false"}:
        # Python writes booleans with a capital, JSON and Arrow without.
        codes = {name.lower(): codes[name], name.capitalize(): codes[name]} | codes
    # A single class name means that the column holds names.
    if codes.keys().isdisjoint(labels):
        codes = {str(index): index for index in range(len(classes))}
    try:
        return np.array([-1 if label is None else codes[label] for label in labels], np.int64)
    except KeyError as error:
        label = error.args[0]
        problem = f", column 'label': unknown label {shown(label)}; the classes are "
        problem += f"{listed(classes)} (or, in every row, an index from 0 to {len(classes) - 1})"
        raise RowError(labels.index(label), problem) from None


def file_kind(path: str | Path) -> str:
    """Return the suffix of a predictions file to write, in lower case.

    Raises:
        InputError: The suffix is not in `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} must end in {', '.join(SUFFIXES)}, got {suffix!r}")
    return suffix


def write(path: str | Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write tables one after the other as a `.parquet`, `.csv` or `.jsonl` file, atomically.

    Args:
        path: The target file; the suffix selects the format. An existing file is replaced.
        schema: The `pyarrow.Schema` of the tables. Only Parquet stores its metadata.
        tables: `pyarrow.Table`s, consumed one at a time.

    Raises:
        InputError: The suffix is none of the three.
    """
    kind = file_kind(path)
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    with atomic_file(path) as temporary:
        if kind == ".jsonl":
            with temporary.open("w", encoding="utf-8", newline="\n") as out:
                for batch in (batch for table in tables for batch in table.to_batches(ROW_GROUP)):
                    rows = (json.dumps(row, ensure_ascii=False) for row in batch.to_pylist())
                    out.writelines(f"{row}\n" for row in rows)
            return
        # A dictionary of mostly distinct numbers is larger than the numbers.
        texts = [field.name for field in schema if not pa.types.is_floating(field.type)]
        writer = (
            pa.csv.CSVWriter(temporary, schema)
            if kind == ".csv"
            else pq.ParquetWriter(temporary, schema, use_dictionary=texts, write_page_checksum=True)
        )
        with writer:
            for table in tables:
                writer.write_table(table, ROW_GROUP)

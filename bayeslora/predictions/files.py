"""Predictions on disk: one table per file (Parquet, CSV or JSON lines), which any tool can write.

| column | content |
|---|---|
| `id` | string, optional, unique |
| `label` | class name, or index from 0; null where the row has no label; optional |
| `prob_<class>` | probability, one column per class, at least two; or `logit_<class>` |
| | null where the row does not have the class, as a question with fewer options than others |
| `total`, `aleatoric`, `epistemic` | uncertainty in nats, optional |
| `score_<name>` | any other uncertainty, higher = more uncertain, optional |
| `set_<class>` | whether the class is in the row's prediction set, one column for every class |

JSON may also hold `{"probs": {"<class>": 0.2, …}}`, or `logits`, in each row. Only Parquet stores
the name and the metadata of a record. Sample logs of lm-evaluation-harness are read as well
(`harness`), detected by the keys of their first line. `bayeslora.tables` opens the files.

Other columns are read as texts if requested by name, else ignored, and so are `set_<class>` columns
unless every class has one. Classes are in the order of the columns, unless the Parquet metadata
lists the same classes in another order. Labels are names if any of them is a class name, else
indices: a column never mixes the two.

The record checks its values (`record`); this module checks only errors specific to files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import STDIN
from bayeslora.plain_text import listed, shown
from bayeslora.predictions.columns import (
    AS_WRITTEN,
    SUM_TOLERANCE,
    PredictionsReading,
    Where,
    absent,
    id_names,
    is_plain,
    label_codes,
    numbers,
    texts,
    truths,
)
from bayeslora.predictions.harness import is_sample_log, log_columns, log_name, read_sample_log
from bayeslora.predictions.matrix import Matrix, matrix_of
from bayeslora.tables.opening import open_table
from bayeslora.tables.table import Piece, RowNames, Table, check_spelling

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
UNCERTAINTIES = ("total", "aleatoric", "epistemic")
RESERVED = frozenset({"format_version", "name", "classes"})

_NUMERIC = ("prob_", "logit_", "score_")
_FIXED = frozenset({"id", "label", "prediction", "confidence", *UNCERTAINTIES})
_NESTED = {"probs": "prob_", "logits": "logit_"}
_PIECE = 65_536  # rows; a piece of 150 columns is 80 MB


def read_fields(
    path: str | Path, columns: Sequence[str] = (), reading: PredictionsReading = AS_WRITTEN
) -> tuple[dict[str, Any], Where]:
    """Return the keyword arguments of `Predictions` from a file, and the names of its rows.

    Args:
        path: A `.parquet`, `.csv`, `.tsv`, `.jsonl` or `.json` file, the text formats also with
            `.gz`, or a sample log of lm-evaluation-harness.
        columns: Further columns to read.
        reading: How to read a file in another format than this package writes.

    Raises:
        InputError: The file is missing, unreadable, of a newer format, not a predictions file, or
            lacks one of `columns`.
    """
    if is_sample_log(path, reading):
        return read_sample_log(path, columns=columns, reading=reading)
    return fields_of(_open(path, reading), columns, reading)


def fields_of(
    table: Table, columns: Sequence[str] = (), reading: PredictionsReading = AS_WRITTEN
) -> tuple[dict[str, Any], Where]:
    """Return the keyword arguments of `Predictions` from a table; see `read_fields`.

    Args:
        table: A file whose header has been read, or a data frame.
        columns: Further columns to read.
        reading: Which columns are the probabilities.

    Raises:
        InputError: As `read_fields`.
    """
    matrix = matrix_of(table, reading)
    _check_further(table, columns)
    if "label" not in columns:
        check_spelling(table, "label", "labels must be in a column 'label'")
    parts = _Parts(table, matrix, columns)
    labels = parts.texts.get("label")
    probs, classes = matrix.probabilities(parts.values, labels, parts.where, parts.available)
    if reading.renormalise:
        _renormalise(table.source, probs, parts.where)
    fields: dict[str, Any] = {
        "probs": probs,
        "classes": classes,
        "available": parts.available,
        "name": _name(table),
        "metadata": _further_notes(table),
        "scores": {
            name.removeprefix("score_"): values
            for name, values in parts.numbers.items()
            if name.startswith("score_")
        },
        "columns": {name: parts.texts[name].to_pylist() for name in columns},
    }
    fields |= {name: parts.numbers[name] for name in UNCERTAINTIES if name in parts.numbers}
    if "label" in parts.texts:
        fields["labels"] = label_codes(table.source, parts.texts["label"], classes, parts.where)
    if parts.sets:
        fields["sets"] = np.column_stack([parts.sets[f"set_{name}"] for name in classes])
    if "id" in parts.texts:
        fields["ids"] = id_names(table.source, parts.texts["id"], parts.where)
    return fields, parts.where


def read_notes(
    path: str | Path, reading: PredictionsReading = AS_WRITTEN
) -> tuple[str, dict[str, str]]:
    """Return the name and the metadata of the predictions in a file, without reading its rows.

    Raises:
        InputError: The file is missing, unreadable, of a newer format, or not a predictions file.
    """
    if is_sample_log(path, reading):
        return log_name(path), {}
    table = _open(path, reading)
    matrix_of(table, reading)
    return _name(table), _further_notes(table)


def further_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> list[str]:
    """Return the further columns of a predictions file, those without a fixed meaning, in order.

    Raises:
        InputError: The file is missing or unreadable.
    """
    if is_sample_log(path, reading):
        return log_columns(path, reading)
    return [name for name in _open(path, reading).names if not is_ours(name)]


def text_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> list[str]:
    """Return the further columns of a file that can be kept: all but lists and structures.

    Logs the omitted columns.

    Raises:
        InputError: The file is missing or unreadable.
    """
    if is_sample_log(path, reading):
        return log_columns(path, reading)
    table = _open(path, reading)
    names = [name for name in table.names if not is_ours(name)]
    if table.schema is None:
        return names
    plain = [name for name in names if is_plain(table.schema.field(name).type)]
    if len(plain) < len(names):
        lost = listed([name for name in names if name not in plain])
        source = table.source
        logger.warning("%s: skipped columns without text or numbers: %s", source, lost)
    return plain


def is_ours(column: str) -> bool:
    """Return whether a column's name has a fixed meaning in predictions files."""
    return column in _FIXED or column.startswith((*_NUMERIC, "set_"))


class _Parts:
    """The used columns of a file, joined from its pieces.

    Attributes:
        values: [N, C] probabilities or logits.
        numbers: [N] float64 by name.
        sets: [N] booleans by name, of all classes or none.
        texts: [N] Arrow strings by name.
        available: [N, C] mask of the classes of each row; None if every row has all classes. A row
            with fewer than two values is left unchanged, with NaN for the missing ones.
        where: Returns the name of a row in messages.
    """

    def __init__(self, table: Table, matrix: Matrix, further: Sequence[str]) -> None:
        import pyarrow as pa

        is_number = {*UNCERTAINTIES, *(n for n in table.names if n.startswith("score_"))}
        is_text = {"id", "label", *further}
        sets = [f"set_{name}" for name in matrix.classes]
        is_set = {*sets} if len(sets) > 1 and set(sets) <= {*table.names} else set()
        used = [name for name in table.names if name in is_number | is_text | is_set]
        _check_types(table, matrix.columns)
        chunks: list[NDArray[np.float64]] = []
        gaps: list[NDArray[np.bool_] | None] = []
        chunks_by_name: dict[str, list[Any]] = {name: [] for name in used}
        self.where = RowNames()
        for piece in table.pieces([*matrix.columns, *used], _PIECE):
            self.where.add(piece)
            chunks.append(np.column_stack([numbers(table, piece, n) for n in matrix.columns]))
            gaps.append(_gaps(piece, matrix.columns, chunks[-1]))
            for name in used:
                convert = texts if name in is_text else truths if name in is_set else numbers
                chunks_by_name[name].append(convert(table, piece, name))
        self.available = _available(gaps, list(map(len, chunks)), len(matrix.columns))
        self.values = _joined(chunks)
        joined = {n: np.concatenate(v) for n, v in chunks_by_name.items() if n not in is_text}
        self.numbers = {name: values for name, values in joined.items() if name not in is_set}
        self.sets = {name: values for name, values in joined.items() if name in is_set}
        self.texts = {n: pa.chunked_array(v) for n, v in chunks_by_name.items() if n in is_text}


def _gaps(
    piece: Piece, columns: Sequence[str], values: NDArray[np.float64]
) -> NDArray[np.bool_] | None:
    """Return an [N, C] mask of missing values in rows with two or more values; None: no gaps."""
    if not np.isnan(values).any():
        return None
    gaps = np.column_stack([absent(piece, name) for name in columns])
    gaps &= ((~gaps).sum(1) > 1)[:, None]
    return gaps if gaps.any() else None


def _available(
    gaps: Sequence[NDArray[np.bool_] | None], sizes: Sequence[int], columns: int
) -> NDArray[np.bool_] | None:
    if all(gap is None for gap in gaps):
        return None
    no_gaps = (np.zeros((size, columns), bool) for size in sizes)
    return ~np.concatenate([w if g is None else g for g, w in zip(gaps, no_gaps, strict=True)])


def _open(path: str | Path, reading: PredictionsReading) -> Table:
    table = open_table(path, reading.table, shape=_flat, alike=_must_be_alike)
    _check_version(table)
    return table


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return the row with `{"probs": {"a": 0.2}}` as `prob_a`, and the same for logits."""
    if _NESTED.keys().isdisjoint(record):
        return record
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if name in _NESTED and isinstance(value, dict):
            flat |= {f"{_NESTED[name]}{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _must_be_alike(name: str) -> bool:
    return name in {"id", "label"} or name.startswith(_NUMERIC)


def _name(table: Table) -> str:
    if table.source == STDIN:
        return table.metadata.get("name") or "stdin"
    stem = Path(table.source).name.removesuffix(".gz")
    return table.metadata.get("name") or Path(stem).stem


def _further_notes(table: Table) -> dict[str, str]:
    return {key: value for key, value in table.metadata.items() if key not in RESERVED}


def _check_further(table: Table, columns: Sequence[str]) -> None:
    choices = [name for name in table.names if not is_ours(name)]
    for column in columns:
        if column not in choices:
            raise InputError(f"{table.source}: {unknown_choice('column', column, choices)}")


def _check_types(table: Table, columns: Sequence[str]) -> None:
    """Raise InputError if a column cannot hold numbers, before any row is read."""
    import pyarrow as pa

    for name in columns if table.schema is not None else ():
        empty = pa.nulls(0, table.schema.field(name).type)
        numbers(table, Piece({name: empty}, range(0), 0), name)


def _joined(chunks: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Concatenate the chunks, freeing each as soon as it is copied."""
    end = sum(map(len, chunks))
    joined = np.empty((end, chunks[0].shape[1]))
    while chunks:
        chunk = chunks.pop()
        joined[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return joined


def _renormalise(source: str, probs: NDArray[np.float64], where: Where) -> None:
    """Divide each row by its sum in place; log the range of the sums, or that they all were 1."""
    sums = probs.sum(1)
    bad = ~((probs >= 0).all(1) & np.isfinite(sums) & (sums > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{source}, {where(row)}: probabilities sum to {sums[row]:.9g} and cannot be "
            "renormalised"
        )
    if np.allclose(sums, 1, rtol=0, atol=SUM_TOLERANCE):
        logger.warning(
            "%s: renormalise (--renormalise) had no effect, because all rows sum to 1", source
        )
        return
    probs /= sums[:, None]
    logger.warning(
        "%s: divided rows by their sums, which ranged from %.4g to %.4g",
        source,
        sums.min(),
        sums.max(),
    )


def _check_version(table: Table) -> None:
    version = table.metadata.get("format_version", str(FORMAT_VERSION))
    if not (version.isdecimal() and len(version) < 10 and int(version) <= FORMAT_VERSION):
        raise InputError(
            f"{table.source} has predictions format version {shown(version)}; this version of "
            f"bayeslora supports versions up to {FORMAT_VERSION}"
        )

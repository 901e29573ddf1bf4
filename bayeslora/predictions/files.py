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

JSON may also hold `{"probs": {"<class>": 0.2, …}}`, or `logits`, in each row, in place of columns.
Only Parquet stores the name and the metadata of a record. Sample logs of lm-evaluation-harness are
read as well (`harness`), detected by the keys of their first line.

Other columns are read as texts if requested by name, else ignored, and so are `set_<class>` columns
unless every class has one. Classes are in the order of the columns, unless the Parquet metadata
lists the same classes in another order. Labels are names if any of them is a class name, else
indices: a column never mixes the two.

Every format becomes an Arrow table; the record checks its values (`record`).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.columns import check_spelling
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import STDIN
from bayeslora.plain_text import listed, shown
from bayeslora.predictions import sources
from bayeslora.predictions.columns import (
    AS_WRITTEN,
    SUM_TOLERANCE,
    PredictionsReading,
    Where,
    floats,
    is_plain,
    label_codes,
    softmax,
    strings,
)
from bayeslora.predictions.harness import is_sample_log, log_columns, log_name, read_sample_log
from bayeslora.predictions.sources import UNCERTAINTIES, Source, is_ours

logger = logging.getLogger(__name__)

_OF_DATA = frozenset({"text", "question", "history", "image"})


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
    return fields_of(sources.open_source(path, reading), columns, reading)


def fields_of(
    source: Source, columns: Sequence[str] = (), reading: PredictionsReading = AS_WRITTEN
) -> tuple[dict[str, Any], Where]:
    """Return the keyword arguments of `Predictions` from a table; see `read_fields`.

    Args:
        source: A file whose header has been read, or a data frame.
        columns: Further columns to read.
        reading: Which columns are the probabilities.

    Raises:
        InputError: As `read_fields`.
    """
    matrix = matrix_of(source, reading)
    further = _further(source, reading)
    for column in columns:
        if column not in further:
            raise InputError(f"{source.name}: {unknown_choice('column', column, further)}")
    if "label" not in columns:
        check_spelling(source.name, source.names, "label", "labels must be in a column 'label'")
    scores = [n for n in source.names if n.startswith("score_") or n in UNCERTAINTIES]
    sets = [f"set_{name}" for name in matrix.classes]
    if len(sets) < 2 or not {*sets} <= {*source.names}:
        sets = []
    kinds: dict[str, sources.Kind] = dict.fromkeys((*matrix.columns, *scores), "number")
    kinds |= dict.fromkeys(sets, "truth")
    kinds |= dict.fromkeys((n for n in source.names if n in {"id", "label", *columns}), "text")
    table = source.read(kinds)
    texts = {name: _texts(source, table, name) for name, kind in kinds.items() if kind == "text"}
    labels = texts.get("label")
    values = np.empty((len(table), len(matrix.columns)))
    for place, name in enumerate(matrix.columns):
        values[:, place] = _numbers(source, table, name)
    available = _available(table, matrix.columns, values)
    probs, classes = matrix.probabilities(values, labels, source.where, available)
    if reading.renormalise:
        _renormalise(source.name, probs, source.where)
    numbers = {name: _numbers(source, table, name) for name in scores}
    fields: dict[str, Any] = {
        "probs": probs,
        "classes": classes,
        "available": available,
        "name": _name(source),
        "metadata": _notes(source),
        "scores": {
            name.removeprefix("score_"): values
            for name, values in numbers.items()
            if name not in UNCERTAINTIES
        },
        "columns": {name: texts[name] for name in columns},
    }
    fields |= {name: numbers[name] for name in UNCERTAINTIES if name in numbers}
    if labels is not None:
        fields["labels"] = label_codes(source.name, labels, classes, source.where)
    if sets:
        fields["sets"] = np.column_stack([_truths(source, table, f"set_{n}") for n in classes])
    if "id" in texts:
        if None in texts["id"]:
            row = source.where(texts["id"].index(None))
            problem = "empty; give every row an id, or no row"
            raise InputError(f"{source.name}, {row}, column 'id': {problem}")
        fields["ids"] = tuple(texts["id"])
    return fields, source.where


def read_notes(
    path: str | Path, reading: PredictionsReading = AS_WRITTEN
) -> tuple[str, dict[str, str]]:
    """Return the name and the metadata of the predictions in a file, without reading its rows.

    Raises:
        InputError: The file is missing, unreadable, of a newer format, or not a predictions file.
    """
    if is_sample_log(path, reading):
        return log_name(path), {}
    source = sources.open_source(path, reading)
    matrix_of(source, reading)
    return _name(source), _notes(source)


def further_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> list[str]:
    """Return the further columns of a predictions file, those without a fixed meaning, in order.

    Raises:
        InputError: The file is missing or unreadable.
    """
    if is_sample_log(path, reading):
        return log_columns(path, reading)
    return _further(sources.open_source(path, reading), reading)


def text_columns(path: str | Path, reading: PredictionsReading = AS_WRITTEN) -> list[str]:
    """Return the further columns of a file that can be kept: all but lists and structures.

    Logs the omitted columns.

    Raises:
        InputError: The file is missing or unreadable.
    """
    if is_sample_log(path, reading):
        return log_columns(path, reading)
    source = sources.open_source(path, reading)
    names = _further(source, reading)
    if source.schema is None:
        return names
    plain = [name for name in names if is_plain(source.schema.field(name).type)]
    if len(plain) < len(names):
        lost = listed([name for name in names if name not in plain])
        logger.warning("%s: skipped columns without text or numbers: %s", source.name, lost)
    return plain


def _further(source: Source, reading: PredictionsReading) -> list[str]:
    used = reading.probability_columns
    return [name for name in source.names if not is_ours(name) and name not in used]


def _numbers(source: Source, table: Any, name: str) -> NDArray[np.float64]:
    """Return the [N] values of a column, null as NaN."""
    import pyarrow as pa

    column = table.column(name)
    is_boolean = pa.types.is_boolean(column.type)
    if is_boolean or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        raise _not_numbers(source, name, column.type)
    try:
        return floats(column)
    except pa.ArrowException:
        raise _not_numbers(source, name, column.type) from None


def _not_numbers(source: Source, name: str, kind: Any) -> InputError:
    return InputError(f"{source.name}: column {shown(name)} contains {str(kind)[:60]}, not numbers")


def _truths(source: Source, table: Any, name: str) -> NDArray[np.bool_]:
    """Return the [N] booleans of a column; 1 and 0 are accepted."""
    import pyarrow as pa

    try:
        values = floats(table.column(name))
    except pa.ArrowException:
        raise _not_numbers(source, name, table.column(name).type) from None
    bad = (values != 0) & (values != 1)
    if bad.any():
        row = int(np.argmax(bad))
        value = None if np.isnan(values[row]) else f"{values[row]:g}"
        raise sources.bad_value(source.name, source.where(row), name, f"{value} is not a boolean")
    return np.asarray(values == 1)


def _texts(source: Source, table: Any, name: str) -> list[str | None]:
    import pyarrow as pa

    column = table.column(name)
    try:
        values: list[str | None] = strings(column).to_pylist()
    except pa.ArrowException:
        raise InputError(
            f"{source.name}: column {shown(name)} must hold text or numbers, got "
            f"{str(column.type)[:60]}"
        ) from None
    return values


def _available(
    table: Any, columns: Sequence[str], values: NDArray[np.float64]
) -> NDArray[np.bool_] | None:
    """Return the [N, C] mask of the classes of each row; None if every row has all classes.

    A row with fewer than two values is left unchanged, with NaN for the missing ones.
    """
    if not np.isnan(values).any():
        return None
    gaps = np.column_stack([floats(table.column(name).is_null()) for name in columns]).astype(bool)
    gaps &= ((~gaps).sum(1) > 1)[:, None]
    return ~gaps if gaps.any() else None


def _name(source: Source) -> str:
    if source.name == STDIN:
        return source.metadata.get("name") or "stdin"
    stem = Path(source.name).name.removesuffix(".gz")
    return source.metadata.get("name") or Path(stem).stem


def _notes(source: Source) -> dict[str, str]:
    return {key: value for key, value in source.metadata.items() if key not in sources.RESERVED}


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


@dataclass(frozen=True)
class Matrix:
    """The probability or logit columns, one per class.

    Attributes:
        source: Name of the file in messages.
        columns: Names of the columns.
        classes: Their classes; with a single column, the second class follows from the labels.
        are_logits: Whether the columns hold logits.
        stored: The classes listed in the file's metadata, in order.
    """

    source: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    are_logits: bool = False
    stored: tuple[str, ...] = ()

    def probabilities(
        self,
        values: NDArray[np.float64],
        labels: Sequence[str | None] | None,
        where: Where,
        available: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return [N, C] probabilities, not yet checked, and C classes.

        Args:
            values: [N, number of columns]; logits are changed in place.
            labels: [N] texts, or None.
            where: Returns the name of a row in messages.
            available: [N, number of columns] mask of the classes of each row; None: all.

        Raises:
            InputError: A logit is not finite, or a single column does not fit two classes.
        """
        classes = self.classes
        if len(classes) == 1:
            classes = (self._other(labels), *classes)
            values = self._both(values[:, 0], where)
        if self.are_logits:
            softmax(self.source, values, classes, where, available)
        elif available is not None:
            values[~available] = 0
        return values, classes

    def _both(self, values: NDArray[np.float64], where: Where) -> NDArray[np.float64]:
        """Return [N, 2] with the other class first, so that indices 0 and 1 are correct."""
        if self.are_logits:
            return np.column_stack([np.zeros_like(values), values])
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            row = int(np.argmax(bad))
            problem = f"probability {values[row]} is not between 0 and 1"
            raise sources.bad_value(self.source, where(row), self.columns[0], problem)
        return np.column_stack([1 - values, values])

    def _other(self, labels: Sequence[str | None] | None) -> str:
        """Return the name of the class without a column."""
        name = self.classes[0]
        if len(self.stored) == 2 and name in self.stored:
            return next(label for label in self.stored if label != name)
        known = {label for label in labels or () if label is not None}
        if name not in known and known <= {"0", "1"}:
            return f"not {name}"
        others = sorted(known - {name})
        if len(others) > 1:
            raise InputError(
                f"{self.source} has a single probability column, {shown(self.columns[0])}, but "
                f"more than two classes: the labels are {listed(sorted(known))}; add a column "
                "prob_<class> for each class"
            )
        return others[0] if others else f"not {name}"


def matrix_of(source: Source, reading: PredictionsReading) -> Matrix:
    """Return the columns of probabilities or logits in a table.

    Raises:
        InputError: There are none, there are several kinds, or a named column is missing.
    """
    if reading.probability_columns:
        for name in reading.probability_columns:
            if name not in source.names:
                raise InputError(
                    f"{source.name}: {unknown_choice('probability column', name, source.names)}"
                )
        columns, classes = zip(*reading.probability_columns.items(), strict=True)
        return Matrix(source.name, columns, classes)
    probs, logits = (
        [name.removeprefix(prefix) for name in source.names if name.startswith(prefix)]
        for prefix in sources.NESTED.values()
    )
    if probs and logits:
        raise InputError(
            f"{source.name} has both prob_<class> and logit_<class> columns; keep only one kind"
        )
    if not probs and not logits:
        advice = ""
        if _OF_DATA & {*source.names}:
            command = f"bayeslora predict MODEL {source.name} --out FILE.parquet"
            advice = f". To predict these rows: `{command}`"
        raise InputError(
            f"{source.name} has no columns prob_<class> (or logit_<class>); add one for each "
            "class, or use --probability-column NAME=CLASS. Its columns are "
            f"{listed(source.names)}{advice}"
        )
    prefix = "logit_" if logits else "prob_"
    for name in sources.NESTED:
        if name in source.names:
            raise InputError(
                f"{source.name} has a column {shown(name)} beside columns {prefix}<class>; keep "
                "only one of them"
            )
    if reading.renormalise and logits:
        raise InputError(
            f"{source.name} contains logits; --renormalise applies only to probabilities"
        )
    stored = _stored(source.metadata.get("classes", "[]"))
    names = logits or probs
    # The stored order counts if the columns are a permutation of it.
    ordered = tuple(stored if Counter(stored) == Counter(names) else names)
    of_file = tuple(f"{prefix}{name}" for name in ordered)
    return Matrix(source.name, of_file, ordered, are_logits=bool(logits), stored=stored)


def _stored(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()

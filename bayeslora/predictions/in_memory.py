"""Conversion of arrays, a Trainer's output, and data frames to `Predictions`.

Nothing here guesses whether numbers are logits or probabilities: the caller says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslora.data.formats import check_distinct
from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import shown
from bayeslora.predictions.columns import Where, as_text, is_plain, label_codes, softmax
from bayeslora.predictions.files import fields_of
from bayeslora.predictions.sources import Source, is_ours

KINDS = ("probs", "logits")
IGNORED = -100
"""The label of ignored rows in transformers."""

_SOURCE = "<arrays>"


def array_fields(
    values: ArrayLike, labels: Any, classes: Sequence[Any] | None, kind: str
) -> dict[str, Any]:
    """Return arrays as keyword arguments of `Predictions`; see `Predictions.from_arrays`."""
    if kind not in KINDS:
        raise unknown_choice("kind", str(kind), KINDS)
    matrix = _matrix(values)
    names = class_names(classes, matrix.shape[1])
    if kind == "logits":
        softmax(_SOURCE, matrix, names)
    if labels is None:
        return {"probs": matrix, "classes": names, "labels": None}
    texts = _texts(labels, "labels")
    if len(texts) != len(matrix):
        raise InputError(f"{len(texts)} labels, but {len(matrix)} rows")
    if "-1" not in names:
        texts = [None if text == "-1" else text for text in texts]
    return {"probs": matrix, "classes": names, "labels": label_codes(_SOURCE, texts, names)}


def output_fields(output: Any, classes: Sequence[Any] | Mapping[Any, str] | None) -> dict[str, Any]:
    """Return a Trainer's output as keyword arguments of `Predictions`.

    See `Predictions.from_prediction_output`.
    """
    if not hasattr(output, "predictions"):
        raise InputError(
            f"expected the PredictionOutput of Trainer.predict, got {type(output).__name__}"
        )
    logits, labels = _first(output.predictions), _first(getattr(output, "label_ids", None))
    if np.ndim(logits) != 2 or np.shape(logits)[1] < 2:
        raise InputError(
            "predictions must be logits [rows, classes] with at least two classes, got shape "
            f"{list(np.shape(logits))}; regression and token classification are not supported"
        )
    if labels is not None:
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(
                f"label_ids must be {len(logits)} integers, got {labels.dtype} of shape "
                f"{list(labels.shape)}; multi-label classification is not supported"
            )
        labels = np.where(labels == IGNORED, -1, labels)
    names = _ordered(classes) if isinstance(classes, Mapping) else classes
    return array_fields(logits, None, names, "logits") | {"labels": labels}


def class_names(classes: Sequence[Any] | None, number: int) -> tuple[str, ...]:
    """Return class names, such as those of `classes_`, as strings; numbers from 0 if None."""
    if classes is None:
        return tuple(map(str, range(number)))
    names = tuple(name for name in _texts(classes, "classes") if name is not None)
    if len(names) != number:
        raise InputError(f"{len(names)} classes, but {number} columns of values")
    return names


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and len(value) else value


def _ordered(names: Mapping[Any, str]) -> list[str]:
    """Return the names of an `id2label` in index order; its keys are strings in JSON."""
    by_index = {int(index): str(name) for index, name in names.items()}
    if sorted(by_index) != list(range(len(by_index))):
        raise InputError(f"id2label must number the classes from 0, got {sorted(by_index)}")
    return [by_index[index] for index in range(len(by_index))]


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"values must be an array of numbers: {error}") from None
    if matrix.ndim != 2:
        raise InputError(
            f"values must be [rows, classes], got shape {list(matrix.shape)}; for two classes, "
            "stack one column per class"
        )
    return matrix


def _texts(values: Any, name: str) -> list[str | None]:
    """Return names or indices as texts; None and NaN as None."""
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    wrong = [v for v in plain if not isinstance(v, str | bool | int | float | None)]
    if wrong:
        raise InputError(f"{name} must be class names or indices, got {shown(wrong[0])}")
    return [as_text(value) for value in plain]


def is_frame(value: object) -> bool:
    """Return whether `value` is a data frame (pandas, polars, …) or an Arrow table."""
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__")


def frame_fields(frame: Any) -> tuple[dict[str, Any], Where]:
    """Return the keyword arguments of `Predictions` from a data frame; see `fields_of`.

    It has the columns of a predictions file; any other text or number column becomes a further
    column.

    Args:
        frame: A data frame, a `pyarrow.Table`, or equally long columns by name.

    Raises:
        InputError: `frame` is none of these, or has no predictions.
    """
    import pyarrow as pa

    source = f"<{type(frame).__name__}>"
    if not (is_frame(frame) or isinstance(frame, Mapping)):
        raise InputError(
            "expected Predictions, the path of a file, or a data frame with columns prob_<class> "
            f"and label, got {frame!r:.80}; for arrays use Predictions.from_arrays"
        )
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"the columns of {source} must have equal length: {error}") from None
    names, schema = tuple(table.column_names), table.schema
    check_distinct(names, source)
    if not len(table):
        raise InputError(f"{source} has no rows")
    further = [name for name in names if not is_ours(name) and is_plain(schema.field(name).type)]
    return fields_of(Source(source, names, lambda _kinds: table, schema=schema), further)

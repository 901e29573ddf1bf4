"""Read and check the data that a user passes, before any model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.checkpoint import ADAPTED, ModelRecord
from bayeslora.data import examples
from bayeslora.data.columns import DataColumns, Reader
from bayeslora.data.examples import Examples
from bayeslora.data.formats import DEFAULT, Reading
from bayeslora.data.read import read, stream
from bayeslora.errors import InputError, unknown_choice
from bayeslora.held_out import MOST_DISTINCT, MOST_EQUAL
from bayeslora.option_checks import Format
from bayeslora.plain_text import counted
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import names_where
from bayeslora.predictions.files import SOFT
from bayeslora.predictions.record import check_further

logger = logging.getLogger(__name__)

LabelledExamples: TypeAlias = tuple[Examples, Tensor]
"""Rows and their labels [N] int64."""

Unknown = Literal["error", "ood"]
"""How to treat a label that is not a class: raise, or keep the row as out of distribution."""


def read_for(
    record: ModelRecord,
    data: Any,
    columns: DataColumns,
    *,
    labels: Literal["optional", "required"] = "optional",
    keep: str | Sequence[str] = (),
    reading: Reading = DEFAULT,
) -> Examples:
    """Return rows for a model, as `read`; with their tasks for a model of several tasks.

    Args:
        record: Record of the model.
        data: As for `read`; for several tasks a mapping from their names to data, or rows with
            a column `task`.
        columns: Columns to read.
        labels: As for `read`.
        keep: Further columns to keep.
        reading: As for `read`.

    Raises:
        InputError: As `read`; or a column name is reserved for predictions; or a row has no task,
            or an unknown one.
    """
    names = _checked_names(keep)
    if examples.is_union(data) and not record.tasks:
        raise InputError("the classifier was fitted to one task; pass its rows without a task name")
    if examples.is_union(data):
        read_part = partial(read, columns=columns, labels=labels, keep=names, reading=reading)
        return examples.union({task: read_part(rows) for task, rows in data.items()}, record.tasks)
    rows = read(data, columns, labels=labels, keep=names, reading=_reading(reading, record))
    if columns.label != columns_of(record).label and not any(rows.labels):
        raise InputError(f"{rows.source}: column {columns.label!r} has no label")
    return (
        examples.with_tasks(examples.among_own(rows, record.tasks), record.classes)
        if record.tasks
        else rows
    )


def stream_for(
    record: ModelRecord,
    data: Any,
    columns: DataColumns,
    *,
    keep: str | Sequence[str] = (),
    reading: Reading = DEFAULT,
) -> Examples | Reader:
    """Return what has the rows of `read_for` as pieces; in memory for several tasks."""
    if record.tasks or examples.is_union(data):
        return read_for(record, data, columns, keep=keep, reading=reading)
    rows = stream(data, columns, keep=_checked_names(keep), reading=_reading(reading, record))
    here = any(rows.labels) if isinstance(rows, Examples) else columns.label in rows.table.names
    if columns.label != columns_of(record).label and not here:
        raise InputError(f"{rows.source}: column {columns.label!r} has no label")
    return rows


def _reading(reading: Reading, record: ModelRecord) -> Reading:
    """Return how to read rows with their tasks or soft labels, if they have any."""
    soft = tuple(f"{SOFT}{name}" for name in record.classes)
    return replace(reading, optional=(examples.TASK,) if record.tasks else soft)


def _checked_names(keep: str | Sequence[str]) -> Sequence[str]:
    names = (keep,) if isinstance(keep, str) else keep
    check_further(names)
    return names


def read_labelled(data: Any, columns: DataColumns, record: ModelRecord | None = None) -> Examples:
    """Return the examples in `data`, which must have labels; warn about repeated rows.

    Args:
        data: As for `read`.
        columns: Columns to read.
        record: Record of the model that the rows are for, if there is one; see `read_for`.

    Raises:
        InputError: As `read_for`, or a label is missing.
    """
    if record is None:
        rows = read(data, columns, labels="soft")
    else:
        rows = read_for(record, data, columns, labels="required")
        if rows.shares is not None:  # rows that the command line has read
            raise InputError(
                f"{rows.source}: only `fit` learns from soft labels; name the column of a label "
                "per row",
                code="soft-labels",
            )
    if rows.duplicates:
        logger.warning(
            "%s: %d of %s repeat an earlier row (same text and label)",
            *(rows.source, rows.duplicates, counted(len(rows), "row")),
        )
    return rows


def check_soft(rows: Examples, posterior: Posterior, of: str = "", *, learns: bool = True) -> None:
    """Raise InputError if rows have soft labels, and the posterior or adapter needs labels.

    Args:
        rows: Labelled rows.
        posterior: Options of the posterior.
        of: Name of the adapter, for the message.
        learns: Whether the adapter, if any, learns from the last layer's loss.
    """
    if rows.shares is not None and not (posterior.takes_soft and learns):
        raise InputError(
            f"{f'{of} and ' if of else ''}posterior {posterior.name!r} do not learn from soft "
            f"labels; use one of {names_where(lambda config: config.takes_soft)} and an adapter "
            "that trains with the last layer, or a column with one label per row",
            code="soft-labels",
        )


def format_of(record: ModelRecord) -> Format | None:
    """Return a model's format of questions; None if it classifies texts."""
    format: Format | None = record.backbone.get("format")
    return format


def classes_for(record: ModelRecord, most_options: int) -> tuple[str, ...]:
    """Return a model's classes for questions with up to `most_options` options."""
    return classes_with(format_of(record), record.classes, most_options)


def classes_with(
    format: Format | None, classes: Sequence[str], most_options: int
) -> tuple[str, ...]:
    """Return the classes for questions with up to `most_options` options.

    A model that reads options one by one accepts more options than it was fitted to.

    Args:
        format: Format of questions; None for texts.
        classes: Classes that the model was fitted to.
        most_options: Largest number of options of a question; 0 for texts.
    """
    if format != "options":
        return tuple(classes)
    return tuple(examples.LETTERS[: max(len(classes), most_options)])


def most_options(rows: Examples) -> int:
    """Return the largest number of options of a question; 0 for texts."""
    return max(map(len, rows.choices or ()), default=0)


def check_questions(format: Format | None, classes: Sequence[str], rows: Examples) -> None:
    """Raise InputError if a model cannot read rows of this kind or with so many options.

    Args:
        format: Format of questions; None if the model classifies texts.
        classes: Classes of the model.
        rows: Rows to predict.

    Raises:
        InputError: Texts for a model of questions or the reverse, or a question with more options
            than the letters of a model of the format `letters`.
    """
    if format is None and rows.choices is not None:
        raise InputError(
            f"{rows.source} contains questions with options, but the model classifies texts. If "
            "all rows have the same options, choose columns: --text-column question "
            f"--label-column {rows.label_column}"
        )
    if format is not None and rows.choices is None:
        raise InputError(
            f"{rows.source} contains texts without options, but the model answers questions; add "
            "columns 'question' and 'choices'"
        )
    if format == "letters" and rows.choices is not None:
        most = len(classes)
        index = next((n for n, row in enumerate(rows.choices) if len(row) > most), None)
        if index is not None:
            raise InputError(
                f"{rows.source}, row {rows.rows[index]}: {len(rows.choices[index])} options, but "
                f"the model only has the letters {classes[0]} to {classes[-1]} of the rows that "
                "it was fitted to; the format 'options' supports any number"
            )


def read_validation(
    data: Any, columns: DataColumns, train: Examples, record: ModelRecord | None = None
) -> Examples:
    """Return held-out examples, which must have labels and differ from the training texts.

    Args:
        data: As for `read_labelled`.
        columns: Columns to read.
        train: Training rows; among held-out rows they would make the network look always right.
        record: As for `read_labelled`.

    Raises:
        InputError: As `read_labelled`, or most of their texts are among `train`.
    """
    rows = read_labelled(data, columns, record)
    shared = rows.num_shared(train)
    if not shared:
        return rows
    overlap = f"{shared} of {len(rows)} texts are also in {train.source}"
    # If texts repeat by nature, such as single words, equal ones are not copies.
    repeats = train.num_texts < MOST_DISTINCT * len(train)
    if shared > MOST_EQUAL * len(rows) and not repeats:
        raise InputError(f"{rows.source}: {overlap}; validation rows must not be used for training")
    logger.warning("%s: %s, so choices on them are slightly overconfident", rows.source, overlap)
    return rows


def columns_of(record: ModelRecord) -> DataColumns:
    """Return the data columns that a model was fitted on."""
    return DataColumns.of(record.columns)


def encode_for(
    record: ModelRecord, rows: Examples, unknown: Unknown = "error"
) -> NDArray[np.int64]:
    """Return the index [N] of each row's label among a model's classes, -1 if there is none.

    Data for a classifier trained elsewhere may name classes by their index, unless its classes are
    numbers.

    Args:
        record: Record of the model.
        rows: Rows, labelled or not.
        unknown: How to treat a label that is not a class.

    Raises:
        InputError: A label is not a class and `unknown` is not `ood`.
    """
    classes = tuple(record.classes)
    format, images = format_of(record), columns_of(record).images
    if images or rows.images or format is not None or rows.choices is not None:
        check_images(rows, images=images)
        check_questions(format, classes, rows)
        classes = classes_for(record, most_options(rows))
    foreign = record.backbone["kind"] != ADAPTED
    indexed = foreign and not any(name.lstrip("-").isdecimal() for name in classes)
    try:
        return examples.encode_labels(rows, classes, unknown=unknown, indexed=indexed)
    except InputError as error:
        if foreign and classes[0] == "LABEL_0":  # transformers' own, where nobody named them
            advice = f"{error}; name them in index order, classes=[...] (--classes A,B,...)"
            raise InputError(advice, code=error.code) from None
        raise


def check_images(rows: Examples, *, images: bool) -> None:
    """Raise InputError if a classifier of images gets texts or the reverse.

    Args:
        rows: Texts or images.
        images: Whether the classifier reads images.
    """
    if rows.images and not images:
        raise InputError(
            f"{rows.source} has images, but the backbone reads texts; choose a vision transformer "
            "such as 'dinov2-s' (--backbone)"
        )
    if images and not rows.images:
        raise InputError(
            f"{rows.source} has texts, but the backbone reads images; set image_column "
            "(--image-column) to the column of their paths, or choose a text model (--backbone)"
        )


@dataclass(frozen=True)
class TrainingData:
    """Checked data of a fit.

    Attributes:
        columns: Columns that the data was read from.
        classes: Names of the classes in index order.
        train: Training rows and their labels [N] int64.
        validation: Held-out rows and their labels, or None.
        tasks: Number of classes of each of several tasks, in the order of the classes; empty for
            one task.
    """

    columns: DataColumns
    classes: tuple[str, ...]
    train: LabelledExamples
    validation: LabelledExamples | None
    tasks: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, train: Any, validation: Any, columns: DataColumns) -> TrainingData:
        """Read the data that a user passed; see `BayesianClassifier.fit`.

        Raises:
            InputError: The data is not allowed.
        """
        if examples.is_union(train) or examples.is_union(validation):
            return cls._of_tasks(train, validation, columns)
        rows = read_labelled(train, columns)
        columns = _with_images(columns, rows)
        held_out = None if validation is None else read_validation(validation, columns, rows)
        classes = examples.class_names(rows)
        if held_out is not None:
            check_images(held_out, images=rows.images)
            check_questions(None if rows.choices is None else "options", classes, held_out)
            if held_out.choices is not None:
                classes = max(classes, examples.class_names(held_out), key=len)
        return cls(columns, classes, *_encoded(classes, rows, held_out))

    @classmethod
    def _of_tasks(cls, train: Any, validation: Any, columns: DataColumns) -> TrainingData:
        """Read several tasks, named by the keys, as one data set."""
        if not examples.is_union(train) or not (
            validation is None or examples.is_union(validation)
        ):
            raise InputError(
                "training and validation data must both name their tasks; give both as mappings "
                "from names to data (--multi-task NAME=FILE, --validation NAME=FILE)"
            )
        if unknown := next((task for task in validation or () if task not in train), None):
            raise unknown_choice("task of validation data", unknown, train)
        parts = {task: read_labelled(data, columns) for task, data in train.items()}
        held_out = {
            task: read_validation(data, columns, parts[task])
            for task, data in (validation or {}).items()
        }
        if any(rows.shares is not None for rows in (*parts.values(), *held_out.values())):
            raise InputError("soft labels need one task", code="soft-labels")
        of_task = examples.union_classes(parts)
        sizes = examples.counts(of_task)
        classes = tuple(name for names in of_task.values() for name in names)
        for task, rows in held_out.items():  # by the task's own class names
            examples.encode_labels(rows, examples.class_names(parts[task]))
        whole = examples.union(parts, sizes)
        splits = _encoded(classes, whole, examples.union(held_out, sizes) if held_out else None)
        return cls(_with_images(columns, whole), classes, *splits, sizes)

    @property
    def rows(self) -> Examples:
        """The training rows."""
        return self.train[0]

    @property
    def held_out(self) -> Examples | None:
        """The held-out rows, or None."""
        return None if self.validation is None else self.validation[0]

    def hashes(self) -> dict[str, str | None]:
        """Return hashes of the rows; see `fitted_hashes`."""
        return examples.fitted_hashes(self.rows, self.held_out)


def _with_images(columns: DataColumns, rows: Examples) -> DataColumns:
    """Return the columns that rows were read from, which may be images without being named."""
    is_found = rows.images and not columns.images
    return replace(columns, text=examples.IMAGE, images=True) if is_found else columns


def _encoded(
    classes: tuple[str, ...], train: Examples, validation: Examples | None
) -> tuple[LabelledExamples, LabelledExamples | None]:
    """Return both splits with the indices of their labels."""
    labelled = (train, torch.from_numpy(examples.encode_labels(train, classes)))
    if validation is None:
        return labelled, None
    if validation.shares is not None and validation.share_names != classes:
        raise InputError(
            f"{validation.source}: the soft labels are of the classes "
            f"{', '.join(validation.share_names)}, those of the fit are {', '.join(classes)}, in "
            "this order"
        )
    return labelled, (validation, torch.from_numpy(examples.encode_labels(validation, classes)))

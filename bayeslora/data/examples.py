"""Texts, or questions with options, with their labels: their encoding, and unions of tasks.

Several tasks are combined into one: class `positive` of task `reviews` becomes `reviews: positive`.
A row belongs to one task, named in its further column `task`, and is classified among the classes
of this task only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import listed, shown

Label = str | int | None

PIECE = 2048
"""Rows that are read, predicted and written at a time."""

IMAGE = "image"
"""Column of the paths of images, unless another one is named."""

LETTERS = "ABCDEFGHIJKLMNOPQRST"
"""Names of the options of a question, in order; a question has at most 20."""


@dataclass(frozen=True)
class Examples:
    """N texts to classify, or questions to answer, with their origin for messages.

    Attributes:
        ids: A unique id for every example.
        texts: The texts, or the questions; never blank.
        pairs: A second text for every example, or None if the task has one text. For questions, the
            context: empty if a question has none, None if no question has one.
        labels: The labels as in the data; None for unlabelled examples. For questions, the letter
            of the correct option: `A` for the first.
        rows: The row of every example, counted from 1. For text files, the line on which the
            example begins, as shown by an editor.
        source: Path of the file, or a placeholder such as `<list>` for data in memory.
        label_column: Name of the column of the labels.
        further: Further requested columns, as texts; None for missing values.
        choices: The options of every question, 2 to 20 different texts; None for texts to classify.
        history: The earlier items, for every question about the next item; else None.
        groups: Group of every example. Splits keep the rows of a group together, such as twins that
            differ in a word; None if there are no groups.
        dropped: Number of rows of the source that were skipped, by reason.
        images: Whether the texts are paths of images to classify.
        shares: How often annotators chose each class, of all choices of the row; None if rows have
            one label each. `labels` are then the most frequent.
        share_names: The classes of `shares`, in order.
        among: Which classes each row can have, in their order: the classes of its task if there are
            several tasks; None for all classes, and for questions.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[Label, ...]
    rows: tuple[int, ...]
    source: str
    label_column: str = "label"
    further: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    choices: tuple[tuple[str, ...], ...] | None = None
    history: tuple[tuple[str, ...], ...] | None = None
    groups: tuple[str, ...] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    images: bool = False
    among: tuple[tuple[bool, ...], ...] | None = None
    shares: tuple[tuple[float, ...], ...] | None = None
    share_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def duplicates(self) -> int:
        """Number of examples that repeat the input and label of an earlier one."""
        return len(self) - len(set(_keys(self)))

    def num_shared(self, others: Examples) -> int:
        """Return the number of examples whose input is also in `others`.

        The input is the text, the second text and the options: a question with different options,
        or a different order of options, is a different question.
        """
        known = set(_inputs(others))
        return sum(key in known for key in _inputs(self))

    @property
    def num_texts(self) -> int:
        """Number of distinct inputs."""
        return len(set(_inputs(self)))

    @property
    def input_numbers(self) -> NDArray[np.int64]:
        """[N] numbers that are equal if inputs are."""
        known: dict[Hashable, int] = {}
        return np.array([known.setdefault(key, len(known)) for key in _inputs(self)])

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Return the examples at `indices` (from 0), in that order."""
        picked = [int(index) for index in indices]
        columns: dict[str, Any] = {
            name: tuple(values[i] for i in picked)
            for name in _BY_ROW
            if (values := getattr(self, name)) is not None
        }
        further = {name: tuple(values[i] for i in picked) for name, values in self.further.items()}
        return replace(self, **columns, further=further)

    def pieces(self) -> Iterator[Examples]:
        """Yield the examples, `PIECE` at a time."""
        size = len(self)
        if size <= PIECE:
            yield self
            return
        for start in range(0, size, PIECE):
            yield self.take(range(start, min(start + PIECE, size)))

    def strata(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the strata of random splits: the labels, or a single stratum for questions.

        Args:
            labels: [N] class indices.
        """
        return labels if self.choices is None else np.zeros_like(labels)

    def available(self, num_options: int | None = None) -> NDArray[np.bool_] | None:
        """Return which classes or options each row can have, [N, C]; None if all.

        Args:
            num_options: For questions: C, at least the number of options of any row; None for the
                largest number.
        """
        if self.among is not None:
            return np.array(self.among, dtype=np.bool_)
        if self.choices is None:
            return None
        counts = np.array([len(row) for row in self.choices])
        return np.asarray(np.arange(num_options or counts.max(initial=0)) < counts[:, None])


def data_hash(pieces: Examples | Iterable[Examples]) -> str:
    """Return a hash of the data of a fit, 32 hexadecimal digits.

    Inputs, labels, classes and groups count, in order.

    Args:
        pieces: Examples, or consecutive pieces of them.
    """
    digest = hashlib.sha256()
    parts = [pieces] if isinstance(pieces, Examples) else pieces
    for number, examples in enumerate(parts):
        pairs = examples.pairs or [None] * len(examples)
        fields: list[Sequence[Any]] = [examples.texts, pairs, examples.labels]
        # Fields that no row has are omitted, which keeps the hash of texts from earlier versions.
        for name in ("choices", "history", "groups", "among", "shares"):
            if (values := getattr(examples, name)) is not None:
                fields.append(values)
                if not number:
                    digest.update(name.encode())
        for row in zip(*fields, strict=True):
            digest.update(json.dumps(row, ensure_ascii=False).encode())
    return digest.hexdigest()[:32]


def fitted_hashes(train: Examples, held_out: Examples | None) -> dict[str, str | None]:
    """Return what a model's record says of its data: a hash of each split, and of each input."""
    return {
        "train": data_hash(train),
        "validation": None if held_out is None else data_hash(held_out),
        "inputs": " ".join(
            sorted({x for rows in (train, held_out) if rows for x in input_hashes(rows)})
        ),
    }


def input_hashes(examples: Examples) -> list[str]:
    """Return a hash of the input of each example, 12 hexadecimal digits."""
    keys = (json.dumps(key, ensure_ascii=False).encode() for key in _inputs(examples))
    return [hashlib.sha256(key).hexdigest()[:12] for key in keys]


def dropped_by_split(**splits: Examples | None) -> dict[str, dict[str, int]]:
    """Return `Examples.dropped` of each split with dropped rows, by name."""
    return {name: dict(rows.dropped) for name, rows in splits.items() if rows and rows.dropped}


_BY_ROW = (
    "ids",
    "texts",
    "pairs",
    "labels",
    "rows",
    "choices",
    "history",
    "groups",
    "among",
    "shares",
)


def joined(parts: Sequence[Examples]) -> Examples:
    """Concatenate one or more parts of the same source."""
    first = parts[0]
    columns: dict[str, Any] = {
        name: tuple(chain.from_iterable(getattr(part, name) for part in parts))
        for name in _BY_ROW
        if getattr(first, name) is not None
    }
    further = {
        name: tuple(chain.from_iterable(part.further[name] for part in parts))
        for name in first.further
    }
    return replace(first, **columns, further=further)


def class_names(examples: Examples) -> tuple[str, ...]:
    """Return the distinct classes: sorted strings, or integers in numeric order as strings.

    Unlabelled examples are ignored. For questions, the classes are the letters of all options.

    Raises:
        InputError: No example is labelled, all have the same label, or strings and integers are
            mixed.
    """
    if examples.choices is not None:
        return tuple(LETTERS[: max(map(len, examples.choices))])
    if examples.shares is not None:
        return examples.share_names
    location = f"{examples.source}, column {examples.label_column!r}"
    labels = {label for label in examples.labels if label is not None}
    integers = sorted(label for label in labels if isinstance(label, int))
    strings = sorted(label for label in labels if isinstance(label, str))
    if not labels:
        raise InputError(
            f"{location}: no row has a label; training needs labels of at least two classes"
        )
    if integers and strings:
        number, string = (examples.labels.index(value) for value in (integers[0], strings[0]))
        raise InputError(
            f"{location}: row {examples.rows[number]} has the integer label {integers[0]}, but "
            f"row {examples.rows[string]} has the string {strings[0]!r}; use only integers or "
            "only strings"
        )
    if len(labels) == 1:
        raise InputError(
            f"{location}: all {len(examples)} rows have the label {labels.pop()!r}; "
            "training needs at least two classes"
        )
    return tuple(map(str, integers)) if integers else tuple(strings)


def encode_labels(
    examples: Examples,
    classes: Sequence[str],
    *,
    unknown: Literal["error", "ood"] = "error",
    indexed: bool = False,
) -> NDArray[np.int64]:
    """Return the index of every example's label among `classes`.

    Args:
        examples: N examples.
        classes: Names of the classes; an integer label matches its decimal form.
        unknown: How to handle labels that are not among `classes`: raise an error, or assign -1 to
            mark the example as out of distribution.
        indexed: Whether a label may also be the index of a class.

    Returns:
        [N] int64; -1 for unlabelled examples, and with `ood` for unknown labels.

    Raises:
        InputError: A label is not among `classes` and `unknown` is `error`.
    """
    index = {str(position): position for position in range(len(classes))} if indexed else {}
    index |= {name: position for position, name in enumerate(classes)}
    codes = np.array(
        [-1 if label is None else index.get(str(label), -1) for label in examples.labels],
        dtype=np.int64,
    )
    if unknown == "error":
        for row, label, code in zip(examples.rows, examples.labels, codes, strict=True):
            if code < 0 and label is not None:
                raise InputError(
                    f"{examples.source}, row {row}, column {examples.label_column!r}: unknown "
                    f"label {shown(label)}; the classes are {listed(classes)}",
                    code="unknown",
                )
    return codes


def without_duplicates(examples: Examples, *, by_label: bool = True) -> Examples:
    """Return the first of all examples with equal input, and equal label if `by_label`."""
    first: dict[Hashable, int] = {}
    for position, key in enumerate(_keys(examples) if by_label else _inputs(examples)):
        first.setdefault(key, position)
    return examples.take(list(first.values()))


def without_overlap(examples: Examples, other: Examples) -> Examples:
    """Return the examples whose input is not in `other`, whatever the label."""
    seen = set(_inputs(other))
    return examples.take([i for i, key in enumerate(_inputs(examples)) if key not in seen])


def _inputs(examples: Examples) -> Iterable[Hashable]:
    none = (None,) * len(examples)
    return zip(examples.texts, examples.pairs or none, examples.choices or none, strict=True)


def _keys(examples: Examples) -> Iterable[Hashable]:
    return zip(_inputs(examples), examples.labels, strict=True)


TASK = "task"
"""Further column with the name of each row's task."""


def class_of(task: str, label: object) -> str:
    """Return the name of a class of a task among the classes of all tasks."""
    return f"{task}: {label}"


def is_union(data: object) -> bool:
    """Return whether data are a mapping of tasks rather than the rows of one table."""
    return isinstance(data, Mapping) and not hasattr(data, "column_names")


def union_classes(parts: Mapping[str, Examples]) -> dict[str, tuple[str, ...]]:
    """Return the class names of each task among the classes of all tasks.

    Raises:
        InputError: A task has fewer than two classes.
    """
    return {
        task: tuple(class_of(task, name) for name in class_names(rows))
        for task, rows in parts.items()
    }


def union(parts: Mapping[str, Examples], tasks: Mapping[str, int] | None = None) -> Examples:
    """Return the rows of all tasks, concatenated, with labels prefixed by task names.

    Args:
        parts: Rows by task.
        tasks: Number of classes of each task, in the order of the classes; None to allow all
            classes for every row.

    Raises:
        InputError: Only some tasks have second texts or images, or one has questions with options.
    """
    kinds = {(rows.images, rows.pairs is None) for rows in parts.values()}
    if len(kinds) > 1 or any(rows.choices is not None for rows in parts.values()):
        raise InputError(
            "the rows of several tasks must all be texts, pairs of texts or images: "
            f"{listed([*parts])}"
        )
    common = set.intersection(*(set(rows.further) for rows in parts.values())) - {TASK}
    named_parts = [named(task, rows, common) for task, rows in parts.items()]
    rows = replace(
        joined(named_parts),
        source=" + ".join(rows.source for rows in parts.values()),
        dropped={
            f"{task}: {reason}": count
            for task, rows in parts.items()
            for reason, count in rows.dropped.items()
        },
    )
    return rows if tasks is None else among_own(rows, tasks)


def named(task: str, rows: Examples, columns: Iterable[str] = ()) -> Examples:
    """Return the rows of a task with prefixed ids and labels, and the named further columns."""
    further = {name: values for name, values in rows.further.items() if name in columns}
    return replace(
        rows,
        ids=tuple(f"{task}/{row_id}" for row_id in rows.ids),
        labels=tuple(None if label is None else class_of(task, label) for label in rows.labels),
        further={**further, TASK: (task,) * len(rows)},
    )


def tasks_of(rows: Examples, tasks: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the index of each row's task, [N] int64.

    Args:
        rows: Rows with the column `task`.
        tasks: The tasks of a classifier, by name.

    Raises:
        InputError: A row has no task, or an unknown one.
    """
    names = rows.further.get(TASK)
    if names is None:
        raise InputError(
            f"{rows.source}: the classifier was fitted to several tasks ({listed(list(tasks))}); "
            "specify the task of the rows: {name: data} (--multi-task NAME=FILE), or a column "
            f"{TASK!r}"
        )
    indices = {task: index for index, task in enumerate(tasks)}
    for index, name in enumerate(names):
        if name not in indices:
            raise InputError(
                f"{rows.source}, row {rows.rows[index]}, column {TASK!r}: "
                f"{unknown_choice('task', str(name), list(tasks))}"
            )
    return np.array([indices[str(name)] for name in names], dtype=np.int64)


def among_own(rows: Examples, tasks: Mapping[str, int]) -> Examples:
    """Restrict rows with a task column to the classes of their task.

    Args:
        rows: Rows with the column `task`.
        tasks: Number of classes of each task, in the order of the classes.

    Raises:
        InputError: A row has no task, or an unknown one.
    """
    number = np.repeat(np.arange(len(tasks)), [*tasks.values()])
    masks = [tuple(row) for row in (number == np.arange(len(tasks))[:, None]).tolist()]
    return replace(rows, among=tuple(masks[task] for task in tasks_of(rows, tasks).tolist()))


def with_tasks(rows: Examples, classes: Sequence[str]) -> Examples:
    """Prefix the labels of rows with a task column by the task names.

    Args:
        rows: Rows with the column `task`; labels are classes of their task, or of all tasks.
        classes: Class names of all tasks.
    """
    labels = tuple(
        label if label is None or label in classes else class_of(str(name), label)
        for name, label in zip(rows.further[TASK], rows.labels, strict=True)
    )
    return replace(rows, labels=labels)


def counts(classes: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return the number of classes of each task."""
    return {task: len(names) for task, names in classes.items()}

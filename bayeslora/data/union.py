"""Several tasks combined into one: the rows of all tasks, and classes prefixed by task names.

Class `positive` of task `reviews` becomes `reviews: positive`. A row belongs to one task, named in
its further column `task`, and is classified among the classes of this task only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.examples import Examples, class_names, joined
from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import listed

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
        InputError: There are fewer than two tasks, a task name is empty or a task has fewer than
            two classes, or two classes would have the same name.
    """
    if len(parts) < 2:
        raise InputError(
            f"several tasks need at least two names, got {listed(list(parts)) or 'none'}; for a "
            "single task pass its data alone"
        )
    for task in parts:
        if not isinstance(task, str) or not task.strip() or task != task.strip():
            raise InputError(
                f"a task name must be a non-empty string without surrounding spaces, got {task!r}"
            )
    classes = {
        task: tuple(class_of(task, name) for name in class_names(rows))
        for task, rows in parts.items()
    }
    every = [name for names in classes.values() for name in names]
    if repeated := next((name for name in every if every.count(name) > 1), None):
        raise InputError(
            f"two tasks would have a class named {repeated!r}; rename one of {listed(list(parts))}"
        )
    return classes


def union(parts: Mapping[str, Examples], tasks: Mapping[str, int] | None = None) -> Examples:
    """Return the rows of all tasks, concatenated, with labels prefixed by task names.

    Args:
        parts: Rows by task.
        tasks: Number of classes of each task, in the order of the classes; None to allow all
            classes for every row.

    Raises:
        InputError: Only some tasks have second texts or images, or one has questions with options.
    """
    kinds = {
        task: "questions with options"
        if rows.choices is not None
        else "images"
        if rows.images
        else "texts"
        if rows.pairs is None
        else "pairs of texts"
        for task, rows in parts.items()
    }
    if len({*kinds.values()}) > 1 or "questions with options" in kinds.values():
        raise InputError(
            "several tasks are supported for rows of one kind with labels: texts, pairs of texts "
            f"or images, got {', '.join(f'{kind} in {task!r}' for task, kind in kinds.items())}"
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


def check_tasks(names: Iterable[str], known: Sequence[str], subject: str) -> None:
    """Raise InputError for unknown task names.

    Args:
        names: Names to check.
        known: Names of the tasks.
        subject: What the names belong to, for the message.

    Raises:
        InputError: A name is unknown.
    """
    for name in names:
        if name not in known:
            raise unknown_choice(f"task of {subject}", str(name), known)


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

    Raises:
        InputError: A label is a class of another task.
    """
    labels = []
    for row, name, label in zip(rows.rows, rows.further[TASK], rows.labels, strict=True):
        is_whole = label in classes
        is_own = str(label).startswith(class_of(str(name), ""))
        if is_whole and not is_own and rows.among is not None:
            raise InputError(
                f"{rows.source}, row {row}, column {rows.label_column!r}: {label!r} is a class of "
                f"another task than {name!r}"
            )
        labels.append(label if label is None or is_whole else class_of(str(name), label))
    return replace(rows, labels=tuple(labels))


def counts(classes: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return the number of classes of each task."""
    return {task: len(names) for task, names in classes.items()}

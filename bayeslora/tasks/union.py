"""Several tasks as one: rows of all of them, and classes that say which task they are of.

Class `positive` of task `reviews` is `reviews: positive`. A row belongs to one task, which its
further column `task` names, and is classified among the classes of that task alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.errors import InputError, unknown_choice
from bayeslora.plain_text import listed
from bayeslora.tasks.examples import Examples, class_names, joined

TASK = "task"
"""Further column of the rows of several tasks, with the name of each row's."""


def class_of(task: str, label: object) -> str:
    """Return what a class of a task is called among those of all tasks."""
    return f"{task}: {label}"


def is_union(data: object) -> bool:
    """Return whether data are several tasks by name, and not rows in one table."""
    return isinstance(data, Mapping) and not hasattr(data, "column_names")


def union_classes(parts: Mapping[str, Examples]) -> dict[str, tuple[str, ...]]:
    """Return the classes of each task, named as among those of all tasks.

    Raises:
        InputError: There is one task alone, a name of a task is empty, a task has no two classes,
            or two classes would have one name.
    """
    if len(parts) < 2:
        raise InputError(
            f"several tasks need two names at least, got {listed(list(parts)) or 'none'}; one task "
            "is given as its data alone"
        )
    for task in parts:
        if not isinstance(task, str) or not task.strip() or task != task.strip():
            raise InputError(f"a task needs a name without spaces around it, got {task!r}")
    found = {
        task: tuple(class_of(task, name) for name in class_names(rows))
        for task, rows in parts.items()
    }
    seen: dict[str, str] = {}
    for task, names in found.items():
        for name in names:
            if name in seen:
                raise InputError(
                    f"tasks {seen[name]!r} and {task!r} both have a class that would be called "
                    f"{name!r}; rename one of the tasks"
                )
            seen[name] = task
    return found


def union(parts: Mapping[str, Examples], tasks: Mapping[str, int] | None) -> Examples:
    """Return the rows of all tasks, one task after another, with labels that name theirs.

    Args:
        parts: Rows of some tasks.
        tasks: How many classes each task has, in the order of the classes; None for rows among
            the classes of all.

    Raises:
        InputError: Some tasks have a second text, or images, and others none, or one has questions
            with options.
    """
    paired = {task for task, rows in parts.items() if rows.pairs is not None}
    if paired and len(paired) < len(parts):
        raise InputError(
            f"tasks {listed(sorted(paired))} have a second text and the others none; give all of "
            "them one, or none"
        )
    shown = {task for task, rows in parts.items() if rows.images}
    if shown and len(shown) < len(parts):
        raise InputError(
            f"tasks {listed(sorted(shown))} are of images and the others of texts; give them all "
            "the one or the other"
        )
    asks = next((task for task, rows in parts.items() if rows.choices is not None), None)
    if asks is not None:
        raise InputError(
            f"task {asks!r} holds questions with options; several tasks are of texts with labels"
        )
    common = set.intersection(*(set(rows.further) for rows in parts.values())) - {TASK}
    every = [named(task, rows, common) for task, rows in parts.items()]
    rows = replace(
        joined(every),
        source=" + ".join(rows.source for rows in parts.values()),
        dropped={
            f"{task}: {why}": count
            for task, rows in parts.items()
            for why, count in rows.dropped.items()
        },
    )
    return rows if tasks is None else among_own(rows, tasks)


def named(task: str, rows: Examples, kept: Iterable[str] = ()) -> Examples:
    """Return the rows of one task as among those of several, with these further columns alone."""
    further = {name: values for name, values in rows.further.items() if name in kept}
    return replace(
        rows,
        ids=tuple(f"{task}/{one}" for one in rows.ids),
        labels=tuple(None if one is None else class_of(task, one) for one in rows.labels),
        further={**further, TASK: (task,) * len(rows)},
    )


def check_tasks(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Raise InputError if a name is not that of a task.

    Args:
        given: Names.
        known: Names of the tasks.
        what: What they are the names of, for the message.

    Raises:
        InputError: One is unknown.
    """
    for name in given:
        if name not in known:
            raise unknown_choice(f"task of {what}", str(name), known)


def tasks_of(rows: Examples, tasks: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the number of each row's task, [N] int64.

    Args:
        rows: With the column `task`.
        tasks: The tasks of a classifier, by name.

    Raises:
        InputError: A row has no task, or an unknown one.
    """
    names = rows.further.get(TASK)
    if names is None:
        raise no_task(rows.source, tasks)
    places = {task: place for place, task in enumerate(tasks)}
    for place, name in enumerate(names):
        if name not in places:
            raise InputError(
                f"{rows.source}, row {rows.rows[place]}, column {TASK!r}: "
                f"{unknown_choice('task', str(name), list(tasks))}"
            )
    return np.array([places[str(name)] for name in names], dtype=np.int64)


def no_task(source: str, tasks: Iterable[str]) -> InputError:
    """Return the error of rows that say no task."""
    return InputError(
        f"{source}: the classifier was fitted to several tasks ({listed(list(tasks))}); say which "
        "one the rows are of: {name: data} (--multi-task NAME=FILE), or a column "
        f"{TASK!r}"
    )


def among_own(rows: Examples, tasks: Mapping[str, int]) -> Examples:
    """Return rows that name their task in a column, each among the classes of its task.

    Args:
        rows: With the column `task`.
        tasks: How many classes each task has, in the order of the classes.

    Raises:
        InputError: A row has no task, or an unknown one.
    """
    number = np.repeat(np.arange(len(tasks)), [*tasks.values()])
    own = [tuple(row) for row in (number == np.arange(len(tasks))[:, None]).tolist()]
    return replace(rows, among=tuple(own[task] for task in tasks_of(rows, tasks).tolist()))


def with_tasks(rows: Examples, classes: Sequence[str]) -> Examples:
    """Return rows that name their task in a column, with labels that name it too.

    Args:
        rows: With the column `task`; their labels are classes of their task, or of all tasks.
        classes: Of all tasks.
    """
    names = rows.further[TASK]
    labels = tuple(
        label if label is None or label in classes else class_of(str(name), label)
        for name, label in zip(names, rows.labels, strict=True)
    )
    return replace(rows, labels=labels)


def counts(classes: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return how many classes each task has."""
    return {task: len(names) for task, names in classes.items()}

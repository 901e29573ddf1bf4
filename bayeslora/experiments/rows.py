"""The rows of a task and of a cell: no label is read beyond what the protocol allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.experiments.grid import Task
from bayeslora.experiments.protocols import Protocol
from bayeslora.tasks.examples import (
    Examples,
    class_names,
    encode_labels,
    without_duplicates,
    without_overlap,
)
from bayeslora.tasks.known import KNOWN_TASKS, known_name, load_task, splits_of
from bayeslora.tasks.readers import load_examples
from bayeslora.tasks.splits import stratified_sample


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task under a protocol.

    Attributes:
        train: Training rows, without repeats and without rows of the reported split.
        reported: The rows that are scored.
        split: Which split they are.
        ood: Out-of-distribution rows by name, without rows of the other two.
        dropped: How many rows were left out, by reason.
        deviations: How they differ from what the protocol asks for.
    """

    train: Examples
    reported: Examples
    split: str
    ood: dict[str, Examples] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()

    @property
    def clusters(self) -> str | None:
        """The column of rows that belong together, such as twins; None where each stands alone."""
        return None if self.reported.groups is None else "twins"


def task_rows(task: Task, protocol: Protocol, data_dir: str | Path | None = None) -> TaskRows:
    """Read the rows of a task.

    Raises:
        InputError: A task or split is unknown, a file is missing, or a row is wrong.
    """
    splits = tuple(task.files) if task.files else splits_of(task.name, data_dir)
    if "train" not in splits:
        raise InputError(f"task {task.name} has no training rows; it serves as ood of another one")
    split = protocol.split
    deviations: tuple[str, ...] = ()
    if split not in splits:
        split = "test"
        deviations = (
            f"split: {task.name} has no {protocol.split} rows, so its test rows are reported",
        )
    dropped: dict[str, int] = {}
    reported = _counted(dropped, split, _read(task, split, data_dir))
    train = _counted(dropped, "train", _read(task, "train", data_dir))
    if (count := protocol.num_choices.get(task.name)) is not None:
        train = _with_choices(dropped, "train", train, count)
        reported = _with_choices(dropped, split, reported, count)
    unseen = without_overlap(train, reported)
    train = _counted(dropped, f"train, in {split} too", unseen, before=train)
    ood = {}
    for name, source in _ood_sources(task).items():
        rows = _counted(dropped, name, _outside(source, task, data_dir))
        rows = _audited(dropped, name, rows, protocol.ood_audit)
        kept = without_overlap(without_overlap(rows, train), reported)
        ood[name] = _counted(dropped, f"{name}, in {task.name} too", kept, before=rows)
    return TaskRows(train, reported, split, ood, dropped, deviations)


def drawn(examples: Examples, size: int, seed: int) -> Examples:
    """Return a stratified draw of rows; classes have about the shares that they have in all.

    Raises:
        InputError: There are fewer rows, or fewer asked for than classes.
    """
    labels = encode_labels(examples, class_names(examples))
    return examples.take(stratified_sample(examples.strata(labels), size, seed))


def num_classes(examples: Examples) -> int:
    """Return the number of classes, or the largest number of options of a question."""
    if examples.choices is not None:
        return max(map(len, examples.choices))
    return len(class_names(examples))


def mean_options(examples: Examples) -> float | None:
    """Return the mean number of options of a question; None for texts."""
    if examples.choices is None:
        return None
    return sum(map(len, examples.choices)) / len(examples)


def _read(task: Task, split: str, data_dir: str | Path | None) -> Examples:
    if not task.files:
        return load_task(task.name, split, data_dir)
    columns: dict[str, Any] = dict(task.columns)
    examples = load_examples(task.files[split], labels="required", **columns)
    return _distinct(examples) if split == "train" else examples


def _distinct(examples: Examples) -> Examples:
    kept = without_duplicates(examples)
    gone = len(examples) - len(kept)
    return replace(kept, dropped={"repeated": gone}) if gone else kept


def _ood_sources(task: Task) -> Mapping[str, str]:
    """Return what the grid names, else the sets that a known task has."""
    if task.ood is not None:
        return task.ood
    if task.files:
        return {}
    own = known_name(task.name)
    return {
        split if name == own else name: f"{name}/{split}" for name, split in KNOWN_TASKS[own].ood
    }


def _outside(source: str, task: Task, data_dir: str | Path | None) -> Examples:
    """Return out-of-distribution rows: of a known task's split, or of a file."""
    if Path(source).is_file():
        columns: dict[str, Any] = dict(task.columns)
        return load_examples(source, **columns)
    if Path(source).is_absolute() or Path(source).suffix:  # no task is called so
        raise InputError(f"task {task.name}: ood {source} does not exist")
    name, _, split = source.partition("/")
    try:
        known_name(name)
    except InputError as error:
        raise InputError(f"task {task.name}: ood {source!r} is no file, and {error}") from None
    return load_task(name, split or "test", data_dir)


def _counted(
    dropped: dict[str, int], what: str, rows: Examples, before: Examples | None = None
) -> Examples:
    """Note how many rows were left out on the way here, or since `before`."""
    if before is not None:
        if len(rows) < len(before):
            dropped[what] = len(before) - len(rows)
        return rows
    for why, count in rows.dropped.items():
        dropped[f"{what}, {why}"] = count
    return rows


def _audited(
    dropped: dict[str, int], what: str, examples: Examples, column: str | None
) -> Examples:
    """Return the rows that an audit calls OK, if a column says what it found."""
    found = None if column is None else examples.further.get(column)
    if found is None:
        return examples
    kept = examples.take([row for row, verdict in enumerate(found) if verdict == "OK"])
    return _counted(dropped, f"{what}, {column} is not OK", kept, before=examples)


def _with_choices(dropped: dict[str, int], what: str, examples: Examples, count: int) -> Examples:
    """Return the questions with so many options."""
    if examples.choices is None:
        return examples
    kept = [row for row, options in enumerate(examples.choices) if len(options) == count]
    return _counted(dropped, f"{what}, not {count} options", examples.take(kept), before=examples)

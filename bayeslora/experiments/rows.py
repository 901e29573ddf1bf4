"""The rows of a task and of a cell, with only the labels that the protocol allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bayeslora.data.examples import (
    Examples,
    class_names,
    encode_labels,
    without_duplicates,
    without_overlap,
)
from bayeslora.data.known import (
    KNOWN_TASKS,
    derived,
    known_name,
    load_task,
    splits_of,
    validation_is_test,
)
from bayeslora.data.read import load_examples
from bayeslora.data.splits import stratified_sample
from bayeslora.errors import InputError
from bayeslora.experiments.grid import Task, check_ood_names
from bayeslora.experiments.protocols import Protocol


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task under a protocol.

    Attributes:
        train: Training rows, without duplicates and rows of the reported split.
        reported: The rows to score.
        split: Name of the reported split.
        ood: Out-of-distribution rows by name, without rows of the other two.
        dropped: Number of dropped rows by reason.
        deviations: Deviations from the protocol.
    """

    train: Examples
    reported: Examples
    split: str
    ood: dict[str, Examples] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()

    @property
    def clusters(self) -> str | None:
        """Column of the clusters of dependent rows, such as twins; None if rows are independent."""
        return None if self.reported.groups is None else "twins"


def task_rows(
    task: Task,
    protocol: Protocol,
    data_dir: str | Path | None = None,
    *,
    by_letter: bool = False,
) -> TaskRows:
    """Read the rows of a task.

    Args:
        task: The task.
        protocol: Which rows are trained on and reported.
        data_dir: Directory of the known tasks' files.
        by_letter: Whether questions are answered by a letter. The model then knows the letters of
            its training rows, so out-of-distribution questions with more options are dropped.

    Raises:
        InputError: A task or split is unknown, a file is missing, or a row is wrong.
    """
    splits = tuple(task.files) if task.files else splits_of(task.name, data_dir)
    if "train" not in splits:
        raise InputError(f"task {task.name} has no training rows; use it as ood of another task")
    known = task.name if task.files else known_name(task.name)
    split = protocol.split
    deviations: tuple[str, ...] = ()
    if split not in splits:
        split = "test"
        if not task.files and validation_is_test(task.name, data_dir):
            text = f"official validation rows, as published; {task.name} has them as test rows"
        else:
            text = f"{task.name} has no {protocol.split} rows, so its test rows are reported"
        deviations = (f"split: {text}",)
    sources = _ood_sources(task)
    check_ood_names(task.name, sources, {split: f"the reported {split} rows"})
    if not task.files and (difference := derived(task.name, data_dir)):
        deviations = (*deviations, f"{task.name}: {difference}")
    if known in protocol.task_deviations:
        deviations = (*deviations, protocol.task_deviations[known])
    dropped: dict[str, int] = {}
    reported = _counted(dropped, split, _read(task, split, data_dir))
    train = _counted(dropped, "train", _read(task, "train", data_dir))
    if (count := protocol.num_choices.get(known)) is not None:
        train = _with_choices(dropped, "train", train, count)
        reported = _with_choices(dropped, split, reported, count)
    unseen = without_overlap(train, reported)
    train = _counted(dropped, f"train, in {split} too", unseen, previous=train)
    if not (len(train) and len(reported)):
        raise _none_left(task, "train" if len(reported) else split, dropped)
    ood = {}
    for name, source in sources.items():
        rows = _counted(dropped, name, _outside(source, task, protocol.split, data_dir))
        rows = _accepted(dropped, name, rows, source, protocol)
        if by_letter and train.choices is not None:
            rows = _answerable(dropped, name, rows, num_classes(train))
        remaining = without_overlap(without_overlap(rows, train), reported)
        ood[name] = _counted(dropped, f"{name}, in {task.name} too", remaining, previous=rows)
        if not len(ood[name]):
            raise _none_left(task, name, dropped)
    audit = protocol.ood_audit
    if ood and audit and not any(audit in rows.further for rows in ood.values()):
        text = f"OOD: no set has the column {audit}, so none is filtered for errors"
        deviations = (*deviations, text)
    return TaskRows(train, reported, split, ood, dropped, deviations)


def drawn(examples: Examples, size: int, seed: int) -> Examples:
    """Return a random sample of rows, stratified by class.

    Raises:
        InputError: `size` is larger than the number of rows, or smaller than that of classes.
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
    distinct = without_duplicates(examples)
    num_repeated = len(examples) - len(distinct)
    return replace(distinct, dropped={"repeated": num_repeated}) if num_repeated else distinct


def _none_left(task: Task, name: str, dropped: Mapping[str, int]) -> InputError:
    """Return the error for a set of rows of which none is left."""
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
    return InputError(f"task {task.name}: no {name} rows are left; dropped rows: {left_out}")


def _ood_sources(task: Task) -> Mapping[str, str]:
    """Return the out-of-distribution sets of the grid, else those of a known task."""
    if task.ood is not None:
        return task.ood
    if task.files:
        return {}
    known = known_name(task.name)
    return {
        split if name == known else name: name if split == "test" else f"{name}/{split}"
        for name, split in KNOWN_TASKS[known].ood
    }


def _outside(source: str, task: Task, split: str, data_dir: str | Path | None) -> Examples:
    """Return out-of-distribution rows from a known task or a file.

    Args:
        source: `NAME`, `NAME/SPLIT` or a file.
        task: The task to whose rows they are compared.
        split: The split of `NAME`; `test` where it has no such split.
        data_dir: Directory of the known tasks' files.
    """
    if Path(source).is_file():
        columns: dict[str, Any] = dict(task.columns)
        return load_examples(source, **columns)
    if Path(source).is_absolute() or Path(source).suffix:  # not the name of a task
        raise InputError(f"task {task.name}: ood {source} does not exist")
    name, _, own = source.partition("/")
    try:
        known_name(name)
    except InputError as error:
        raise InputError(f"task {task.name}: ood {source!r} is not a file, and {error}") from None
    return load_task(
        name, own or (split if split in splits_of(name, data_dir) else "test"), data_dir
    )


def _counted(
    dropped: dict[str, int], label: str, rows: Examples, previous: Examples | None = None
) -> Examples:
    """Record in `dropped` how many rows were dropped in reading, or since `previous`."""
    if previous is not None:
        if len(rows) < len(previous):
            dropped[label] = len(previous) - len(rows)
        return rows
    for reason, count in rows.dropped.items():
        dropped[f"{label}, {reason}"] = count
    return rows


def _accepted(
    dropped: dict[str, int], label: str, examples: Examples, source: str, protocol: Protocol
) -> Examples:
    """Return the out-of-distribution rows with the protocol's number of options, without errors.

    Errors are rows that are not marked OK in the column of an audit, if there is one.
    """
    column = protocol.ood_audit
    count = protocol.num_choices.get(source.partition("/")[0].replace("_", "-"))
    if count is not None:
        examples = _with_choices(dropped, label, examples, count)
    verdicts = None if column is None else examples.further.get(column)
    if verdicts is None:
        return examples
    accepted = examples.take([row for row, verdict in enumerate(verdicts) if verdict == "OK"])
    return _counted(dropped, f"{label}, {column} is not OK", accepted, previous=examples)


def _with_choices(dropped: dict[str, int], label: str, examples: Examples, count: int) -> Examples:
    """Return the questions with `count` options."""
    if examples.choices is None:
        return examples
    indices = [row for row, options in enumerate(examples.choices) if len(options) == count]
    return _counted(
        dropped, f"{label}, not {count} options", examples.take(indices), previous=examples
    )


def _answerable(dropped: dict[str, int], label: str, examples: Examples, most: int) -> Examples:
    """Return the questions with at most `most` options."""
    if examples.choices is None:
        return examples
    indices = [row for row, options in enumerate(examples.choices) if len(options) <= most]
    if not indices:
        raise InputError(
            f"{label}: every question has more than {most} options, the maximum in the training "
            "rows"
        )
    return _counted(
        dropped, f"{label}, more than {most} options", examples.take(indices), previous=examples
    )

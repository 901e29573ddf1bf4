"""The rows of a task and of a cell, with only the labels that the protocol allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import (
    Examples,
    class_names,
    encode_labels,
    without_duplicates,
    without_overlap,
)
from bayeslora.data.formats import Reading
from bayeslora.data.known import (
    KNOWN_TASKS,
    derived,
    known_name,
    load_task,
    splits_of,
    validation_is_test,
)
from bayeslora.data.questions import is_description, read_description
from bayeslora.data.read import read
from bayeslora.data.splits import stratified_sample
from bayeslora.errors import InputError
from bayeslora.experiments.grid import Task
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
    dropped: Mapping[str, int] = field(default_factory=dict)
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
    if not task.files and (difference := derived(task.name, data_dir)):
        deviations = (*deviations, f"{task.name}: {difference}")
    if known in protocol.task_deviations:
        deviations = (*deviations, protocol.task_deviations[known])
    dropped = _Dropped()
    reported = dropped.read(split, _read(task, split, data_dir))
    train = dropped.read("train", _read(task, "train", data_dir))
    if (count := protocol.num_choices.get(known)) is not None:
        train = dropped.keep_options("train", train, {count}, f"not {count} options")
        reported = dropped.keep_options(split, reported, {count}, f"not {count} options")
    train = dropped.keep(f"train, in {split} too", train, without_overlap(train, reported))
    dropped.check_left(task, {split: reported, "train": train})
    ood = {}
    for name, source in _ood_sources(task).items():
        rows = dropped.read(name, _outside(source, task, protocol.split, data_dir))
        count = protocol.num_choices.get(source.partition("/")[0].replace("_", "-"))
        if count is not None:
            rows = dropped.keep_options(name, rows, {count}, f"not {count} options")
        rows = dropped.keep_audited(name, rows, protocol.ood_audit)
        if by_letter and train.choices is not None:
            most = num_classes(train)
            rows = dropped.keep_options(name, rows, range(most + 1), f"more than {most} options")
        unseen = without_overlap(without_overlap(rows, train), reported)
        ood[name] = dropped.keep(f"{name}, in {task.name} too", rows, unseen)
    dropped.check_left(task, ood)
    audit = protocol.ood_audit
    if ood and audit and not any(audit in rows.further for rows in ood.values()):
        text = f"OOD: no set has the column {audit}, so none is filtered for errors"
        deviations = (*deviations, text)
    return TaskRows(train, reported, split, ood, dropped, deviations)


class _Dropped(dict[str, int]):
    """Number of dropped rows by reason."""

    def read(self, label: str, rows: Examples) -> Examples:
        """Return rows after counting what their reader has dropped."""
        self.update({f"{label}, {reason}": count for reason, count in rows.dropped.items()})
        return rows

    def keep(self, reason: str, rows: Examples, remaining: Examples) -> Examples:
        """Return the remaining rows after counting the others."""
        if len(remaining) < len(rows):
            self[reason] = len(rows) - len(remaining)
        return remaining

    def keep_options(
        self, label: str, rows: Examples, counts: Collection[int], reason: str
    ) -> Examples:
        """Return the questions whose number of options is in `counts`, or all texts."""
        if rows.choices is None:
            return rows
        indices = [row for row, options in enumerate(rows.choices) if len(options) in counts]
        return self.keep(f"{label}, {reason}", rows, rows.take(indices))

    def keep_audited(self, label: str, rows: Examples, column: str | None) -> Examples:
        """Return the rows marked OK in the column of an audit, or all without such a column."""
        if column is None or column not in rows.further:
            return rows
        verdicts = rows.further[column]
        indices = [row for row, verdict in enumerate(verdicts) if verdict == "OK"]
        return self.keep(f"{label}, {column} is not OK", rows, rows.take(indices))

    def check_left(self, task: Task, sets: Mapping[str, Examples]) -> None:
        """Raise InputError if no row of a set is left."""
        for name, rows in sets.items():
            if not len(rows):
                reasons = "; ".join(f"{reason}: {count:,}" for reason, count in self.items())
                raise InputError(
                    f"task {task.name}: no {name} rows are left; dropped rows: {reasons}"
                )


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


def _read(task: Task, split: str, data_dir: str | Path | None) -> Examples:
    if not task.files:
        return load_task(task.name, split, data_dir)
    examples = _read_file(task.files[split], task, labels="required")
    if split != "train":
        return examples
    distinct = without_duplicates(examples)
    num_repeated = len(examples) - len(distinct)
    return replace(distinct, dropped={"repeated": num_repeated}) if num_repeated else distinct


def _read_file(
    path: str, task: Task, *, labels: Literal["optional", "required"] = "optional"
) -> Examples:
    if is_description(task.task):
        columns = read_description(str(task.task)).columns(str(task.task))
        return read(Path(path), columns, labels=labels)
    columns = DataColumns().renamed(task.text_column, task.label_column, task.pair_column)
    return read(Path(path), columns, labels=labels, reading=Reading(kind=task.task))


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
        return _read_file(source, task)
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

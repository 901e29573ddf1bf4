"""The rows of a task and of a cell, with only the labels that the protocol allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from bayeslora.data.known import (
    derived,
    known_name,
    load_task,
    ood_sets,
    splits_of,
    validation_is_test,
)
from bayeslora.data.read import read
from bayeslora.data.splits import stratified_sample
from bayeslora.errors import InputError, located
from bayeslora.experiments.grid import Protocol, Task
from bayeslora.option_checks import LARGEST_COUNT


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
    task: Task, protocol: Protocol, data_dir: str | Path | None = None, *, by_letter: bool = False
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
    split, deviations = protocol.split, []
    if split not in splits:
        split = "test"
        text = f"{task.name} has no {protocol.split} rows, so its test rows are reported"
        if not task.files and validation_is_test(task.name, data_dir):
            text = f"official validation rows, as published; {task.name} has them as test rows"
        deviations.append(f"split: {text}")
    if not task.files and (difference := derived(task.name, data_dir)):
        deviations.append(f"{task.name}: {difference}")
    dropped = _Dropped()
    count = protocol.num_choices.get(known)
    reported = dropped.read(split, _read(task, split, data_dir), count)
    train = dropped.read("train", _read(task, "train", data_dir), count)
    train = dropped.keep("train, repeated", train, without_duplicates(train))
    train = dropped.keep(f"train, in {split} too", train, without_overlap(train, reported))
    most = num_classes(train) if by_letter else LARGEST_COUNT
    ood = {}
    for name, source in _ood_sources(task).items():
        count = protocol.num_choices.get(source.partition("/")[0].replace("_", "-"))
        rows = dropped.read(name, _outside(source, task, protocol.split, data_dir), count)
        if rows.choices is not None:
            few = [len(options) <= most for options in rows.choices]
            rows = dropped.where(f"{name}, more than {most} options", rows, few)
        unseen = without_overlap(without_overlap(rows, train), reported)
        ood[name] = dropped.keep(f"{name}, in {task.name} too", rows, unseen)
    for name, rows in {split: reported, "train": train, **ood}.items():
        if not len(rows):
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
            raise InputError(f"task {task.name}: no {name} rows are left; dropped rows: {reasons}")
    return TaskRows(train, reported, split, ood, dropped, tuple(deviations))


class _Dropped(dict[str, int]):
    """Number of dropped rows by reason."""

    def read(self, label: str, rows: Examples, count: int | None) -> Examples:
        """Return rows after counting what their reader has dropped; questions with `count` options.

        Args:
            label: Name of the set.
            rows: Its rows.
            count: Number of options to keep; None for any.
        """
        self.update({f"{label}, {reason}": number for reason, number in rows.dropped.items()})
        if count is None or rows.choices is None:
            return rows
        fitting = [len(options) == count for options in rows.choices]
        return self.where(f"{label}, not {count} options", rows, fitting)

    def where(self, reason: str, rows: Examples, keep: Sequence[bool]) -> Examples:
        """Return the rows to keep after counting the others."""
        remaining = rows.take([index for index, is_kept in enumerate(keep) if is_kept])
        return self.keep(reason, rows, remaining)

    def keep(self, reason: str, rows: Examples, remaining: Examples) -> Examples:
        """Return the remaining rows after counting the others."""
        if len(remaining) < len(rows):
            self[reason] = len(rows) - len(remaining)
        return remaining


def drawn(examples: Examples, size: int, seed: int) -> Examples:
    """Return a random sample of rows, stratified by class.

    Raises:
        InputError: `size` is larger than the number of rows, or smaller than that of classes.
    """
    labels = encode_labels(examples, class_names(examples))
    return examples.take(stratified_sample(examples.strata(labels), size, seed))


def num_classes(examples: Examples) -> int:
    """Return the number of classes, or the largest number of options of a question."""
    return max(map(len, examples.choices or ()), default=0) or len(class_names(examples))


def _read(task: Task, split: str, data_dir: str | Path | None) -> Examples:
    if not task.files:
        return load_task(task.name, split, data_dir)
    return _read_file(task.files[split], task, labels="required")


def _read_file(
    path: str, task: Task, *, labels: Literal["optional", "required"] = "optional"
) -> Examples:
    columns = DataColumns().renamed(task.text_column, task.label_column, task.pair_column)
    return read(Path(path), columns, labels=labels)


def _ood_sources(task: Task) -> Mapping[str, str]:
    """Return the out-of-distribution sets of the grid, else those of a known task."""
    if task.ood is not None or task.files:
        return task.ood or {}
    known = ood_sets(task.name).items()
    return {
        name: other if split == "test" else f"{other}/{split}" for name, (other, split) in known
    }


def _is_path(source: str) -> bool:
    return Path(source).is_file() or Path(source).is_absolute() or bool(Path(source).suffix)


def _outside(source: str, task: Task, split: str, data_dir: str | Path | None) -> Examples:
    """Return out-of-distribution rows from a known task or a file.

    Args:
        source: `NAME`, `NAME/SPLIT` or a file.
        task: The task to whose rows they are compared.
        split: The split of `NAME`; `test` where it has no such split.
        data_dir: Directory of the known tasks' files.
    """
    if _is_path(source):
        return _read_file(source, task)
    name, _, own = source.partition("/")
    with located(f"task {task.name}: ood {source} is not a file"):
        splits = splits_of(name, data_dir)
    return load_task(name, own or (split if split in splits else "test"), data_dir)

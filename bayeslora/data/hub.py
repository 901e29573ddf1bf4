"""Known tasks from the Hugging Face hub, read with the package `datasets` if it is installed.

One small function per data set maps a record of the hub to the columns of the files; see `known`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from bayeslora.data.formats import Table, records_table
from bayeslora.errors import InputError

Record = Mapping[str, Any]

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def can_read_hub() -> bool:
    """Return whether the package `datasets` is installed and offline mode is not set."""
    offline = any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in _OFFLINE
    )
    return not offline and find_spec("datasets") is not None


@dataclass(frozen=True)
class _Source:
    """Location of a task on the hub.

    Attributes:
        configuration: Configuration of the data set.
        splits: Split on the hub by our name of the split.
        record: Function that maps a record of the hub to our columns.
        classes: Column of the class labels; None for questions.
        oos: Class whose rows are separate splits, `oos_<split>`.
    """

    configuration: str | None
    splits: Mapping[str, str]
    record: Callable[[Record], Record]
    classes: str | None = None
    oos: str | None = None


def hub_splits(task: str) -> tuple[str, ...]:
    """Return the labelled splits on the hub of a key of `KNOWN_TASKS`."""
    return tuple(_SOURCES[task].splits)


def hub_split(task: str, split: str) -> str:
    """Return the name on the hub of a split of a key of `KNOWN_TASKS`."""
    return _SOURCES[task].splits[split]


def hub_table(task: str, split: str, hub_id: str) -> tuple[Table, tuple[str, ...]]:
    """Return the rows of a split as a table in the file format, and the class names.

    Args:
        task: A key of `KNOWN_TASKS`.
        split: One of its splits.
        hub_id: Id of the data set on the hub.

    Raises:
        InputError: The hub lacks the split, or cannot be reached.
    """
    import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]

    source = _SOURCES[task]
    if split not in source.splits:
        raise InputError(
            f"task {task!r} has no labelled split {split!r} on the Hugging Face hub ({hub_id}), "
            f"only {', '.join(source.splits)}; pass its files with --data-dir"
        )
    hub_split = source.splits[split]
    try:
        rows = datasets.load_dataset(hub_id, source.configuration, split=hub_split)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"task {task!r} cannot be loaded from the Hugging Face hub ({hub_id}): "
            f"{type(error).__name__}: {reason}; pass its files with --data-dir"
        ) from error
    names = () if source.classes is None else tuple(rows.features[source.classes].names)
    records = [
        {"id": f"{hub_split}-{index}", **_labelled(source, row, names)}
        for index, row in enumerate(rows)
    ]
    if source.oos is not None:
        is_outside = split.startswith("oos_")
        records = [row for row in records if (row["label"] == source.oos) == is_outside]
    return records_table(records, f"<{hub_id}, {hub_split}>"), names


def _labelled(source: _Source, row: Record, names: tuple[str, ...]) -> dict[str, Any]:
    record = dict(source.record(row))
    if source.classes is not None:
        record["label"] = names[row[source.classes]]
    return record


def _openbookqa(row: Record) -> Record:
    return {**_lettered(row), "question": row["question_stem"]}


def _lettered(row: Record) -> Record:
    # Some keys are letters and some are numbers from 1, but all are among the labels.
    choices = row["choices"]
    answer = list(choices["label"]).index(row["answerKey"])
    return {
        "id": str(row["id"]),
        "question": row.get("question"),
        "choices": list(choices["text"]),
        "answer_index": answer,
    }


def _winogrande(row: Record) -> Record:
    options = [row["option1"], row["option2"]]
    return {"question": row["sentence"], "choices": options, "answer_index": int(row["answer"]) - 1}


def _boolq(row: Record) -> Record:
    return {
        "question": row["question"],
        "passage": row["passage"],
        "choices": ["false", "true"],
        "answer_index": int(row["answer"]),
    }


def _mmlu(row: Record) -> Record:
    choices = list(row["choices"])
    return {"question": row["question"], "choices": choices, "answer_index": int(row["answer"])}


def _text(row: Record) -> Record:
    return {"question": row["text"]}


def _sentence(row: Record) -> Record:
    return {"question": row["sentence"]}


def _same(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


MMLU_SUBJECTS = (
    *("abstract-algebra", "anatomy", "astronomy", "business-ethics", "clinical-knowledge"),
    *("college-biology", "college-chemistry", "college-computer-science", "college-mathematics"),
    *("college-medicine", "college-physics", "computer-security", "conceptual-physics"),
    *("econometrics", "electrical-engineering", "elementary-mathematics", "formal-logic"),
    *("global-facts", "high-school-biology", "high-school-chemistry"),
    *("high-school-computer-science", "high-school-european-history", "high-school-geography"),
    *("high-school-government-and-politics", "high-school-macroeconomics"),
    *("high-school-mathematics", "high-school-microeconomics", "high-school-physics"),
    *("high-school-psychology", "high-school-statistics", "high-school-us-history"),
    *("high-school-world-history", "human-aging", "human-sexuality", "international-law"),
    *("jurisprudence", "logical-fallacies", "machine-learning", "management", "marketing"),
    *("medical-genetics", "miscellaneous", "moral-disputes", "moral-scenarios", "nutrition"),
    *("philosophy", "prehistory", "professional-accounting", "professional-law"),
    *("professional-medicine", "professional-psychology", "public-relations"),
    *("security-studies", "sociology", "us-foreign-policy", "virology", "world-religions"),
)
"""The 57 subjects of MMLU (Hendrycks et al. 2021, arXiv 2009.03300)."""

_ALL = ("train", "validation", "test")
_HELD_OUT = {"train": "train", "test": "validation"}

_SOURCES: Mapping[str, _Source] = {
    "ag-news": _Source(None, _same(("train", "test")), _text, classes="label"),
    "arc-challenge": _Source("ARC-Challenge", _same(_ALL), _lettered),
    "arc-easy": _Source("ARC-Easy", _same(_ALL), _lettered),
    "boolq": _Source(None, _HELD_OUT, _boolq),
    "boolq-question-only": _Source(None, _HELD_OUT, _boolq),
    "clinc150": _Source(
        "plus",
        {**_same(_ALL), "oos_validation": "validation", "oos_test": "test"},
        _text,
        classes="intent",
        oos="oos",
    ),
    **{
        f"mmlu-{subject}": _Source(subject.replace("-", "_"), {"test": "test"}, _mmlu)
        for subject in MMLU_SUBJECTS
    },
    "openbookqa": _Source("main", _same(_ALL), _openbookqa),
    "sst2": _Source(None, _HELD_OUT, _sentence, classes="label"),
    "winogrande-m": _Source("winogrande_m", _HELD_OUT, _winogrande),
    "winogrande-s": _Source("winogrande_s", _HELD_OUT, _winogrande),
    "winogrande-xs": _Source("winogrande_xs", _HELD_OUT, _winogrande),
}

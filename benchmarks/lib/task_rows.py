"""Fixed rows of the benchmark tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora.data.examples import (
    Examples,
    class_names,
    encode_labels,
    without_duplicates,
    without_overlap,
)
from bayeslora.data.known import load_known
from bayeslora.data.splits import stratified_sample, stratified_split
from bayeslora.errors import unknown_choice
from benchmarks.lib.experiment_data import FAR, ExperimentData, newsgroups

# Options of the reports that do not study the reading: all layers, raw texts, no prior mean.
WHOLE_AND_RAW: dict[str, Any] = {"depth": 1.0, "template": "{text}", "verbaliser": "none"}
TASKS = ("newsgroups", "sst2_sentences", "ag_news_10k")


def load_experiment(
    task: str,
    *,
    num_train: int = 640,
    num_validation: int = 320,
    num_test: int = 800,
    num_ood: int = 400,
    data_dir: str | Path | None = None,
) -> ExperimentData:
    """Return the fixed rows of a task, the same for every seed and method.

    Repeated training rows, and training rows that occur in another split, are dropped first.

    Args:
        task: A member of `TASKS`.
        num_train: Training rows.
        num_validation: Validation rows.
        num_test: Test rows.
        num_ood: Rows of each out-of-distribution set.
        data_dir: Directory of the known tasks' files; not used for `newsgroups`.

    Raises:
        InputError: If the task is unknown or its files are missing.
    """
    if task == "newsgroups":
        return newsgroups(
            num_train=num_train, num_validation=num_validation, num_test=num_test, num_ood=num_ood
        )
    if task not in TASKS:
        raise unknown_choice("experiment task", task, TASKS)
    other = "ag_news_10k" if task == "sst2_sentences" else "sst2_sentences"
    test = _sample(load_known(task, "test", data_dir), num_test)
    train = without_overlap(without_duplicates(load_known(task, "train", data_dir)), test)
    fitting = _sample(train, num_train + num_validation)
    train_rows, validation_rows = stratified_split(_codes(fitting), num_validation, 0)
    return ExperimentData(
        task,
        fitting.take(train_rows),
        fitting.take(validation_rows),
        test,
        {FAR: _sample(load_known(other, "test", data_dir), num_ood)},
        {FAR: f"{other} test rows"},
    )


def _sample(examples: Examples, size: int) -> Examples:
    return examples.take(stratified_sample(_codes(examples), size, 0))


def _codes(examples: Examples) -> NDArray[np.int64]:
    return encode_labels(examples, class_names(examples))

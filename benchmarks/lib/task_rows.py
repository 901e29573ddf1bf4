"""Fixed rows of the benchmark tasks, the same for every seed and method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from bayeslora.data.newsgroups import load_newsgroups
from bayeslora.data.splits import stratified_sample, stratified_split

TASKS = ("newsgroups", "sst2_sentences", "ag_news_10k")
NUM_TRAIN, NUM_VALIDATION, NUM_TEST, NUM_OOD = 640, 320, 800, 400
NEAR, FAR = "near", "far"


@dataclass(frozen=True)
class TaskRows:
    """Rows for training, tuning and testing a method.

    Attributes:
        train: Training rows.
        validation: Rows for choosing hyper-parameters.
        test: Test rows, which no choice depends on.
        ood: Out-of-distribution rows by name: `near`, if the task has them, and `far`.
    """

    train: Examples
    validation: Examples
    test: Examples
    ood: Mapping[str, Examples]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in index order."""
        return class_names(self.train)


def load_rows(task: str, data_dir: Path | None = None) -> TaskRows:
    """Return the rows of a member of `TASKS`.

    Repeated training rows, and training rows that occur in another split, are dropped first.

    Raises:
        InputError: If the files of the task are missing.
        MissingAssetError: If the posts of `newsgroups` are not installed.
    """
    if task == "newsgroups":
        posts = load_newsgroups(
            num_train=NUM_TRAIN,
            num_validation=NUM_VALIDATION,
            num_test=NUM_TEST,
            num_near=NUM_OOD,
            num_far=NUM_OOD,
        )
        ood = {NEAR: posts.near, FAR: posts.far}
        return TaskRows(posts.train, posts.validation, posts.test, ood)
    other = "ag_news_10k" if task == "sst2_sentences" else "sst2_sentences"
    test = _sample(load_known(task, "test", data_dir), NUM_TEST)
    train = without_overlap(without_duplicates(load_known(task, "train", data_dir)), test)
    fitting = _sample(train, NUM_TRAIN + NUM_VALIDATION)
    train_rows, validation_rows = stratified_split(_codes(fitting), NUM_VALIDATION, 0)
    far = _sample(load_known(other, "test", data_dir), NUM_OOD)
    return TaskRows(fitting.take(train_rows), fitting.take(validation_rows), test, {FAR: far})


def _sample(examples: Examples, size: int) -> Examples:
    return examples.take(stratified_sample(_codes(examples), size, 0))


def _codes(examples: Examples) -> NDArray[np.int64]:
    return encode_labels(examples, class_names(examples))

"""Data sets of experiments: in-distribution splits and out-of-distribution sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bayeslora.data.examples import Examples, class_names
from bayeslora.data.newsgroups import load_newsgroups

NEAR, FAR = "near", "far"


@dataclass(frozen=True)
class ExperimentData:
    """Rows for training, tuning and testing a method.

    Attributes:
        name: Name of the task.
        train: Training rows.
        validation: Rows for choosing hyper-parameters.
        test: Test rows, which no choice depends on.
        ood: Out-of-distribution rows by name: `near`, if the task has them, and `far`.
        about: Short description of each out-of-distribution set.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    ood: Mapping[str, Examples]
    about: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in index order."""
        return class_names(self.train)


def newsgroups(
    *, num_train: int = 640, num_validation: int, num_test: int, num_ood: int
) -> ExperimentData:
    """Return posts of newsgroups; the rows are the same for every seed and method.

    Args:
        num_train: Training rows.
        num_validation: Validation rows.
        num_test: Test rows.
        num_ood: Rows of each out-of-distribution set.

    Raises:
        MissingAssetError: If the posts are not installed.
    """
    posts = load_newsgroups(
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        num_near=num_ood,
        num_far=num_ood,
    )
    return ExperimentData(
        "newsgroups",
        posts.train,
        posts.validation,
        posts.test,
        {NEAR: posts.near, FAR: posts.far},
        {NEAR: f"posts of unseen groups: {', '.join(posts.near_groups)}", FAR: "Reuters newswire"},
    )

"""What a fit is given: what was chosen, and checked data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.depth import Depth
from bayeslora.backbones.template import Template
from bayeslora.backbones.verbaliser import Verbaliser
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import (
    Examples,
    class_names,
    data_hash,
    dropped_by_split,
    encode_labels,
)
from bayeslora.data.images import IMAGE
from bayeslora.data.union import check_tasks, counts, is_union, union, union_classes
from bayeslora.engine.data import LabelledExamples, check_images, read_labelled, read_validation
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError
from bayeslora.option_checks import Format
from bayeslora.posteriors.base import Posterior


@dataclass(frozen=True)
class Plan:
    """What was chosen for a classifier; None stands for a default that depends on the data.

    Attributes:
        backbone: Its name.
        dtype: Requested dtype of the frozen weights.
        adapter: Options of the adapter.
        posterior: Options of the posterior.
        seed: Seed of initialisation, order and draws.
        max_length: Tokens per text; longer texts are truncated.
        progress: Whether to show bars on stderr.
        feature_scores: Names of scores to fit beside the posterior.
        depth: Number or share of backbone layers to use, or `auto`.
        template: Template around each text.
        verbaliser: How to get a prior mean from the language model.
        format: How questions are read; None for texts, too.
        training: How adapter and last layer are trained.
        logit_scale: Factor of the fitted network's logits; None for the factor of lowest NLL on
            the validation rows.
    """

    backbone: str
    dtype: str
    adapter: Adapter
    posterior: Posterior
    seed: int
    max_length: int
    progress: bool
    feature_scores: Sequence[str] | None = ()
    depth: Depth | None = None
    template: Template | None = None
    verbaliser: Verbaliser | None = None
    format: Format | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    logit_scale: float | None = 1.0


@dataclass(frozen=True)
class TrainingData:
    """Checked data of a fit.

    Attributes:
        columns: Columns that the data was read from.
        classes: Names of the classes in index order.
        train: Training rows and their labels [N] int64.
        validation: Held-out rows and their labels, or None.
        tasks: Number of classes of each of several tasks, in the order of the classes; empty for
            one task.
        across_tasks: Whether rows are classified among the classes of all tasks.
    """

    columns: DataColumns
    classes: tuple[str, ...]
    train: LabelledExamples
    validation: LabelledExamples | None
    tasks: dict[str, int] = field(default_factory=dict)
    across_tasks: bool = False

    @classmethod
    def read(
        cls, train: Any, validation: Any, columns: DataColumns, *, across_tasks: bool = False
    ) -> TrainingData:
        """Read the data that a user passed; see `BayesianClassifier.fit`.

        Raises:
            InputError: The data is not allowed.
        """
        if is_union(train) or is_union(validation):
            return cls._of_tasks(train, validation, columns, across_tasks=across_tasks)
        if across_tasks:
            raise InputError(
                "across_tasks (--across-tasks) has no effect with one task; give data by task "
                "(--multi-task NAME=FILE), or leave it out",
                code="no-effect",
            )
        rows = read_labelled(train, columns)
        columns = columns if rows.columns is None else DataColumns.of(rows.columns)
        if rows.images and not columns.images:
            columns = replace(columns, text=IMAGE, images=True)
        held_out = None if validation is None else read_validation(validation, columns, rows)
        if held_out is not None:
            check_images(held_out, images=rows.images)
        classes = class_names(rows)
        if held_out is not None and (held_out.choices is None) != (rows.choices is None):
            raise InputError(
                f"{held_out.source} and {rows.source} hold rows of different kinds: one has "
                "questions with options, the other texts"
            )
        if held_out is not None and held_out.choices is not None:
            classes = max(classes, class_names(held_out), key=len)
        return cls(
            columns,
            classes,
            (rows, torch.from_numpy(encode_labels(rows, classes))),
            None
            if held_out is None
            else (held_out, torch.from_numpy(encode_labels(held_out, classes))),
        )

    @classmethod
    def _of_tasks(
        cls, train: Any, validation: Any, columns: DataColumns, *, across_tasks: bool
    ) -> TrainingData:
        """Read several tasks, named by the keys, as one data set."""
        if not is_union(train) or not (validation is None or is_union(validation)):
            raise InputError(
                "training and validation data must both name their tasks; give both as mappings "
                "from names to data (--multi-task NAME=FILE, --validation NAME=FILE)"
            )
        check_tasks(validation or (), [*train], "validation data")
        parts = {task: read_labelled(data, columns) for task, data in train.items()}
        held_out = {
            task: read_validation(data, columns, parts[task])
            for task, data in (validation or {}).items()
        }
        of_task = union_classes(parts)
        sizes = counts(of_task)
        known = None if across_tasks else sizes
        classes = tuple(name for names in of_task.values() for name in names)
        for task, rows in held_out.items():  # by the task's own class names
            encode_labels(rows, class_names(parts[task]))
        splits = [
            (rows, torch.from_numpy(encode_labels(rows, classes)))
            for rows in (union(split, known) for split in (parts, held_out) if split)
        ]
        images = any(rows.images for rows in parts.values())
        if images and not columns.images:
            columns = replace(columns, text=IMAGE, images=True)
        validation = splits[1] if held_out else None
        return cls(columns, classes, splits[0], validation, sizes, across_tasks)

    @property
    def rows(self) -> Examples:
        """The training rows."""
        return self.train[0]

    @property
    def held_out(self) -> Examples | None:
        """The held-out rows, or None."""
        return None if self.validation is None else self.validation[0]

    def hashes(self) -> dict[str, str | None]:
        """Return a hash of each split."""
        validation = None if self.held_out is None else data_hash(self.held_out)
        return {"train": data_hash(self.rows), "validation": validation}

    def dropped(self) -> dict[str, dict[str, int]]:
        """Return how many rows were dropped on reading, by split and reason."""
        return dropped_by_split(train=self.rows, validation=self.held_out)

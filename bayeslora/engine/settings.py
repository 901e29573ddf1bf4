"""Settings of a fit: options of the training, choices of a classifier, and the checked data."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.layer_sampling.options import LayerSampling
from bayeslora.backbones.depth import Depth
from bayeslora.backbones.template import Template
from bayeslora.backbones.verbaliser import Verbaliser
from bayeslora.engine.data import check_images, read_labelled, read_validation
from bayeslora.engine.retaining.options import QualityRetaining
from bayeslora.errors import InputError
from bayeslora.option_checks import BelowOne, Count, Format, Options, Positive, Range, Seed
from bayeslora.posteriors.base import Posterior
from bayeslora.tables.images import IMAGE
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import (
    Examples,
    class_names,
    data_hash,
    dropped_by_split,
    encode_labels,
)
from bayeslora.tasks.union import check_tasks, counts, is_union, union, union_classes

_TOLD = re.compile(
    r"(ACCELERATE|FSDP|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
    r"|LOCAL_RANK|RANK|WORLD_SIZE|PMI_(RANK|SIZE)|MPI_LOCAL(RANKID|NRANKS)"
)


@dataclass(frozen=True)
class TrainingSettings(Options):
    """Options of one fit that belong to neither the adapter nor the posterior."""

    epochs: Annotated[Count, "Passes over the training rows, at most."]
    batch_size: Annotated[Count, "Rows per step."] = 16
    head_lr: Annotated[
        Positive,
        "Learning rate of the head's gradient steps, where the posterior has none itself.",
    ] = 2e-2
    patience: Annotated[Count, "Epochs without a better validation NLL before training stops."] = 5
    warmup: Annotated[
        BelowOne, "Share of the steps in which the learning rate rises; it then falls as a cosine."
    ] = 0.03
    max_grad_norm: Annotated[
        Positive,
        "Limit on the norm of the adapter's gradient; posterior `ivon` has one of its own in its "
        "place.",
    ] = 1.0
    seed: Annotated[Seed, "Decides starts, order and dropout."] = 0
    layer_sampling: Annotated[
        LayerSampling | None,
        "Which layers of an adapter's sites rest at a step; None lets all train.",
    ] = None
    quality_retaining: Annotated[
        QualityRetaining | None, "A loss that holds what is learnt; None for none."
    ] = None
    cv: Annotated[
        Annotated[int, Range(0)] | Literal["auto"],
        "Parts of the training rows that are held out in turn to choose the scale of the logits; 0 "
        "for none, `auto` for as many of five as bring 128 rows.",
    ] = 0
    hold_out: Annotated[
        BelowOne, "Share of the training rows that serve as validation rows; 0 for none."
    ] = 0.0
    refit: Annotated[bool, "Whether a fit to all rows follows, with what they chose."] = False
    keep_folds: Annotated[
        bool,
        "Whether the fits without a part each are kept and answer together, in place of a fit to "
        "all rows; `auto` is five parts then.",
    ] = False
    stop_after: Annotated[
        Annotated[int, Range(0)] | None,
        "Epochs after which training stops, whatever is left of the schedule; None for none.",
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cv == 1:
            raise InputError("cv must be at least 2 parts, 0 for none, or 'auto', got 1")
        if self.keep_folds and not self.cv:
            raise InputError(
                "keep_folds keeps the fits of cv, and cv is 0: give cv, and no validation data or "
                "hold_out",
                code="clash",
            )
        if self.refit and not self.hold_out:
            raise InputError(
                "refit has no effect without hold_out, whose choices it keeps", code="no-effect"
            )

    def num_steps(self, num_train: int) -> int:
        """Return the optimiser steps of a fit to so many rows that is not stopped early."""
        return self.epochs * math.ceil(num_train / self.batch_size)


@contextmanager
def plain_environment() -> Iterator[None]:
    """Hide what launchers and schedulers tell accelerate by environment variables.

    Its precision and compiler would change the numbers of a fit without a word in the record, a
    rank left over from a scheduler makes it wait for other processes, and where there are others,
    `AlternatingTrainer` exchanges what has to be: to the Trainer each is alone.
    """
    told = [name for name in os.environ if _TOLD.fullmatch(name)]
    kept = {name: os.environ.pop(name) for name in told}
    try:
        yield
    finally:
        os.environ.update(kept)


LabelledExamples = tuple[Examples, Tensor]


@dataclass(frozen=True)
class Choices:
    """Choices of a classifier before it sees data.

    Attributes:
        backbone: Its name.
        dtype: Of the frozen weights, as it was asked for.
        adapter: Which adapter.
        posterior: Which posterior.
        seed: Decides starts, order and draws.
        max_length: Tokens kept of a text.
        progress: Whether to show bars on stderr.
        feature_scores: Names of scores to fit beside the posterior; None takes the usual ones.
        depth: Layers of the backbone that are read, their share, or `auto`; None for the default.
        template: What is put around each text; None for the default.
        verbaliser: How the language model is asked for a prior mean; None for the default.
        logit_scale: What the logits of the fitted network are multiplied by; None for the factor
            of lowest NLL on the validation rows.
        format: How questions are read; None for the default, `options`, and for texts.
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
    logit_scale: float | None = 1.0
    format: Format | None = None


@dataclass(frozen=True)
class TrainingData:
    """Checked data of a fit.

    Attributes:
        columns: Where it came from.
        classes: Names of the classes in index order.
        train: Training rows and their labels [N] int64.
        validation: Held-out rows and their labels, or None.
        tasks: How many classes each of several tasks has, in the order of the classes; empty where
            there is one task.
        across_tasks: Whether rows of several tasks are classified among the classes of all.
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
        """Read what a person passed; see `BayesianClassifier.fit`.

        Raises:
            InputError: Something in it is not allowed.
        """
        if is_union(train) or is_union(validation):
            return cls._of_tasks(train, validation, columns, across_tasks=across_tasks)
        if across_tasks:
            raise InputError(
                "across_tasks (--across-tasks) has no effect with one task: give data by task "
                "(--multi-task NAME=FILE), or leave it out",
                code="no-effect",
            )
        rows = read_labelled(train, columns)
        columns = columns if rows.columns is None else DataColumns.of(rows.columns)
        if rows.images and not columns.images:
            columns = replace(columns, text=IMAGE, images=True)
        held = None if validation is None else read_validation(validation, columns, rows)
        if held is not None:
            check_images(held, images=rows.images)
        classes = class_names(rows)
        if held is not None and (held.choices is None) != (rows.choices is None):
            raise InputError(
                f"{held.source} and {rows.source} hold rows of different kinds: one has questions "
                "with options, the other texts"
            )
        if held is not None and held.choices is not None:
            classes = max(classes, class_names(held), key=len)
        return cls(
            columns,
            classes,
            (rows, torch.from_numpy(encode_labels(rows, classes))),
            None if held is None else (held, torch.from_numpy(encode_labels(held, classes))),
        )

    @classmethod
    def _of_tasks(
        cls, train: Any, validation: Any, columns: DataColumns, *, across_tasks: bool
    ) -> TrainingData:
        """Read several tasks, each by its name, as one."""
        if not is_union(train) or not (validation is None or is_union(validation)):
            raise InputError(
                "several tasks are named in training and validation data alike: give both as "
                "mappings from names to data (--multi-task NAME=FILE, --validation NAME=FILE)"
            )
        check_tasks(validation or (), [*train], "validation data")
        parts = {task: read_labelled(data, columns) for task, data in train.items()}
        held = {
            task: read_validation(data, columns, parts[task])
            for task, data in (validation or {}).items()
        }
        of_task = union_classes(parts)
        sizes = counts(of_task)
        known = None if across_tasks else sizes
        classes = tuple(name for names in of_task.values() for name in names)
        for task, rows in held.items():  # by their own names, in files of their own
            encode_labels(rows, class_names(parts[task]))
        found = [
            (rows, torch.from_numpy(encode_labels(rows, classes)))
            for rows in (union(split, known) for split in (parts, held) if split)
        ]
        images = any(rows.images for rows in parts.values())
        if images and not columns.images:
            columns = replace(columns, text=IMAGE, images=True)
        validation = found[1] if held else None
        return cls(columns, classes, found[0], validation, sizes, across_tasks)

    def hashes(self) -> dict[str, str | None]:
        """Return a hash of each split."""
        held = None if self.validation is None else data_hash(self.validation[0])
        return {"train": data_hash(self.train[0]), "validation": held}

    def dropped(self) -> dict[str, dict[str, int]]:
        """Return how many rows were left out before, by split and reason."""
        held = None if self.validation is None else self.validation[0]
        return dropped_by_split(train=self.train[0], validation=held)

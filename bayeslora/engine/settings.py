"""What a fit is told: options of the training, choices of a classifier, and the checked data."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.lisa.options import LayerSampling
from bayeslora.backbones.depth import Depth
from bayeslora.backbones.template import Template
from bayeslora.backbones.verbaliser import Verbaliser
from bayeslora.engine.checkpoints import data_hash
from bayeslora.engine.data import check_images, read_labelled, read_validation
from bayeslora.engine.retaining.options import QualityRetaining
from bayeslora.errors import InputError
from bayeslora.option_checks import as_seed, check_flag, check_integer, check_positive, check_share
from bayeslora.posteriors.base import Posterior
from bayeslora.tables.images import IMAGE
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import Examples, class_names, encode_labels

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_TOLD = re.compile(
    r"(ACCELERATE|FSDP|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
    r"|LOCAL_RANK|RANK|WORLD_SIZE|PMI_(RANK|SIZE)|MPI_LOCAL(RANKID|NRANKS)"
)


@dataclass(frozen=True)
class TrainingSettings:
    """Options of one fit that belong to neither the adapter nor the posterior.

    Attributes:
        epochs: Passes over the training rows, at most.
        batch_size: Rows a step.
        head_lr: Learning rate of the head's gradient steps, where the posterior has none itself.
        patience: Epochs without a better validation NLL before training stops.
        warmup: Share of the steps in which the learning rate rises; it then falls as a cosine.
        max_grad_norm: Limit on the norm of the adapter's gradient; posterior `ivon` has one of its
            own in its place.
        seed: Decides starts, order and dropout.
        layer_sampling: Which layers of an adapter's sites rest at a step; None lets all train.
        quality_retaining: A loss that holds what is learnt; None for none.
        hold_out: Share of the training rows that serve as validation rows; 0 for none.
        refit: Whether a fit to all rows follows, with what they chose.
        stop_after: Epochs after which training stops, whatever is left of the schedule; None for
            none.
        cv: Parts of the training rows that are held out in turn to choose the scale of the logits;
            0 for none, `auto` for as many of five as bring 128 rows.
        keep_folds: Whether the fits without a part each are kept and answer together, in place of
            a fit to all rows; `auto` is five parts then.
    """

    epochs: int
    batch_size: int = 16
    head_lr: float = 2e-2
    patience: int = 5
    warmup: float = 0.03
    max_grad_norm: float = 1.0
    seed: int = 0
    layer_sampling: LayerSampling | None = None
    quality_retaining: QualityRetaining | None = None
    cv: int | str = 0
    hold_out: float = 0.0
    refit: bool = False
    keep_folds: bool = False
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            check_integer(name, getattr(self, name), low=1)
        if self.cv != "auto" and (self.cv != 0 or isinstance(self.cv, bool)):
            check_integer("cv", self.cv, low=2, otherwise=", 0 for none, or 'auto'")
        if self.hold_out != 0:
            check_share("hold_out", self.hold_out)
        check_flag("refit", self.refit)
        check_flag("keep_folds", self.keep_folds)
        if self.keep_folds and not self.cv:
            raise InputError(
                "keep_folds keeps the fits of cv, and cv is 0: give cv, and no validation data or "
                "hold_out"
            )
        if self.refit and not self.hold_out:
            raise InputError("refit has no effect without hold_out, whose choices it keeps")
        check_positive("head_lr", self.head_lr)
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup must be in [0, 1), got {self.warmup!r}")
        as_seed(self.seed)
        sampling = self.layer_sampling
        if sampling is not None and type(sampling) is not LayerSampling:
            raise InputError(f"layer_sampling must be a LayerSampling or None, got {sampling!r}")

    def num_steps(self, num_train: int) -> int:
        """Return the optimiser steps of a fit to so many rows that is not stopped early."""
        return self.epochs * math.ceil(num_train / self.batch_size)


@contextmanager
def plain_environment() -> Iterator[None]:
    """Hide what launchers and schedulers tell accelerate by environment variables.

    Its precision, compiler and sharding would change the numbers of a fit without a word in the
    record, and a rank left over from a scheduler makes it wait for other processes.
    """
    told = [name for name in os.environ if _TOLD.fullmatch(name)]
    kept = {name: os.environ.pop(name) for name in told}
    try:
        yield
    finally:
        os.environ.update(kept)


def check_one_process() -> None:
    """Raise InputError if a launcher has started several processes.

    The head follows the adapter by the features of all rows, which no process has alone; each would
    fit the whole model by itself, into one directory.

    Raises:
        InputError: A number of processes that a launcher left in the environment is not 1.
    """
    for name in _SIZES:
        size = os.environ.get(name) or "1"
        if size != "1":
            raise InputError(
                f"a fit runs in one process, and {name} is {size!r}: start it without torchrun, "
                "accelerate launch or mpirun; several GPUs serve several fits, one each by "
                "CUDA_VISIBLE_DEVICES"
            )


LabelledExamples = tuple[Examples, Tensor]


@dataclass(frozen=True)
class Choices:
    """What a classifier was told before it saw data.

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


@dataclass(frozen=True)
class TrainingData:
    """Checked data of a fit.

    Attributes:
        columns: Where it came from.
        classes: Names of the classes in index order.
        train: Training rows and their labels [N] int64.
        validation: Held-out rows and their labels, or None.
    """

    columns: DataColumns
    classes: tuple[str, ...]
    train: LabelledExamples
    validation: LabelledExamples | None

    @classmethod
    def read(cls, train: Any, validation: Any, columns: DataColumns) -> TrainingData:
        """Read what a person passed; see `BayesianClassifier.fit`.

        Raises:
            InputError: Something in it is not allowed.
        """
        rows = read_labelled(train, columns)
        if rows.images and not columns.images:
            columns = replace(columns, text=IMAGE, images=True)
        classes = class_names(rows)
        held = None if validation is None else read_validation(validation, columns, rows)
        if held is not None:
            check_images(held, images=rows.images)
        return cls(
            columns,
            classes,
            (rows, torch.from_numpy(encode_labels(rows, classes))),
            None if held is None else (held, torch.from_numpy(encode_labels(held, classes))),
        )

    def hashes(self) -> dict[str, str | None]:
        """Return a hash of each split."""
        held = None if self.validation is None else data_hash(self.validation[0])
        return {"train": data_hash(self.train[0]), "validation": held}

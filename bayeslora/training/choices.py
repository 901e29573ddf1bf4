"""What a fit is told, and the checked data that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.depth import Depth
from bayeslora.backbones.template import Template
from bayeslora.backbones.verbaliser import Verbaliser
from bayeslora.posteriors.base import Posterior
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import Examples, class_names, encode_labels
from bayeslora.training.data import read_labelled, read_validation
from bayeslora.training.resume import data_hash

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
        classes = class_names(rows)
        held = None if validation is None else read_validation(validation, columns, rows)
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

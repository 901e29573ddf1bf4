"""Options of training, free of torch; the help of `bayeslora fit` uses their descriptions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypedDict

from bayeslora.errors import InputError
from bayeslora.option_checks import (
    BelowOne,
    Count,
    CountOrZero,
    Options,
    Positive,
    Seed,
    option_names,
)

if TYPE_CHECKING:
    from bayeslora.posteriors.base import Posterior


@dataclass(frozen=True)
class TrainingSettings(Options):
    """Options of one fit that belong to neither the adapter nor the posterior.

    A field that `FitOptions` names is a keyword of `BayesianClassifier.fit`, an option of
    `bayeslora fit` and, by `recorded`, an entry of a model's record; the docstring of the field is
    the documentation of all of them. A fit sets the other fields itself.
    """

    unset: ClassVar[tuple[str, ...]] = ("epochs", "cv")
    """Options that depend on the method and the rows unless they are set."""
    of_rows: ClassVar[tuple[str, ...]] = ("cv", "hold_out", "refit", "keep_folds")
    """Options that matter to fits of the last layer alone, too: they say what the rows are for."""

    epochs: Count = 5
    """Maximum number of epochs. By default 15 if validation rows select the epoch (not with SWAG),
    2, 5 or 12 by the held-out rows of cross-validation, else 5; and more with fewer than 128 rows,
    for as many steps as 128 take."""
    batch_size: Count = 16
    """Rows per step."""
    head_lr: Positive = 2e-2
    """Learning rate of the last layer, if the posterior has no option for it."""
    patience: Count = 5
    """Epochs without a better validation NLL before training stops."""
    cv: CountOrZero | Literal["auto"] = 0
    """Number of cross-validation folds, each held out of one fit. The held-out rows choose the
    epochs and the scale of the logits; the result is the average of the networks, or, where there
    is one or they cannot be averaged, the first, trained for a few epochs more on all rows. 0 for
    none, auto for as many of five folds as give 128 rows. By default auto for VBLL without
    validation rows (without an adapter from 257 rows on), else 0."""
    keep_folds: bool = False
    """Whether to keep the networks of the folds as an ensemble, with a pass each, instead of one
    network."""
    hold_out: BelowOne = 0.0
    """Share of the training rows to use as validation rows, stratified by class, instead of
    validation data and cross-validation."""
    refit: bool = False
    """Whether to refit to all rows, with the epoch, prior and scale chosen on those held out."""
    report_to: Literal["tensorboard", "wandb", "mlflow"] | None = None
    """Experiment tracker that receives the figures of each epoch, one run per network. The files of
    TensorBoard are written to runs/."""
    warmup: BelowOne = 0.03
    """Share of the steps in which the learning rate rises; it then decays as a cosine."""
    max_grad_norm: Positive = 1.0
    """Limit on the norm of the adapter's gradient."""
    seed: Seed = 0
    """Seed of initialisation, order and draws."""
    choose_epochs: bool = False
    """Whether the rows that cross-validation holds out choose the number of epochs, from the ends
    of stages within which the learning rate decays to zero."""
    stop_after: CountOrZero | None = None
    """Number of epochs after which training stops, regardless of the schedule; None for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cv == 1:
            raise InputError("cv must be >= 2, 0 for none, or 'auto', got 1", options=("cv",))
        if self.refit and not self.hold_out:
            raise InputError(
                "refit has no effect without hold_out, whose choices it uses",
                code="no-effect",
                options=("refit", "hold_out"),
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """Epochs at which the learning rate has decayed to zero, after which it starts again."""
        shares = STAGES if self.choose_epochs else (1.0,)
        return tuple(sorted({max(1, round(share * self.epochs)) for share in shares}))

    def recorded(self) -> dict[str, Any]:
        """Return the options that determine how networks are trained, for a model's record."""
        return {name: value for name, value in asdict(self).items() if name != "report_to"}

    def finishing(self, num_rows: int) -> Self:
        """Return the settings of the last epochs of cross-validated networks, on all rows."""
        epochs = round(FINISHING_EPOCHS * max(1.0, FULL_ROWS / num_rows))
        return replace(self, epochs=min(epochs, self.epochs), choose_epochs=False)

    def num_steps(self, num_train: int) -> int:
        """Return the optimiser steps of a fit to `num_train` rows without early stopping."""
        return self.epochs * math.ceil(num_train / self.batch_size)


class ColumnNames(TypedDict, total=False):
    """Names of columns in the data.

    Attributes:
        text_column: Column of the texts; `text` by default. Or a template of several columns, such
            as `{subject} {body}`.
        label_column: Column of the labels; `label` by default.
        pair_column: Column of second texts; none by default.
        image_column: Column of image paths, relative to the file, for a vision model; not needed
            for data with a column `image` and no `text`, image directories and image arrays.
    """

    text_column: str | None
    label_column: str | None
    pair_column: str | None
    image_column: str | None


def columns_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of columns among keywords: `{"text": "review"}` for `text_column`."""
    end = "_column"
    return {name.removesuffix(end): value for name, value in options.items() if name.endswith(end)}


class FitOptions(ColumnNames, total=False):
    """The fields of `TrainingSettings` that are keywords of `BayesianClassifier.fit`, for types."""

    epochs: int | None
    batch_size: int
    head_lr: float | None
    patience: int
    cv: int | Literal["auto"] | None
    keep_folds: bool
    hold_out: float
    refit: bool
    report_to: Literal["tensorboard", "wandb", "mlflow"] | None


CHOSEN = tuple(
    name for name in option_names(TrainingSettings) if name in FitOptions.__annotations__
)
"""Names of the options of a fit, in the order of their documentation."""

DEFAULT_EPOCHS = 5
DEFAULT_EPOCHS_LONG = 15
DEFAULT_EPOCHS_FOLDS = 12
STAGES = (2 / 12, 5 / 12, 1.0)
"""Ends of stages, as shares of the epochs. The NLL within a stage says little: steps are large."""
FINISHING_EPOCHS = 2
FINISHING_RATE = 0.1
"""The last epochs of cross-validated networks, on all rows, and the factor of learning rates."""
FULL_ROWS = 128
"""Fits to fewer rows take as many steps as one to this many (`reports/archive/label-budget`)."""


def default_epochs(
    posterior: Posterior | type[Posterior],
    num_rows: int,
    *,
    validated: bool,
    cross_validated: bool = False,
) -> int:
    """Return the default number of epochs.

    Without validation rows to stop training it is short, since adapters separate the training rows
    early.

    Args:
        posterior: Posterior or its class.
        num_rows: Number of training rows.
        validated: Whether there are validation rows.
        cross_validated: Whether rows held out by cross-validation choose the number.
    """
    if validated and posterior.chooses_epoch:
        return DEFAULT_EPOCHS_LONG
    epochs = DEFAULT_EPOCHS_FOLDS if cross_validated and posterior.chooses_epoch else DEFAULT_EPOCHS
    return round(epochs * max(1.0, FULL_ROWS / num_rows))

"""Keywords that several functions share, or that few callers need: typed, and described, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class ColumnNames(TypedDict, total=False):
    """Names of columns in the data.

    Attributes:
        text_column: Column of the texts; `text` by default.
        label_column: Column of the labels; `label` by default.
        pair_column: Column of second texts; none by default.
        image_column: Column of image paths, relative to the file, for a vision model; not needed
            for data with a column `image` and no `text`, image directories and image arrays.
    """

    text_column: str | None
    label_column: str | None
    pair_column: str | None
    image_column: str | None


class Loading(TypedDict, total=False):
    """How a backbone is loaded.

    Attributes:
        dtype: Data type of the frozen weights: `auto` (default), `float32`, `bfloat16`.
        device: A torch device; by default the GPU if there is one.
        trust_remote_code: Whether code from the backbone's repository may run; by default not.
    """

    dtype: str
    device: str | None
    trust_remote_code: bool


class FitOptions(ColumnNames, total=False):
    """Further keywords of `BayesianClassifier.fit`, beside those of `ColumnNames`.

    Attributes:
        head_lr: Learning rate of a point estimate's last layer; 0.02 by default. The adapter and
            `VBLL` have their own options.
        patience: Epochs without a better validation NLL before training stops; 5 by default.
        keep_folds: Whether to keep the networks of the folds of `cv` as an ensemble, with a pass
            each, instead of one network; `cv="auto"` then means five folds.
        layer_sampling: `LayerSampling(...)`, or its options as a mapping or as text such as
            `num_active=2,interval=5`: trains only some layers of the adapter at a time. The adapter
            `LISA` has these options itself.
        quality_retaining: `QualityRetaining(...)`, its options as a mapping or as text such as
            `momentum=0.8`, or `True` for its defaults: a loss that keeps rows near recent logits of
            their class, weighted more as the task's loss falls.
        report_to: Experiment tracker that receives the loss and the validation metrics of each
            epoch, one run per network. TensorBoard's files are written to `runs/`.
        across_tasks: Whether to classify rows among the classes of all tasks, so that predictions
            need no task; otherwise among those of the row's own task.
    """

    head_lr: float | None
    patience: int
    keep_folds: bool
    layer_sampling: Any
    quality_retaining: Any
    report_to: Literal["tensorboard", "wandb", "mlflow"] | None
    across_tasks: bool


def check_keywords(function: str, options: Mapping[str, Any], typed: Any) -> None:
    """Raise TypeError for a keyword that a typed dictionary does not have."""
    for name in options:
        if name not in typed.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def columns_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of columns among keywords: `{"text": "review"}` for `text_column`."""
    end = "_column"
    return {name.removesuffix(end): value for name, value in options.items() if name.endswith(end)}

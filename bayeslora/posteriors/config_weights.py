"""What can be chosen about a posterior over adapter weights, free of torch.

Each of these predicts with `num_samples` draws, a pass of the adapted layers each, and 0 is one
pass of the mean weights. Their last layer is a plain point estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeslora.errors import InputError
from bayeslora.posteriors.config_checks import (
    check_choice,
    check_count,
    check_positive,
    is_number,
)

ANCHOR_LABELS = ("mean", "true")
KL_WEIGHTS = ("cyclic", "uniform")
METRICS = ("accuracy", "nll")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class SWAG:
    """A Gaussian with the mean and covariance of the weights that training passes through.

    Training takes all its epochs and keeps the last: the snapshots, not an epoch, are the result.

    Attributes:
        num_snapshots: Snapshots taken, evenly spaced.
        start: Share of the training after which the first may be taken.
        rank: Newest deviations from the running mean that are kept for the covariance.
        scale: Factor of the covariance; 0.5 makes diagonal and low-rank part count half each.
        schedule: Learning rate after the warm-up: `constant`, so that snapshots spread as wide at
            the end as at the start, or `cosine`.
        num_samples: Draws of a prediction.
    """

    num_snapshots: int = 20
    start: float = 0.5
    rank: int = 5
    scale: float = 0.5
    schedule: str = "constant"
    num_samples: int = 10

    name: ClassVar[str] = "swag"
    summary: ClassVar[str] = "Gaussian around the average of the weights in late training"
    source: ClassVar[str] = "Maddox et al. 2019, arXiv 1902.02476; Onal et al. 2024, 2405.03425"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "2 + rank numbers a trained weight"

    def __post_init__(self) -> None:
        check_count("num_snapshots", self.num_snapshots, least=2)
        check_count("rank", self.rank, least=2)
        if not is_number(self.start) or not 0 <= self.start < 1:
            raise InputError(f"start must be at least 0 and below 1, got {self.start!r}")
        check_positive("scale", self.scale)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_count("num_samples", self.num_samples, least=0)


@dataclass(frozen=True)
class TFB:
    """Training-free: isotropic noise on a trained adapter's directions, as wide as it may be.

    Attributes:
        tolerance: Loss of `metric` on the anchor rows that is allowed, relative to the mean
            weights' value.
        metric: `nll` or `accuracy`.
        labels: Whose labels the anchor rows are scored by: the `true` ones, or what the `mean`
            weights predict.
        num_anchors: Training rows in the search; all, where there are fewer.
        sigma_min: Smallest standard deviation in the search.
        sigma_max: Largest one. Both are of the change ΔW itself, the factor alpha / r included,
            along each of its r output directions.
        num_steps: Halvings of the interval between the two, on the scale of the logarithm.
        num_search_samples: Draws for each σ of the search, the same noise for all.
        num_samples: Draws of a prediction.
    """

    tolerance: float = 0.003
    metric: str = "nll"
    labels: str = "true"
    num_anchors: int = 500
    sigma_min: float = 1e-3
    sigma_max: float = 0.5
    num_steps: int = 6
    num_search_samples: int = 10
    num_samples: int = 10

    name: ClassVar[str] = "tfb"
    summary: ClassVar[str] = "noise added to a trained adapter, as wide as training rows allow"
    source: ClassVar[str] = "Shi et al. 2024, arXiv 2412.05723"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one"

    def __post_init__(self) -> None:
        for field in ("tolerance", "sigma_min", "sigma_max"):
            check_positive(field, getattr(self, field))
        if self.sigma_min >= self.sigma_max:
            raise InputError(
                f"sigma_min must be below sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}"
            )
        check_choice("metric", self.metric, METRICS)
        check_choice("labels", self.labels, ANCHOR_LABELS)
        for field in ("num_anchors", "num_steps", "num_search_samples"):
            check_count(field, getattr(self, field), least=1)
        check_count("num_samples", self.num_samples, least=0)


@dataclass(frozen=True)
class BLoB:
    """Mean-field Gaussian over one factor of each adapter, trained by back-propagation.

    With LoRA it is over `A`; with PoLAR over the core, the factors being point estimates.

    Attributes:
        prior_std: Standard deviation of the prior on an entry.
        initial_std: Largest standard deviation of an entry at the start; the smallest is half.
        kl_lr: Learning rate of the gradient steps on the KL, which follow the adapter's own; it
            rises and falls with the adapter's.
        kl_weights: Weight of the KL in a step: `uniform`, 1 / N, or `cyclic`, doubling from step
            to step in cycles in which the weights sum to one, as published.
        num_samples: Draws of a prediction.
    """

    prior_std: float = 0.2
    initial_std: float = 2.5e-3
    kl_lr: float = 0.01
    kl_weights: str = "uniform"
    num_samples: int = 10

    name: ClassVar[str] = "blob"
    summary: ClassVar[str] = "Gaussian over one factor of each adapter, trained with it"
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.11675"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one an entry of A, or of PoLAR's core"

    def __post_init__(self) -> None:
        for field in ("prior_std", "initial_std", "kl_lr"):
            check_positive(field, getattr(self, field))
        check_choice("kl_weights", self.kl_weights, KL_WEIGHTS)
        check_count("num_samples", self.num_samples, least=0)


WeightConfig = SWAG | TFB | BLoB

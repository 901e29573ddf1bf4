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


WeightConfig = SWAG

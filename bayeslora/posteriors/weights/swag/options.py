"""Options of SWAG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from bayeslora.errors import InputError
from bayeslora.option_checks import BelowOne, Draws, Positive, Range
from bayeslora.posteriors.base import FitPlan, Posterior


@dataclass(frozen=True)
class SWAG(Posterior):
    """A Gaussian with the mean and covariance of weights along the end of training.

    Training takes all its epochs and keeps the last: the snapshots, not an epoch, are the result.
    """

    num_snapshots: Annotated[int, Range(2), "Number of snapshots, evenly spaced."] = 20
    start: Annotated[
        BelowOne, "Share of the training after which the first snapshot may be taken."
    ] = 0.5
    rank: Annotated[
        int,
        Range(2),
        "Number of most recent deviations from the running mean kept for the covariance.",
    ] = 5
    scale: Annotated[
        Positive,
        "Factor on the covariance; with 0.5, the diagonal and the low-rank part count half each.",
    ] = 0.5
    schedule: Annotated[
        Literal["constant", "cosine"],
        "Learning rate after the warm-up: `constant`, so that late snapshots spread as widely as "
        "early ones, or `cosine`.",
    ] = "constant"
    num_samples: Draws = 10

    name: ClassVar[str] = "swag"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.swag.posterior:SWAGWeights.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian around the average of the weights in late training"
    use: ClassVar[str] = "Long training without choosing an epoch on validation data."
    source: ClassVar[str] = "Maddox et al. 2019, arXiv 1902.02476; Onal et al. 2024, 2405.03425"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "2 + rank numbers per trained weight"
    from_start: ClassVar[str] = "averages the weights during training"
    not_on_layers: ClassVar[str] = (
        "would estimate the spread of weights that are paused most of the time, which reflects "
        "when a layer was drawn and not how uncertain it is"
    )
    chooses_epoch: ClassVar[bool] = False

    def check_fit(self, plan: FitPlan) -> None:
        """Raise InputError if the training has room for fewer than two snapshots."""
        self.snapshot_steps(plan.num_steps)

    def snapshot_steps(self, num_steps: int) -> list[int]:
        """Return the steps, counted from 1, after which snapshots are taken in `num_steps` steps.

        They are evenly spaced and end with the last step.

        Raises:
            InputError: There is room for fewer than 2 snapshots.
        """
        first = int(self.start * num_steps)
        every = max(1, (num_steps - first) // self.num_snapshots)
        steps = list(range(num_steps, first, -every))[: self.num_snapshots][::-1]
        if len(steps) < 2:
            raise InputError(
                f"posterior 'swag' needs at least 2 snapshots for its covariance, but {num_steps} "
                f"training steps allow only {len(steps)} after the share start={self.start:g}; "
                "train for more epochs, use smaller batches, or lower start",
                code="too-short",
            )
        return steps

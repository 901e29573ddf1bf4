"""Options of SWAG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bayeslora.option_checks import BelowOne, Draws, Positive, Range
from bayeslora.posteriors.base import FitPlan, Posterior

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.types import Network
    from bayeslora.posteriors.weights.training import FinalFit, TrainingRun, WeightTraining


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
        from bayeslora.posteriors.weights.swag.training import snapshot_steps

        snapshot_steps(self, plan.num_steps)

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return running moments of all trained weights, including the last layer's."""
        from bayeslora.posteriors.weights.swag.posterior import SWAGWeights

        adapter = [parameter for site in network.sites for parameter in site.trainable().values()]
        return SWAGWeights(self, [*adapter, *network.head.parameters()])

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training that takes snapshots of the weights."""
        from bayeslora.posteriors.weights.swag.training import swag_training

        return swag_training(self, run)

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Set the weights to the mean of the snapshots."""
        from bayeslora.posteriors.weights.swag.posterior import SWAGWeights
        from bayeslora.posteriors.weights.training import own_weights

        own_weights(fit.network, SWAGWeights).put_mean()
        return True

"""Options of BLoB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from bayeslora.option_checks import Draws, Positive
from bayeslora.posteriors.base import KLRate, KLWeights, Posterior

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.types import Network
    from bayeslora.posteriors.weights.training import TrainingRun, WeightTraining


@dataclass(frozen=True)
class BLoB(Posterior):
    """Mean-field Gaussian over one factor of each adapter, trained by back-propagation.

    With LoRA it is over `A`; with PoLAR over the core, the factors being point estimates.
    """

    prior_std: Annotated[Positive, "Prior standard deviation of an entry."] = 0.2
    initial_std: Annotated[
        Positive, "Largest initial standard deviation of an entry; the smallest is half of it."
    ] = 2.5e-3
    kl_lr: KLRate = 0.01
    kl_weights: KLWeights = "uniform"
    num_samples: Draws = 10

    name: ClassVar[str] = "blob"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian over one factor of each adapter, trained with it"
    use: ClassVar[str] = "A posterior over adapter weights that is trained with them."
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.11675"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one per entry of A, or of PoLAR's core"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return a Gaussian over one factor of each adapter."""
        from bayeslora.posteriors.weights.blob.posterior import BLoBWeights
        from bayeslora.posteriors.weights.training import low_rank_sites

        return BLoBWeights(self, low_rank_sites(network), seed)

    def site_parameters(self, network: Network) -> Sequence[Sequence[nn.Parameter]]:
        """Return the root of each site's standard deviations."""
        from bayeslora.posteriors.weights.blob.posterior import BLoBWeights
        from bayeslora.posteriors.weights.training import own_weights

        weights = own_weights(network, BLoBWeights)
        return [[root] for root in weights.roots]

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, with a step on the KL after each adapter step."""
        from bayeslora.posteriors.weights.blob.posterior import BLoBWeights
        from bayeslora.posteriors.weights.kl_steps import noise_and_kl_steps
        from bayeslora.posteriors.weights.training import own_weights

        weights = own_weights(run.network, BLoBWeights)
        return noise_and_kl_steps(weights, run, kl_lr=self.kl_lr, kl_weights=self.kl_weights)

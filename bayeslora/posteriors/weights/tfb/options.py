"""Options of TFB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Draws, Positive
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.types import Network
    from bayeslora.posteriors.weights.training import FinalFit


@dataclass(frozen=True)
class TFB(Posterior):
    """Training-free: the widest isotropic noise on a trained adapter that a tolerance allows."""

    tolerance: Annotated[
        Positive,
        "Loss of `metric` on the anchor rows that is allowed, relative to the mean weights' value.",
    ] = 0.003
    metric: Annotated[Literal["accuracy", "nll"], "What is compared on the anchor rows."] = "nll"
    labels: Annotated[
        Literal["mean", "true"],
        "Whose labels the anchor rows are scored by: the `true` ones, or what the `mean` weights "
        "predict.",
    ] = "true"
    num_anchors: Annotated[Count, "Training rows in the search; all, where there are fewer."] = 500
    sigma_min: Annotated[Positive, "Smallest standard deviation in the search."] = 1e-3
    sigma_max: Annotated[
        Positive,
        "Largest one. Both are of the change ΔW itself, the factor alpha / r included, along each "
        "of its r output directions.",
    ] = 0.5
    num_steps: Annotated[
        Count, "Halvings of the interval between the two, on the scale of the logarithm."
    ] = 6
    num_search_samples: Annotated[
        Count, "Draws for each σ of the search, the same noise for all."
    ] = 10
    num_samples: Draws = 10

    name: ClassVar[str] = "tfb"
    over_trained: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "Gaussian noise on a trained adapter, within a limit on the training loss"
    )
    use: ClassVar[str] = "Uncertainty over a finished adapter, with no training and no gradient."
    source: ClassVar[str] = "Shi et al. 2024, arXiv 2412.05723"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one"
    over_factors: ClassVar[bool] = True
    not_idle: ClassVar[str] = "adds noise along what adapters learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise InputError(
                f"sigma_min must be below sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}",
                code="option",
            )

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return noise on the first factor of each adapter; zero before the search."""
        from bayeslora.posteriors.weights.tfb.posterior import TFBWeights
        from bayeslora.posteriors.weights.training import low_rank_sites

        return TFBWeights(low_rank_sites(network))

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Search for the widest noise tolerated on anchor rows; see `choose_sigma`."""
        from bayeslora.posteriors.weights.tfb.search import choose_sigma

        choose_sigma(self, fit)
        return True

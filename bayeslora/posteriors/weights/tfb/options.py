"""Options of TFB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bayeslora.errors import InputError
from bayeslora.option_checks import check_choice, check_count, check_positive
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.types import Network
    from bayeslora.posteriors.weights.training import FinalFit

ANCHOR_LABELS = ("mean", "true")
METRICS = ("accuracy", "nll")


@dataclass(frozen=True)
class TFB(Posterior):
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
    over_trained: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "noise added to a trained adapter, as wide as training rows allow"
    source: ClassVar[str] = "Shi et al. 2024, arXiv 2412.05723"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one"
    over_factors: ClassVar[bool] = True
    not_idle: ClassVar[str] = "adds noise along what adapters learned"

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

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return noise on the first factor of each adapter; none before the search."""
        from bayeslora.posteriors.weights.tfb.posterior import TFBWeights
        from bayeslora.posteriors.weights.training import low_rank_sites

        return TFBWeights(low_rank_sites(network))

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Search for the widest noise that some of the rows allow; see `choose_sigma`."""
        from bayeslora.posteriors.weights.tfb.search import choose_sigma

        choose_sigma(self, fit)
        return True

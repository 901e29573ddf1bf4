"""What can be chosen about a posterior over adapter weights, free of torch.

Each of these predicts with `num_samples` draws, a pass of the adapted layers each, and 0 is one
pass of the mean weights. Their last layer is a plain point estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import (
    check_below_one,
    check_choice,
    check_count,
    check_positive,
)
from bayeslora.posteriors.base import FitPlan, Posterior

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.training import FinalFit, TrainingRun, WeightTraining
    from bayeslora.posteriors.types import Network

ANCHOR_LABELS = ("mean", "true")
METRICS = ("accuracy", "nll")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class SWAG(Posterior):
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
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian around the average of the weights in late training"
    source: ClassVar[str] = "Maddox et al. 2019, arXiv 1902.02476; Onal et al. 2024, 2405.03425"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "2 + rank numbers a trained weight"
    from_start: ClassVar[str] = "averages the weights that training passes through"
    not_on_layers: ClassVar[str] = (
        "would take the spread of weights that rest most of the time: it says when a layer was "
        "drawn and not how uncertain it is"
    )
    chooses_epoch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("num_snapshots", self.num_snapshots, least=2)
        check_count("rank", self.rank, least=2)
        check_below_one("start", self.start)
        check_positive("scale", self.scale)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_count("num_samples", self.num_samples, least=0)

    def check_fit(self, plan: FitPlan) -> None:
        """Raise InputError if the training has room for fewer than two snapshots."""
        from bayeslora.posteriors.swag import snapshot_steps

        snapshot_steps(self, plan.num_steps)

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return running moments of all weights that are trained, the last layer's too."""
        from bayeslora.posteriors.swag import SWAGWeights

        adapter = [item for site in network.sites for item in site.trainable().values()]
        return SWAGWeights(self, [*adapter, *network.head.parameters()])

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training that is looked at after some of its steps."""
        from bayeslora.posteriors.swag import swag_training

        return swag_training(self, run)

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Put the mean of the snapshots in place."""
        from bayeslora.posteriors.swag import SWAGWeights
        from bayeslora.posteriors.training import own_weights

        own_weights(fit.network, SWAGWeights).put_mean()
        return True


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
        from bayeslora.posteriors.tfb import TFBWeights
        from bayeslora.posteriors.training import low_rank_sites

        return TFBWeights(low_rank_sites(network))

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Search for the widest noise that some of the rows allow; see `choose_sigma`."""
        from bayeslora.posteriors.tfb_search import choose_sigma

        choose_sigma(self, fit)
        return True


@dataclass(frozen=True)
class IVON(Posterior):
    """Gaussian with the curvature that a natural-gradient optimiser estimates while it trains.

    Attributes:
        ess: Effective number of rows: the larger, the narrower the posterior. The training rows'
            own number would be exact; the published recipe takes 1e6 to 1e8.
        hess_init: Curvature h of the loss at the start.
        lr: Learning rate; None takes the adapter's, divided by `clip_radius`: no entry then moves
            further in a step than the adapter's learning rate.
        clip_radius: Limit on each entry of the Newton step before the learning rate.
        beta1: Decay rate of the running gradient.
        beta2: Decay rate of the running curvature.
        weight_decay: δ, which adds `ess` · δ to the precision of every weight.
        num_samples: Draws of a prediction.
    """

    ess: float = 1e7
    hess_init: float = 1e-3
    lr: float | None = None
    clip_radius: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99999
    weight_decay: float = 0.0
    num_samples: int = 10

    name: ClassVar[str] = "ivon"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian with the curvature that the optimiser IVON estimates"
    source: ClassVar[str] = "Shen et al. 2024, arXiv 2402.17641; Cong et al. 2024, 2411.04421"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one an adapter weight"
    from_start: ClassVar[str] = "is trained together with the adapter"
    no_resting: ClassVar[str] = (
        "moves all weights at every step by one running mean, so that no layer could rest"
    )
    not_on_layers: ClassVar[str] = no_resting

    def __post_init__(self) -> None:
        for field in ("ess", "hess_init", "clip_radius"):
            check_positive(field, getattr(self, field))
        if self.lr is not None:
            check_positive("lr", self.lr)
        for field in ("beta1", "beta2"):
            check_below_one(field, getattr(self, field))
        if self.weight_decay != 0:
            check_positive("weight_decay", self.weight_decay)
        check_count("num_samples", self.num_samples, least=0)

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: It has a weight decay beside that of the optimiser, which moves its weights,
                or decay would shrink a part of the pretrained weight.
        """
        if adapter.weight_decay:
            raise InputError(
                "posterior 'ivon' moves the weights by an optimiser with a weight_decay of its own "
                f"(ivon:weight_decay={adapter.weight_decay:g}); leave that of adapter "
                f"{adapter.name!r} out, got {adapter.weight_decay:g}"
            )
        if self.weight_decay and adapter.from_weight:
            raise InputError(
                f"weight_decay of posterior 'ivon' is a prior around 0, and {adapter.name!r} "
                "starts from a part of the pretrained weight, which it would shrink; leave it at "
                f"0, or choose 'lora', got {self.weight_decay!r}"
            )
        return adapter

    def check_fit(self, plan: FitPlan) -> None:
        """Raise MissingAssetError if the optimiser's package is not installed."""
        from bayeslora.optim.ivon import require_ivon

        require_ivon()

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return the curvature of the adapter's weights that live on no manifold."""
        from bayeslora.posteriors.ivon import IVONWeights

        return IVONWeights(self, network.sites)

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training by IVON, each pass at a draw of the weights."""
        from bayeslora.posteriors.ivon import ivon_training

        return ivon_training(self, run)

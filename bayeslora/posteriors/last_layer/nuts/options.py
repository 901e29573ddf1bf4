"""Options of the Markov chain reference posterior, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bayeslora.option_checks import OnlyWith, check_choice, check_count, check_positive, check_share
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from bayeslora.posteriors.types import LastLayer

KERNELS = ("hmc", "nuts")


@dataclass(frozen=True)
class NUTS(Posterior):
    """The exact posterior of the last layer, sampled by Hamiltonian Monte Carlo: the reference.

    Attributes:
        prior_scale: Prior standard deviation of a logit.
        kernel: `nuts`, which fits the length of each trajectory to the posterior, or `hmc`, which
            draws it at random: quicker, with fewer effective draws a step.
        num_chains: Independent chains, run one after the other.
        num_warmup: Steps of each chain that adapt it and are thrown away.
        num_samples: Draws of each chain after that.
        max_draws: Draws kept for prediction, at most, evenly spaced over all chains; files and
            predictions grow with it.
        max_tree_depth: Limit of a `nuts` trajectory: 2 to this power steps.
        target_accept: Acceptance probability that the step size is adapted to.
    """

    prior_scale: float = 2.0
    kernel: str = "nuts"
    num_chains: int = 4
    num_warmup: int = 300
    num_samples: int = 1000
    max_draws: int = 1000
    max_tree_depth: int = 10
    target_accept: float = 0.8

    name: ClassVar[str] = "nuts"
    summary: ClassVar[str] = "exact posterior of the last layer by Markov chains: the reference"
    source: ClassVar[str] = "Hoffman and Gelman 2014, arXiv 1111.4246"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "max_draws last layers"
    moves_mean: ClassVar[bool] = True
    only_with: ClassVar[OnlyWith] = {"max_tree_depth": (("kernel", "nuts"),)}

    def __post_init__(self) -> None:
        check_positive("prior_scale", self.prior_scale)
        check_choice("kernel", self.kernel, KERNELS)
        for field in ("num_warmup", "max_draws"):
            check_count(field, getattr(self, field), least=1)
        check_count("num_chains", self.num_chains, least=1, most=1000)
        # A million gradients for a draw; beyond it the posterior is not what needs more of them.
        check_count("max_tree_depth", self.max_tree_depth, least=1, most=20)
        # Each chain is split in two, and a variance takes two draws.
        check_count("num_samples", self.num_samples, least=4)
        check_share("target_accept", self.target_accept)

    def make_head(
        self, num_features: int, num_classes: int, *, mean_sq_norm: float = 1.0, seed: int = 0
    ) -> LastLayer:
        """Return an untrained last layer."""
        from bayeslora.posteriors.last_layer.nuts.head import NUTSHead

        return NUTSHead(self, num_features, num_classes, mean_sq_norm=mean_sq_norm, seed=seed)

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return true: the chains know the features and the prior alone."""
        return True

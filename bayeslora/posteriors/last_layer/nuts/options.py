"""Options of the Markov chain reference posterior, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from bayeslora.option_checks import Count, OnlyWith, Range, Share
from bayeslora.posteriors.base import Posterior, PriorScale


@dataclass(frozen=True)
class NUTS(Posterior):
    """The exact posterior of the last layer, sampled by Hamiltonian Monte Carlo: the reference."""

    prior_scale: PriorScale = 2.0
    kernel: Annotated[
        Literal["hmc", "nuts"],
        "`nuts`, which adapts the length of each trajectory to the posterior, or `hmc`, with "
        "random lengths: faster, with fewer effective draws per step.",
    ] = "nuts"
    num_chains: Annotated[
        int, Range(1, 1000), "Number of independent chains, run one after the other."
    ] = 4
    num_warmup: Annotated[Count, "Warm-up steps of each chain, which are discarded."] = 300
    # Each chain is split in two, and a variance takes two draws.
    num_samples: Annotated[int, Range(4), "Draws of each chain after the warm-up."] = 1000
    max_draws: Annotated[
        Count,
        "Maximum number of draws kept for prediction, evenly spaced over all chains; files and "
        "predictions grow with it.",
    ] = 1000
    # At most a million gradients per draw; no reasonable posterior of a last layer needs more.
    max_tree_depth: Annotated[
        int,
        Range(1, 20),
        "Maximum tree depth: a `nuts` trajectory has at most 2 to this power steps.",
    ] = 10
    target_accept: Annotated[Share, "Target acceptance probability for adapting the step size."] = (
        0.8
    )

    name: ClassVar[str] = "nuts"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.nuts.head:NUTSHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.nuts.shared:SharedNUTSHead"
    summary: ClassVar[str] = "exact posterior of the last layer by Markov chains: the reference"
    use: ClassVar[str] = "A reference for measuring approximations of the last layer."
    source: ClassVar[str] = "Hoffman and Gelman 2014, arXiv 1111.4246"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "max_draws last layers"
    moves_mean: ClassVar[bool] = True
    only_with: ClassVar[OnlyWith] = {"max_tree_depth": (("kernel", "nuts"),)}

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True: the chains depend on the features and the prior only."""
        return True

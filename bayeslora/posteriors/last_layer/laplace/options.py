"""Options of the Laplace approximation of the last layer, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from bayeslora.option_checks import Draws, Link, Positive, Structure
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE, Posterior, PriorScale


@dataclass(frozen=True)
class Laplace(Posterior):
    """Laplace approximation of the last layer around its trained weights."""

    structure: Annotated[
        Structure, "Structure of the covariance of all head weights: `full`, `kron` or `diag`."
    ] = "kron"
    prior_precision: Annotated[
        Positive | Literal["marglik", "validation"],
        "Precision δ of the Gaussian prior on a weight. `validation` minimises the validation "
        "NLL, or means the precision of `prior_scale` if there are no validation rows; `marglik` "
        "maximises the marginal likelihood, which assumes that the mean weights are its optimum.",
    ] = "validation"
    prior_scale: Annotated[
        PriorScale, "Prior standard deviation of a logit while the mean weights are trained."
    ] = DEFAULT_PRIOR_SCALE
    link: Annotated[Link, "Link from logits to probabilities, also used for tuning."] = "mc"
    num_samples: Annotated[Draws, "Number of draws of the `mc` link."] = 1000

    name: ClassVar[str] = "laplace"
    compared: ClassVar[int | None] = 2
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.laplace.head:LaplaceHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.laplace.shared:SharedLaplaceHead"
    only_softens: ClassVar[bool] = True
    summary: ClassVar[str] = "Laplace approximation of the last layer, exact on cached features"
    use: ClassVar[str] = "Adding uncertainty to a finished, overconfident network."
    source: ClassVar[str] = "Daxberger et al. 2021, arXiv 2106.14806"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "the covariance of the last layer"

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True without an adapter: the weights are then the optimum for fixed features."""
        return not adapter_trains

    def as_chosen(self, chosen: Mapping[str, Any]) -> Laplace:
        """Return the options with the precision that a fit chose on validation rows."""
        if self.prior_precision != "validation":
            return self
        return replace(self, prior_precision=chosen["prior_precision"])

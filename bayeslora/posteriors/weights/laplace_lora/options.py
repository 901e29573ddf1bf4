"""Options of Laplace-LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from bayeslora.option_checks import Draws, Link, Positive, Structure
from bayeslora.posteriors.base import Posterior


@dataclass(frozen=True)
class LaplaceLoRA(Posterior):
    """Laplace approximation over the adapter's weights, linearised for prediction.

    Random are the factors A and B of LoRA, or the core Θ of PoLAR, and the last layer. The mean
    network is trained by maximum likelihood and stays as it is.
    """

    structure: Annotated[
        Structure,
        "Curvature: `kron`, two Kronecker factors per layer; `diag`; or `full`, one matrix over "
        "all random weights, if there are few.",
    ] = "kron"
    prior_precision: Annotated[
        Positive | Literal["marglik", "validation"],
        "Precision δ of the Gaussian prior on every random weight. `validation` minimises the "
        "validation NLL, or means `marglik` if there are no validation rows; `marglik` maximises "
        "the marginal likelihood, which assumes that the mean weights are its optimum.",
    ] = "validation"
    last_layer: Annotated[bool, "Whether the last layer is random too."] = True
    link: Annotated[Link, "Link from logits to probabilities, also used for tuning."] = "mc"
    num_samples: Annotated[
        Draws, "Number of draws of the `mc` link; 0 predicts with the mean weights."
    ] = 1000

    name: ClassVar[str] = "laplace_lora"
    weights: ClassVar[str] = (
        "bayeslora.posteriors.weights.laplace_lora.posterior:LaplaceLoRAWeights.of"
    )
    calls_once: ClassVar[bool] = True
    over_trained: ClassVar[bool] = True
    not_on_layers: ClassVar[str] = "is over the factors of an adapter, and whole layers have none"
    only_softens: ClassVar[bool] = True
    summary: ClassVar[str] = "linearised Laplace approximation over the adapter's weights"
    use: ClassVar[str] = "Uncertainty for a finished LoRA or PoLAR model with few classes."
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2308.13111"
    passes: ClassVar[str] = "2, and one backward pass per class"
    parameters: ClassVar[str] = "two Kronecker factors per adapter matrix"

    def as_chosen(self, chosen: Mapping[str, Any]) -> LaplaceLoRA:
        """Return the options with the precision that a fit chose on validation rows."""
        if self.prior_precision != "validation":
            return self
        return replace(self, prior_precision=chosen["prior_precision"])

    def num_passes(self, num_samples: int | None = None) -> int:
        """Return 2 forward passes: the mean has its own, to be bitwise identical."""
        return 2 if self.num_draws(num_samples) > 0 else 1

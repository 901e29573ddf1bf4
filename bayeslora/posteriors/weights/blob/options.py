"""Options of BLoB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bayeslora.option_checks import Draws, Positive
from bayeslora.posteriors.base import KLRate, KLWeights, Posterior


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
    weights: ClassVar[str] = "bayeslora.posteriors.weights.blob.posterior:BLoBWeights.of"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian over one factor of each adapter, trained with it"
    use: ClassVar[str] = "A posterior over adapter weights that is trained with them."
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.11675"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one per entry of A, or of PoLAR's core"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

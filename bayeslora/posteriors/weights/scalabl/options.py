"""Options of ScalaBL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import Draws, Positive
from bayeslora.posteriors.base import KLRate, KLWeights, Posterior


@dataclass(frozen=True)
class ScalaBL(Posterior):
    """Gaussian over the r scales of each LoRA adapter: a few random numbers per layer."""

    prior_std: Annotated[Positive, "Prior standard deviation of a scale."] = 1.0
    initial_std: Annotated[
        Positive,
        "Largest initial standard deviation of a scale; the smallest is 1 / √2 of it.",
    ] = 0.05
    kl_lr: KLRate = 0.2
    kl_weights: KLWeights = "uniform"
    num_samples: Draws = 10

    name: ClassVar[str] = "scalabl"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.scalabl.posterior:ScalaBLWeights.of"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian over the r scales of each LoRA adapter, trained with it"
    use: ClassVar[str] = "A posterior over LoRA with very few additional parameters."
    source: ClassVar[str] = "Samplawski et al. 2025, arXiv 2506.21408"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "3 r per layer"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"
    no_resting: ClassVar[str] = (
        "keeps the scales of all adapters in one parameter, which cannot be paused in part"
    )

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: The adapter has no first factor that may be scaled.
        """
        if not adapter.is_free:
            reason = "contains part of the pretrained weight, which a prior around 0 would shrink"
            raise InputError(
                "posterior 'scalabl' scales the free first factor of adapter 'lora'; that of "
                f"adapter {adapter.name!r} {reason if adapter.from_weight else 'is not free'}",
                code="no-free-factor",
            )
        return adapter

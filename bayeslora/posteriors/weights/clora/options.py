"""Options of C-LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Draws, Positive
from bayeslora.posteriors.base import KLWeights, Posterior


@dataclass(frozen=True)
class CLoRA(Posterior):
    """Gaussian over an r × r matrix inside each adapter, with moments that follow the token."""

    prior_std: Annotated[
        Positive, "Prior standard deviation of an entry; the prior mean is the identity."
    ] = 0.2
    initial_std: Annotated[
        Positive, "Largest initial standard deviation of an entry; the smallest is half of it."
    ] = 0.05
    num_hidden: Annotated[
        Count, "Hidden units of the small network that predicts mean and standard deviation."
    ] = 64
    kl_weights: KLWeights = "uniform"
    num_samples: Draws = 10

    name: ClassVar[str] = "clora"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.clora.posterior:CLoRAWeights.of"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian inside each adapter, with mean and variance set by the input"
    use: ClassVar[str] = "Uncertainty that depends on the input, for models that need no export."
    source: ClassVar[str] = "Rahmati et al. 2025, arXiv 2505.17773"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "a network with sizes r, num_hidden, 2 r² per layer"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"
    not_shared: ClassVar[str] = (
        "averages its KL over all tokens of a batch, of which each process has only some"
    )

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: Noise between its factors would act on a part of the pretrained weight, or
                its training changes the states between them.
        """
        if adapter.from_weight:
            raise InputError(
                "posterior 'clora' adds noise between the factors, and those of adapter "
                f"{adapter.name!r} contain part of the pretrained weight, which would be noisy "
                "from the start; choose 'lora' or 'polar'",
                code="factors-hold-weight",
            )
        if adapter.no_gate:
            raise InputError(
                "posterior 'clora' needs a gate between the factors, which adapter "
                f"{adapter.name!r} does not allow: {adapter.no_gate}",
                code="second-gate",
            )
        return adapter

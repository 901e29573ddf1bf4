"""What can be chosen about a variational posterior over adapter weights, free of torch.

These are trained with the adapter, by noise in each training pass and the gradient of a KL. They
predict with `num_samples` draws, and 0 is one pass of the mean weights. Their last layer is a plain
point estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import check_choice, check_count, check_positive
from bayeslora.posteriors.base import Posterior

if TYPE_CHECKING:
    from torch import nn

    from bayeslora.posteriors.training import FinalFit, TrainingRun, WeightTraining
    from bayeslora.posteriors.types import Network

KL_WEIGHTS = ("cyclic", "uniform")


@dataclass(frozen=True)
class BLoB(Posterior):
    """Mean-field Gaussian over one factor of each adapter, trained by back-propagation.

    With LoRA it is over `A`; with PoLAR over the core, the factors being point estimates.

    Attributes:
        prior_std: Standard deviation of the prior on an entry.
        initial_std: Largest standard deviation of an entry at the start; the smallest is half.
        kl_lr: Learning rate of the gradient steps on the KL, which follow the adapter's own; it
            rises and falls with the adapter's.
        kl_weights: Weight of the KL in a step: `uniform`, 1 / N, or `cyclic`, doubling from step
            to step in cycles in which the weights sum to one, as published.
        num_samples: Draws of a prediction.
    """

    prior_std: float = 0.2
    initial_std: float = 2.5e-3
    kl_lr: float = 0.01
    kl_weights: str = "uniform"
    num_samples: int = 10

    name: ClassVar[str] = "blob"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian over one factor of each adapter, trained with it"
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.11675"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one an entry of A, or of PoLAR's core"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

    def __post_init__(self) -> None:
        _check(self, "prior_std", "initial_std", "kl_lr")

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return a Gaussian over one factor of each adapter."""
        from bayeslora.posteriors.blob import BLoBWeights
        from bayeslora.posteriors.training import low_rank_sites

        return BLoBWeights(self, low_rank_sites(network), seed)

    def site_parameters(self, network: Network) -> Sequence[Sequence[nn.Parameter]]:
        """Return the root of each site's standard deviations."""
        from bayeslora.posteriors.blob import BLoBWeights
        from bayeslora.posteriors.training import own_weights

        weights = own_weights(network, BLoBWeights)
        return [[root] for root in weights.roots]

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, with a step on the KL after each of the adapter's."""
        from bayeslora.posteriors.blob import BLoBWeights
        from bayeslora.posteriors.kl_steps import noise_and_kl_steps
        from bayeslora.posteriors.training import own_weights

        weights = own_weights(run.network, BLoBWeights)
        return noise_and_kl_steps(weights, run, kl_lr=self.kl_lr, kl_weights=self.kl_weights)


@dataclass(frozen=True)
class ScalaBL(Posterior):
    """Gaussian over the r scales of each LoRA adapter: a few numbers a layer are random.

    Attributes:
        prior_std: Standard deviation of the prior on a scale.
        initial_std: Largest standard deviation of a scale at the start; the smallest is 1 / √2 of
            it.
        kl_lr: Learning rate of the gradient steps on the KL, which follow the adapter's own; it
            rises and falls with the adapter's.
        kl_weights: Weight of the KL in a step: `uniform`, 1 / N, or `cyclic`, as for BLoB.
        num_samples: Draws of a prediction.
    """

    prior_std: float = 1.0
    initial_std: float = 0.05
    kl_lr: float = 0.2
    kl_weights: str = "uniform"
    num_samples: int = 10

    name: ClassVar[str] = "scalabl"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian over the r scales of each LoRA adapter, trained with it"
    source: ClassVar[str] = "Samplawski et al. 2025, arXiv 2506.21408"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "3 r a layer"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"
    no_resting: ClassVar[str] = (
        "keeps the scales of all adapters in one parameter, which cannot rest in part"
    )

    def __post_init__(self) -> None:
        _check(self, "prior_std", "initial_std", "kl_lr")

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: Its first factor is not free to be scaled.
        """
        if not adapter.is_free:
            why = "starts from a part of the pretrained weight, which a prior around 0 would shrink"
            raise InputError(
                "posterior 'scalabl' scales the free first factor of adapter 'lora'; "
                f"{adapter.name!r} {why if adapter.from_weight else 'has none'}"
            )
        return adapter

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return a Gaussian over the scales of each adapter."""
        from bayeslora.posteriors.scalabl import ScalaBLWeights
        from bayeslora.posteriors.training import low_rank_sites

        return ScalaBLWeights(self, low_rank_sites(network), seed)

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, with a step on the KL after each of the adapter's."""
        from bayeslora.posteriors.kl_steps import noise_and_kl_steps
        from bayeslora.posteriors.scalabl import ScalaBLWeights
        from bayeslora.posteriors.training import own_weights

        weights = own_weights(run.network, ScalaBLWeights)
        return noise_and_kl_steps(weights, run, kl_lr=self.kl_lr, kl_weights=self.kl_weights)


@dataclass(frozen=True)
class CLoRA(Posterior):
    """Gaussian over an r × r matrix inside each adapter, with moments that follow the token.

    Attributes:
        prior_std: Standard deviation of the prior on an entry; its mean is the identity.
        initial_std: Largest standard deviation of an entry at the start; the smallest is half.
        num_hidden: Hidden units of the small network that gives mean and standard deviation.
        kl_weights: Weight of the KL in a step: `uniform`, 1 / N, or `cyclic`, as for BLoB.
        num_samples: Draws of a prediction.
    """

    prior_std: float = 0.2
    initial_std: float = 0.05
    num_hidden: int = 64
    kl_weights: str = "uniform"
    num_samples: int = 10

    name: ClassVar[str] = "clora"
    calls_once: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian inside each adapter whose mean and spread follow the input"
    source: ClassVar[str] = "Rahmati et al. 2025, arXiv 2505.17773"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "a network r, num_hidden, 2 r² a layer"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

    def __post_init__(self) -> None:
        _check(self, "prior_std", "initial_std")
        check_count("num_hidden", self.num_hidden, least=1)

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: Noise between its factors would act on a part of the pretrained weight, or
                its training moves what passes between them.
        """
        if adapter.from_weight:
            raise InputError(
                "posterior 'clora' puts noise between the factors, and those of "
                f"{adapter.name!r} carry a part of the pretrained weight, which would be noisy "
                "from the start; choose 'lora' or 'polar'"
            )
        if adapter.no_gate:
            raise InputError(
                f"posterior 'clora' puts a gate between the factors of {adapter.name!r}, and "
                f"{adapter.no_gate}"
            )
        return adapter

    def over_weights(self, network: Network, *, seed: int, fitted: bool = False) -> nn.Module:
        """Return gates between the factors of each adapter, which are attached here."""
        from bayeslora.posteriors.clora import CLoRAWeights
        from bayeslora.posteriors.training import low_rank_sites

        return CLoRAWeights(self, low_rank_sites(network), seed)

    def site_parameters(self, network: Network) -> Sequence[Sequence[nn.Parameter]]:
        """Return the parameters of each site's gate."""
        from bayeslora.posteriors.clora import CLoRAWeights
        from bayeslora.posteriors.training import own_weights

        weights = own_weights(network, CLoRAWeights)
        return [list(gate.parameters()) for gate in weights.gates]

    def training(self, run: TrainingRun) -> WeightTraining:
        """Return a training under noise, whose gradients have that of the KL added."""
        from bayeslora.posteriors.clora import clora_training

        return clora_training(self, run)

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Measure what the posterior reports of itself, on the training rows."""
        from bayeslora.posteriors.clora import CLoRAWeights, measure
        from bayeslora.posteriors.training import own_weights

        measure(fit.network, own_weights(fit.network, CLoRAWeights), fit.train[0])
        return False


def _check(config: BLoB | ScalaBL | CLoRA, *positive: str) -> None:
    for field in positive:
        check_positive(field, getattr(config, field))
    check_choice("kl_weights", config.kl_weights, KL_WEIGHTS)
    check_count("num_samples", config.num_samples, least=0)

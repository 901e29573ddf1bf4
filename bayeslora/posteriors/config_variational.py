"""What can be chosen about a variational posterior over adapter weights, free of torch.

These are trained with the adapter, by noise in each training pass and the gradient of a KL. They
predict with `num_samples` draws, and 0 is one pass of the mean weights. Their last layer is a plain
point estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeslora.option_checks import check_choice, check_count, check_positive
from bayeslora.posteriors.base import Posterior

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
    weights: ClassVar[str] = "bayeslora.posteriors.blob:BLoBWeights.on"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

    def __post_init__(self) -> None:
        _check(self, "prior_std", "initial_std", "kl_lr")


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
    weights: ClassVar[str] = "bayeslora.posteriors.scalabl:ScalaBLWeights.on"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"
    no_resting: ClassVar[str] = (
        "keeps the scales of all adapters in one parameter, which cannot rest in part"
    )

    def __post_init__(self) -> None:
        _check(self, "prior_std", "initial_std", "kl_lr")


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
    weights: ClassVar[str] = "bayeslora.posteriors.clora:CLoRAWeights.on"
    over_factors: ClassVar[bool] = True
    from_start: ClassVar[str] = "is trained together with the adapter"

    def __post_init__(self) -> None:
        _check(self, "prior_std", "initial_std")
        check_count("num_hidden", self.num_hidden, least=1)


def _check(config: BLoB | ScalaBL | CLoRA, *positive: str) -> None:
    for field in positive:
        check_positive(field, getattr(config, field))
    check_choice("kl_weights", config.kl_weights, KL_WEIGHTS)
    check_count("num_samples", config.num_samples, least=0)

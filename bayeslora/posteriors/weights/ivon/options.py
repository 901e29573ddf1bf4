"""Options of IVON."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, ClassVar

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.option_checks import BelowOne, Draws, NotNegative, Positive
from bayeslora.posteriors.base import FitPlan, Posterior


@dataclass(frozen=True)
class IVON(Posterior):
    """Gaussian with the curvature that a natural-gradient optimiser estimates while it trains."""

    ess: Annotated[
        Positive,
        "Effective number of rows: larger values give a narrower posterior. The number of "
        "training rows would be exact; the published recipe uses 1e6 to 1e8.",
    ] = 1e7
    hess_init: Annotated[Positive, "Initial curvature h of the loss."] = 1e-3
    lr: Annotated[
        Positive | None,
        "Learning rate; None means the adapter's, divided by `clip_radius`, so that no entry "
        "moves further in a step than the adapter's learning rate.",
    ] = None
    clip_radius: Annotated[
        Positive, "Limit on each entry of the Newton step, before the learning rate is applied."
    ] = 1e-3
    beta1: Annotated[BelowOne, "Decay rate of the running mean of the gradient."] = 0.9
    beta2: Annotated[BelowOne, "Decay rate of the running mean of the curvature."] = 0.99999
    weight_decay: Annotated[
        NotNegative, "δ, a prior around 0 that adds `ess` · δ to the precision of every weight."
    ] = 0.0
    num_samples: Draws = 10

    name: ClassVar[str] = "ivon"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.ivon.posterior:IVONWeights.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian with the curvature estimated by the optimiser IVON"
    use: ClassVar[str] = "A posterior from the optimiser, at the cost of ordinary training."
    source: ClassVar[str] = "Shen et al. 2024, arXiv 2402.17641; Cong et al. 2024, 2411.04421"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one per adapter weight"
    from_start: ClassVar[str] = "is trained together with the adapter"
    no_resting: ClassVar[str] = (
        "moves all weights at every step by a running mean, so no layer could be paused"
    )
    not_on_layers: ClassVar[str] = no_resting

    def check_fit(self, plan: FitPlan) -> None:
        """Check that the optimiser is installed."""
        require_ivon()

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: The adapter has its own weight decay beside the optimiser's, or weight decay
                would shrink a part of the pretrained weight.
        """
        if adapter.weight_decay:
            raise InputError(
                "posterior 'ivon' has its own weight decay "
                f"(ivon:weight_decay={adapter.weight_decay:g}); leave weight_decay of adapter "
                f"{adapter.name!r} out, got {adapter.weight_decay:g}",
                code="clash",
            )
        if self.weight_decay and adapter.from_weight:
            raise InputError(
                "weight_decay of posterior 'ivon' is a prior around 0, which would shrink the "
                f"part of the pretrained weight in the factors of adapter {adapter.name!r}; leave "
                f"it at 0, or choose 'lora', got {self.weight_decay!r}",
                code="factors-hold-weight",
            )
        return adapter


def require_ivon() -> None:
    """Check that the optimiser is installed.

    Raises:
        MissingAssetError: The package is not installed.
    """
    if find_spec("ivon") is None:
        raise MissingAssetError(
            "posterior 'ivon' needs the package ivon-opt, which is not installed: pip install "
            "bayeslora[ivon]"
        )

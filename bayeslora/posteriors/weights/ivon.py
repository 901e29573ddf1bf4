"""IVON: a Gaussian with a precision that a natural-gradient optimiser estimates in training.

    q(θ) = N(m, diag σ²),   σ² = 1 / (ess (h + δ))

m are the trained weights and h the optimiser's running estimate of the curvature of the mean loss.
With ess = N and a prior of precision N δ this is variational inference; the published recipe takes
ess far above N, a cold posterior. For LoRA it is over both factors. For PoLAR it is over the cores:
the orthonormal factors have their own optimiser, and noise would take them off the manifold.

Training is by IVON of the package `ivon-opt`, with support for checkpoints and exceptions:

    σ² = 1 / (ess (h + δ)),   θ = m + σ ε,   ĝ = ∇ℓ(θ),   ĥ = ĝ (θ − m) / σ²
    g ← β1 g + (1 − β1) ĝ
    h ← β2 h + (1 − β2) ĥ + ½ (1 − β2)² (h − ĥ)² / (h + δ)
    m ← m − lr · clip( (g / (1 − β1^t) + δ m) / (h + δ) )

Gaps of the package that are closed here: its number of steps t is in no state dictionary, so a
resumed run would correct g for bias again; a pass that raises leaves the drawn weights in place; a
parameter without a gradient raises; and running averages stay on the device of a loaded checkpoint.

Source: Shen et al. 2024, arXiv 2402.17641; for LoRA Cong, Daheim, Shen, Yokota, Khan and
Möllenhoff 2024, arXiv 2411.04421.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayeslora.adapters.base import Adapter, StepHook
from bayeslora.adapters.optimizers import euclidean_parameters
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.option_checks import BelowOne, Draws, NotNegative, Positive
from bayeslora.posteriors.base import FitFacts, Posterior
from bayeslora.posteriors.types import TrainingRun, WeightPosterior, WeightTraining
from bayeslora.posteriors.weights.draws import replaced, split_like, standard_normal


@dataclass(frozen=True)
class IVON(Posterior):
    """Gaussian with the curvature that a natural-gradient optimiser estimates while it trains."""

    ess: Positive = 1e7
    """Effective number of rows: larger values give a narrower posterior. The number of training
    rows would be exact; the published recipe uses 1e6 to 1e8."""
    hess_init: Positive = 1e-3
    """Initial curvature h of the loss."""
    lr: Positive | None = None
    """Learning rate; None means the adapter's, divided by `clip_radius`, so that no entry moves
    further in a step than the adapter's learning rate."""
    clip_radius: Positive = 1e-3
    """Limit on each entry of the Newton step, before the learning rate is applied."""
    beta1: BelowOne = 0.9
    """Decay rate of the running mean of the gradient."""
    beta2: BelowOne = 0.99999
    """Decay rate of the running mean of the curvature."""
    weight_decay: NotNegative = 0.0
    """δ, a prior around 0 that adds `ess` · δ to the precision of every weight."""
    num_samples: Draws = 10

    name: ClassVar[str] = "ivon"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.ivon:IVONWeights.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian with the curvature estimated by the optimiser IVON"
    use: ClassVar[str] = "A posterior from the optimiser, at the cost of ordinary training."
    source: ClassVar[str] = "Shen et al. 2024, arXiv 2402.17641; Cong et al. 2024, 2411.04421"
    passes: ClassVar[str] = "num_samples"
    from_start: ClassVar[str] = "is trained together with the adapter"

    def check_fit(self, facts: FitFacts) -> None:
        """Check that the optimiser is installed."""
        require_ivon()

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: The adapter has its own weight decay beside the optimiser's.
        """
        if adapter.weight_decay:
            raise InputError(
                "posterior 'ivon' has its own weight decay "
                f"(ivon:weight_decay={adapter.weight_decay:g}); leave weight_decay of adapter "
                f"{adapter.name!r} out, got {adapter.weight_decay:g}",
                code="clash",
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


_STEPS = "steps"


class IVONWeights(WeightPosterior):
    """The curvature that IVON estimated, around the trained weights.

    Attributes:
        hess: [P] float32, h of all random weights, concatenated.
    """

    hess: Tensor

    def __init__(self, config: IVON, sites: Sequence[Site], seed: int = 0) -> None:
        """Start with the initial curvature around the weights of `sites`, which keep them."""
        super().__init__()
        self._config = config
        self._weights = tuple(euclidean_parameters(sites))
        size = sum(parameter.numel() for parameter in self._weights)
        self.register_buffer("hess", torch.full((size,), config.hess_init))

    @property
    def std(self) -> Tensor:
        """[P]: the standard deviation σ of each weight."""
        config = self._config
        return (config.ess * (self.hess + config.weight_decay)).rsqrt()

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Set the weights to one draw within the context, then restore the means."""
        values = [
            mean.detach() + std * standard_normal(mean, generator)
            for mean, std in zip(self._weights, split_like(self.std, self._weights), strict=True)
        ]
        with replaced(self._weights, values):
            yield

    def weight_training(self, run: TrainingRun) -> WeightTraining:
        """Return a training with a draw for each pass, and IVON as the adapter's optimiser."""
        config = self._config
        optimizers: list[Optimizer] = []

        def build(parameters: list[nn.Parameter]) -> Optimizer:
            optimizer = build_ivon(
                parameters,
                lr=config.lr or run.adapter.learning_rate / config.clip_radius,
                ess=config.ess,
                hess_init=config.hess_init,
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=config.weight_decay,
                clip_radius=config.clip_radius,
            )
            optimizers.append(optimizer)
            return optimizer

        return WeightTraining(
            noise=lambda _: sampled(optimizers[-1]),
            callbacks=(Curvature(self, optimizers),),
            optimizer=build,
        )

    def report(self) -> dict[str, float | str]:
        """Return the root mean square standard deviation of a weight."""
        return {"weight_std": float(self.std.square().mean().sqrt())}


def build_ivon(parameters: Sequence[nn.Parameter], **options: Any) -> Optimizer:
    """Return IVON with one group, whose `hess` [P] is the concatenated h of all parameters.

    Args:
        parameters: Parameters with the same device and dtype.
        options: `lr`, `ess`, `hess_init`, `beta1`, `beta2`, `weight_decay` (δ), `clip_radius`. The
            learning rate is not multiplied by `hess_init`.

    Raises:
        MissingAssetError: The package is not installed.
    """
    require_ivon()
    import ivon

    optimizer: Optimizer = ivon.IVON(list(parameters), rescale_lr=False, **options)
    optimizer.param_groups[0][_STEPS] = 0
    optimizer.register_step_pre_hook(_recall_steps)
    optimizer.register_step_post_hook(_keep_steps)
    return optimizer


@contextmanager
def sampled(optimizer: Any) -> Iterator[None]:
    """Set the weights to a draw for one forward and backward pass, then restore the mean.

    The draw is from torch's global generator. The optimiser's next step uses the gradients of the
    pass. After an exception the mean is restored, and no gradient is used.
    """
    group = optimizer.param_groups[0]
    for name in ("hess", "momentum"):
        group[name] = group[name].to(group["params"][0].device)
    # Samples are stored by name in a state that the optimisers of a fit share and replace.
    optimizer._reset_samples()
    mean = [parameter.detach().clone() for parameter in group["params"]]
    try:
        with optimizer.sampled_params(train=True):
            yield
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
    except BaseException:
        with torch.no_grad():
            for parameter, value in zip(group["params"], mean, strict=True):
                parameter.copy_(value)
        raise


class Curvature(StepHook):
    """Keeps the posterior's curvature equal to the optimiser's."""

    def __init__(self, weights: IVONWeights, optimizers: list[Optimizer]) -> None:
        self._weights = weights
        self._optimizers = optimizers

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Copy the curvature of the last step."""
        self._weights.hess.copy_(self._optimizers[-1].param_groups[0]["hess"])


def _recall_steps(optimizer: Any, args: Any, kwargs: Any) -> None:
    del args, kwargs
    optimizer.current_step = optimizer.param_groups[0][_STEPS]


def _keep_steps(optimizer: Any, args: Any, kwargs: Any) -> None:
    del args, kwargs
    optimizer.param_groups[0][_STEPS] = optimizer.current_step

"""Options of TFB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Draws, Positive
from bayeslora.posteriors.base import Posterior


@dataclass(frozen=True)
class TFB(Posterior):
    """Training-free: the widest isotropic noise on a trained adapter that a tolerance allows."""

    tolerance: Annotated[
        Positive,
        "Allowed degradation of `metric` on the anchor rows, relative to its value for the mean "
        "weights.",
    ] = 0.003
    metric: Annotated[Literal["accuracy", "nll"], "Metric compared on the anchor rows."] = "nll"
    labels: Annotated[
        Literal["mean", "true"],
        "Labels of the anchor rows: the `true` labels, or the predictions of the `mean` weights.",
    ] = "true"
    num_anchors: Annotated[Count, "Maximum number of training rows in the search."] = 500
    sigma_min: Annotated[Positive, "Smallest standard deviation of the search."] = 1e-3
    sigma_max: Annotated[
        Positive,
        "Largest standard deviation of the search. Both are of the change ΔW itself, including "
        "the factor alpha / r, along each of its r output directions.",
    ] = 0.5
    num_steps: Annotated[
        Count, "Bisections of the interval between the two, on a logarithmic scale."
    ] = 6
    num_search_samples: Annotated[
        Count, "Draws for each σ of the search, with the same noise for all σ."
    ] = 10
    num_samples: Draws = 10

    name: ClassVar[str] = "tfb"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.tfb.posterior:TFBWeights.of"
    over_trained: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "Gaussian noise on a trained adapter, within a limit on the training loss"
    )
    use: ClassVar[str] = "Uncertainty for a finished adapter, without training or gradients."
    source: ClassVar[str] = "Shi et al. 2024, arXiv 2412.05723"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "one"
    over_factors: ClassVar[bool] = True
    not_idle: ClassVar[str] = "adds noise along the directions that adapters learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise InputError(
                f"sigma_min must be below sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}",
                code="option",
            )

"""Options of point estimates of the last layer, with and without a temperature; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeslora.errors import InputError
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE, FitPlan, Posterior, PriorScale


@dataclass(frozen=True)
class MLE(Posterior):
    """Maximum likelihood: softmax regression on the features.

        Ŵ = argmin −(1/N) Σ_n log softmax(W φ_n)[y_n]

    There is no prior.
    """

    name: ClassVar[str] = "mle"
    compared: ClassVar[int | None] = 0
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "point estimate, plain cross-entropy"
    use: ClassVar[str] = "The baseline without uncertainty about the weights."
    source: ClassVar[str] = "Bridle 1990, doi 10.1007/978-3-642-76153-9_28"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"


@dataclass(frozen=True)
class MAP(Posterior):
    """Maximum a posteriori under a Gaussian prior on the head weights.

        Ŵ = argmin −(1/N) Σ_n log softmax(W φ_n)[y_n] + ‖W‖² / (2 σ0² N) ,   σ0² = τ² / mean ‖φ‖²

    τ is the prior scale.
    """

    prior_scale: PriorScale = DEFAULT_PRIOR_SCALE

    name: ClassVar[str] = "map"
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "point estimate with a Gaussian prior on the last layer"
    use: ClassVar[str] = (
        "A point estimate for few or separable examples, where `mle` would be overconfident."
    )
    source: ClassVar[str] = "MacKay 1992, doi 10.1162/neco.1992.4.3.448"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True without an adapter: the weights are then the optimum for fixed features."""
        return not adapter_trains


@dataclass(frozen=True)
class TemperatureScaling(Posterior):
    """A point estimate whose logits are divided by a temperature.

        p(y | x) = softmax(z(x) / T) ,   T = argmin −Σ_n log softmax(z(x_n) / T)[y_n]

    The sum is over held-out rows.
    """

    name: ClassVar[str] = "temperature"
    compared: ClassVar[int | None] = 1
    is_point: ClassVar[bool] = True
    head: ClassVar[str] = "bayeslora.posteriors.point:TemperedHead.of"
    shared_head: ClassVar[str] = head
    learns_from: ClassVar[str] = "validation"
    summary: ClassVar[str] = "point estimate with one temperature fitted to held-out rows"
    use: ClassVar[str] = "Held-out labels, and no need for epistemic uncertainty."
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "one"

    def check_fit(self, plan: FitPlan) -> None:
        """Check that there are validation rows."""
        if not plan.is_validated:
            raise InputError(
                "posterior 'temperature' needs validation data: a temperature fitted to the rows "
                "that the network was trained on is too low",
                code="needs-validation",
            )

"""Options of the generative last layer, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Positive, Range
from bayeslora.posteriors.base import FitPlan, Posterior


@dataclass(frozen=True)
class GVBLL(Posterior):
    """Generative last layer: Gaussian features of each class, with a random mean."""

    shrinkage: Annotated[
        Annotated[float, Range(above=0, high=1)] | Literal["ledoit-wolf", "validation"],
        "Weight ρ with which the covariance of the features is shrunk towards a multiple of the "
        "identity. `validation` minimises the validation NLL, or the five-fold cross-validated "
        "NLL if there are no validation rows; `ledoit-wolf` minimises the expected squared error "
        "of the covariance.",
    ] = "validation"
    inflation: Annotated[
        Positive | Literal["validation"],
        "Factor on that covariance: the likelihood of a row's features is raised to the power 1 "
        "/ `inflation`. `validation` as above; 1 leaves the Gaussian as it is.",
    ] = "validation"
    prior_rows: Annotated[
        Positive,
        "Strength of the prior on a class mean, in rows: its covariance is that of the features "
        "divided by this number.",
    ] = 1.0
    num_samples: Annotated[
        Count,
        "Draws of the means, which split the uncertainty into its parts; probabilities are in "
        "closed form.",
    ] = 200

    name: ClassVar[str] = "gvbll"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.gvbll.head:GVBLLHead"
    per_class: ClassVar[str] = "models the features of each class"
    summary: ClassVar[str] = "generative last layer: Gaussian features per class, random means"
    use: ClassVar[str] = (
        "Detecting inputs far from the training data, with held-out examples to choose its options."
    )
    source: ClassVar[str] = "Harrison, Willes and Snoek 2024, arXiv 2404.11599"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "a covariance of the features"
    moves_mean: ClassVar[bool] = True

    def as_chosen(self, chosen: Mapping[str, Any]) -> GVBLL:
        """Return the options with the shrinkage and inflation that a fit chose on validation rows.

        Args:
            chosen: Report of the fitted last layer.
        """
        options = {"shrinkage": self.shrinkage, "inflation": self.inflation}
        open_options = [name for name, value in options.items() if value == "validation"]
        return replace(self, **{name: chosen[name] for name in open_options})

    @property
    def needs_held_out(self) -> bool:
        """Whether an option is chosen on rows that the network was not trained on."""
        return "validation" in (self.shrinkage, self.inflation)

    def check_fit(self, plan: FitPlan) -> None:
        """Check that there are validation rows if needed, and no cross-validation."""
        if plan.cross_validates:
            raise InputError(
                "cv has no effect on posterior 'gvbll', whose logits do not grow with its "
                "features; inflation sets its confidence. Leave cv out",
                code="no-effect",
            )
        if self.needs_held_out and plan.adapter_trains and not plan.is_validated:
            raise InputError(
                "posterior 'gvbll' needs validation data: the features of training rows are too "
                "well separated to choose shrinkage and inflation; give validation data, or set "
                "both to numbers",
                code="needs-validation",
            )

"""Options of the variational last layer, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Draws, Link, OnlyWith, Positive, Range
from bayeslora.posteriors.base import (
    DEFAULT_PRIOR_SCALE,
    FEW_ROWS,
    FitPlan,
    HeadTraining,
    Posterior,
)
from bayeslora.posteriors.cost import FitCost

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.posteriors.types import LastLayer

SPREAD_PRIOR_SCALE = 0.5
"""Prior standard deviation of a logit around the trained mean, in gradient steps."""
PRIOR_SCALE_GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CROSS_VALIDATION: Literal["cross-validation"] = "cross-validation"

ClosedFormBound = Literal["gauss_hermite", "jensen", "knowles_minka", "tilted"]
Bound = Literal["gauss_hermite", "jensen", "knowles_minka", "mc", "tilted"]
Covariance = Literal["auto", "dense", "diagonal", "eigenbasis", "full", "low_rank"]
# The basis of `eigenbasis` is that of the final features.
TrainingCovariance = Literal["dense", "diagonal", "full", "low_rank"]
HeadStep = Literal["gradient", "joint", "refit"]

BOUNDS: tuple[Bound, ...] = get_args(Bound)
CLOSED_FORM_BOUNDS: tuple[ClosedFormBound, ...] = get_args(ClosedFormBound)
# They depend on the variances of logits only, and would drive covariances between classes to zero.
MARGINAL_BOUNDS = ("jensen", "knowles_minka")
COUPLED = ("full",)  # covariances between classes
AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class VBLL(Posterior):
    """Variational Bayesian last layer: a Gaussian over the weights of each class."""

    prior_scale: Annotated[
        Positive | Literal["auto", "cross-validation", "empirical-bayes", "validation"],
        "Prior standard deviation of a logit. In the closed-form refit, `empirical-bayes` "
        "maximises the ELBO (0.5 if the means are fixed), `validation` takes the power of 2 from "
        "0.25 to 16 with the lowest validation NLL, or is `empirical-bayes` if there are no "
        "validation rows, and `cross-validation` takes 8 or the maximum of the ELBO, by the NLL "
        "of five-fold cross-validation on the training rows. `auto` is `cross-validation` in a "
        "fit to at most 256 rows without an adapter and validation rows, else `empirical-bayes`.",
    ] = AUTO
    training_prior_scale: Annotated[
        Positive | None,
        "Prior standard deviation of a logit while the adapter trains; None means `prior_scale` "
        "if that is a number. Otherwise gradient steps use a prior around the means, so that only "
        f"deviations are penalised, with scale {SPREAD_PRIOR_SCALE:g}; refits of the means use "
        f"scale {DEFAULT_PRIOR_SCALE:g}.",
    ] = None
    bound: Annotated[
        Bound,
        "Bound on the expected log-likelihood that the adapter trains against: `jensen`, "
        "`knowles_minka`, `tilted` (the only closed form that uses covariances between classes; "
        "equal to `knowles_minka` without them), `gauss_hermite` (two classes, exact) or `mc` "
        "(sampled, unbiased).",
    ] = "jensen"
    polish_bound: Annotated[
        ClosedFormBound, "Bound of the final fit: any of these except `mc`."
    ] = "knowles_minka"
    polish_mean: Annotated[
        Literal["validation", "refit", "trained"],
        "Means of the final fit. `refit`: fitted in closed form, with the covariances. "
        "`trained`: those of the last training step; only the covariances are refitted. "
        "`validation`: whichever of the two has the lower validation NLL. Without validation "
        "rows, `validation` means `refit` in `calibrate`, without an adapter and with "
        "`head_step=refit`; otherwise it means `trained`.",
    ] = "validation"
    covariance: Annotated[
        Covariance,
        "Covariance of the weights after the closed-form refit: per class `dense`, `diagonal`, "
        "`eigenbasis` (diagonal along the eigenvectors of the features' second moment, which "
        "classes share), or `low_rank` (diagonal plus `rank` directions); `full` over all "
        "classes. `auto` means `dense`, or `eigenbasis` (logged) if a dense covariance would "
        "take most of a minute or more than 100 MB.",
    ] = AUTO
    rank: Annotated[Count, "Number of directions of a `low_rank` covariance."] = 16
    head_step: Annotated[
        HeadStep,
        "How the head trains with the adapter: `gradient` steps before each step of the adapter, "
        "one `joint` gradient for both, or a closed-form `refit` under `bound` (under "
        "`polish_bound` if `bound` is sampled).",
    ] = "gradient"
    training_covariance: Annotated[
        TrainingCovariance, "Covariance of the weights while the adapter trains."
    ] = "diagonal"
    head_lr: Annotated[Positive, "Learning rate of the head's gradient steps."] = 2e-2
    head_steps: Annotated[
        int, Range(1, 1000), "Gradient steps of the head per step of the adapter."
    ] = 1
    refits_per_epoch: Annotated[
        Count, "Closed-form refits per epoch if `head_step` is `refit`."
    ] = 2
    num_bound_samples: Annotated[int, Range(1, 1000), "Number of draws of the `mc` bound."] = 16
    laplace_refinement: Annotated[
        bool,
        "Whether to replace the refit's covariance by the Laplace covariance at the same mean.",
    ] = False
    link: Annotated[Link, "Link from logits to probabilities."] = "mc"
    num_samples: Annotated[Draws, "Number of draws of the `mc` link."] = 1000

    name: ClassVar[str] = "vbll"
    compared: ClassVar[int | None] = 3
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.vbll.head:VBLLHead.of"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.vbll.shared:SharedVBLLHead.of"
    scales_logits: ClassVar[bool] = True
    summary: ClassVar[str] = "variational Bayesian last layer, refitted in closed form"
    use: ClassVar[str] = "The default. One pass per prediction, with or without validation data."
    source: ClassVar[str] = "Harrison, Willes and Snoek 2024, arXiv 2404.11599"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "one covariance per class"
    moves_mean: ClassVar[bool] = True
    settled_options: ClassVar[tuple[str, ...]] = ("covariance",)
    only_with: ClassVar[OnlyWith] = {
        "rank": (("covariance", "low_rank"), ("training_covariance", "low_rank")),
        "num_bound_samples": (("bound", "mc"),),
        "refits_per_epoch": (("head_step", "refit"),),
        "head_steps": (("head_step", "gradient"),),
        "head_lr": (("head_step", "gradient"), ("head_step", "joint")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_seen("polish_bound", self.polish_bound, "covariance", self.covariance)
        _check_seen("bound", self.bound, "training_covariance", self.training_covariance)
        if self.head_step == "refit" and self.bound == "mc":
            _check_seen(
                "polish_bound", self.polish_bound, "training_covariance", self.training_covariance
            )

    def variants(
        self, num_classes: int, num_features: int, num_rows: int
    ) -> list[tuple[VBLL, FitCost]]:
        """Return the options with each covariance that `auto` allows, and the cost of its fit."""
        from bayeslora.posteriors.last_layer.vbll.families import fit_cost

        families: tuple[Covariance, ...] = (self.covariance,)
        if self.covariance == AUTO:
            # Options share one weight vector, so no classes share a basis.
            families = ("dense",) if num_classes == 1 else ("dense", "eigenbasis")
        variants = [self.with_family(family) for family in families]
        return [
            (variant, fit_cost(variant, num_classes, num_features, num_rows))
            for variant in variants
        ]

    def with_family(self, family: Covariance) -> VBLL:
        """Return the options with `auto` replaced by a family of covariances."""
        return replace(self, covariance=family) if self.covariance == AUTO else self

    def head_training(self) -> HeadTraining:
        """Return the configured step, with its count and learning rate."""
        count = self.refits_per_epoch if self.head_step == "refit" else self.head_steps
        return HeadTraining(self.head_step, count, self.head_lr)

    def check_fit(self, plan: FitPlan) -> None:
        """Check that the bounds support the number of classes."""
        check_classes(self, plan.num_classes)

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return whether the means are refitted, as they always are without an adapter."""
        return not adapter_trains or self.polish_mean != "trained"

    def start_from(self, head: LastLayer) -> Tensor:
        """Return the mean weights of `head`.

        For another VBLL these are the trained means, so that they can be kept here too.
        """
        return head.trained_mean

    def settled(self, plan: FitPlan) -> VBLL:
        """Return the options with means chosen without validation rows.

        For a last layer on frozen features of few rows, the prior is chosen too.

        Means that were trained are kept: those of a closed-form fit are too large once the adapter
        has separated the training rows (rule 15 of `benchmarks/label_budget`).
        """
        if plan.is_validated:
            return self
        config, few = self, plan.num_rows <= FEW_ROWS
        if not plan.adapter_trains and few and self.prior_scale == AUTO:
            config = replace(config, prior_scale=CROSS_VALIDATION)
        if self.polish_mean != "validation":
            return config
        keeps = plan.head_trains and self.head_step != "refit"
        return replace(config, polish_mean="trained" if keeps else "refit")

    def as_chosen(self, chosen: Mapping[str, Any]) -> VBLL:
        """Return the options with the means and prior that a fit chose on validation rows.

        Args:
            chosen: Report of the fitted last layer.
        """
        means, scale = self.polish_mean, self.prior_scale
        training = self.training_prior_scale
        if means == "validation":
            means = chosen.get("polish_mean", means)
        if scale == "validation":
            # The training prior does not change.
            training = DEFAULT_PRIOR_SCALE if training is None else training
            scale = chosen.get("prior_scale", scale)
        return replace(self, polish_mean=means, prior_scale=scale, training_prior_scale=training)


def check_classes(config: VBLL, num_classes: int) -> None:
    """Raise InputError for a bound that does not support the number of classes.

    Raises:
        InputError: The bound is for two classes, and there are more.
    """
    for field, allowed in (("bound", BOUNDS), ("polish_bound", CLOSED_FORM_BOUNDS)):
        if getattr(config, field) == "gauss_hermite" and num_classes != 2:
            alternatives = ", ".join(repr(name) for name in allowed if name != "gauss_hermite")
            raise InputError(
                f"{field} 'gauss_hermite' needs two classes, got {num_classes}: it integrates "
                f"over the difference of two logits; choose from {alternatives}",
                code="option",
            )


def _check_seen(bound_field: str, bound: str, covariance_field: str, covariance: str) -> None:
    if covariance in COUPLED and bound in MARGINAL_BOUNDS:
        choices = CLOSED_FORM_BOUNDS if bound_field == "polish_bound" else BOUNDS
        allowed = ", ".join(sorted(set(choices) - set(MARGINAL_BOUNDS)))
        raise InputError(
            f"{covariance_field} {covariance!r} cannot be combined with {bound_field} {bound!r}, "
            "which ignores covariances between classes and would drive them to zero; choose "
            f"{bound_field} from {allowed}",
            code="option",
        )

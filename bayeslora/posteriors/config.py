"""What can be chosen about a posterior: one frozen dataclass a method, free of torch.

Every prior scale here is τ, the prior standard deviation of a logit: features reach the head with
mean ‖φ‖² = 1 (or the mean is divided out), so τ means the same for every backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bayeslora.errors import InputError
from bayeslora.option_checks import (
    check_choice,
    check_count,
    check_flag,
    check_positive,
    check_positive_or_name,
    check_share,
)
from bayeslora.option_values import LINKS, STRUCTURES, OnlyWith
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE, Posterior

if TYPE_CHECKING:
    from bayeslora.posteriors.vbll_cost import FitCost

PRIOR_SCALE_GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CROSS_VALIDATION = "cross-validation"

BOUNDS = ("gauss_hermite", "jensen", "knowles_minka", "mc", "tilted")
CLOSED_FORM_BOUNDS = ("gauss_hermite", "jensen", "knowles_minka", "tilted")
# They see the variances of logits alone, and would drive covariances between classes to zero.
MARGINAL_BOUNDS = ("jensen", "knowles_minka")
COVARIANCES = ("dense", "diagonal", "eigenbasis", "full", "low_rank")
# The basis is that of the final features.
TRAINING_COVARIANCES = ("dense", "diagonal", "full", "low_rank")
AUTO = "auto"
HEAD_STEPS = ("gradient", "joint", "refit")
POLISH_MEANS = ("validation", "refit", "trained")


@dataclass(frozen=True)
class MLE(Posterior):
    """Maximum likelihood: softmax regression on the features, no prior."""

    name: ClassVar[str] = "mle"
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "point estimate, plain cross-entropy"
    source: ClassVar[str] = "Bridle 1990, doi 10.1007/978-3-642-76153-9_28"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    head: ClassVar[str] = "bayeslora.posteriors.heads:mle"


@dataclass(frozen=True)
class MAP(Posterior):
    """Maximum a posteriori under a Gaussian prior on the head weights.

    Attributes:
        prior_scale: Prior standard deviation of a logit.
    """

    prior_scale: float = DEFAULT_PRIOR_SCALE

    name: ClassVar[str] = "map"
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "point estimate with a Gaussian prior on the last layer"
    source: ClassVar[str] = "MacKay 1992, doi 10.1162/neco.1992.4.3.448"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    head: ClassVar[str] = "bayeslora.posteriors.heads:map_estimate"

    def __post_init__(self) -> None:
        check_positive("prior_scale", self.prior_scale)


@dataclass(frozen=True)
class VBLL(Posterior):
    """Variational Bayesian last layer: a Gaussian over the weights of each class.

    Attributes:
        prior_scale: Prior standard deviation of a logit. At the polish, `empirical-bayes` takes
            the maximum of the ELBO (0.5 where means are held), and `validation` the best of
            `PRIOR_SCALE_GRID` by validation NLL, or what empirical Bayes gives where there are no
            validation rows; `cross-validation` takes 8 or the maximum of the ELBO, by the NLL of
            five parts of the training rows. `auto` is `cross-validation` in a fit without an
            adapter and validation rows to at most 256 rows, else `empirical-bayes`.
        training_prior_scale: Prior standard deviation of a logit while the adapter trains; None
            takes `prior_scale`, and `DEFAULT_PRIOR_SCALE` where that is a name.
        bound: Bound on the expected log-likelihood that the adapter trains against: `jensen`,
            `knowles_minka`, `tilted` (the only closed form that sees covariances between classes;
            the same as `knowles_minka` without them), `gauss_hermite` (two classes, exact) or `mc`
            (sampled, unbiased).
        polish_bound: Bound of the final fit: any of these but `mc`.
        polish_mean: Means of the final fit: `refit` in closed form with the covariances, held as
            they were `trained` while the covariances are fitted, or `validation`, whichever of
            the two has the lower validation NLL. Where there are no validation rows, `calibrate`
            refits, and `fit` keeps those that were trained, at a higher rate where steps are few;
            without an adapter, and of few steps without held-out rows, it refits.
        covariance: Covariance of the weights after the polish: for each class `dense`, `diagonal`,
            `eigenbasis` (diagonal along the eigenvectors of the features' second moment, which
            classes share), or `low_rank` (diagonal plus `rank` directions); `full` over all
            classes. `auto` takes `dense`, or `eigenbasis` where that would take minutes, which is
            said.
        rank: Directions of a `low_rank` covariance.
        head_step: How the head follows the adapter: `gradient` steps before each of the adapter's,
            one `joint` gradient for both, or a closed-form `refit` under `bound` (under
            `polish_bound` where `bound` is sampled).
        training_covariance: Covariance of the weights while the adapter trains.
        head_lr: Learning rate of the head's gradient steps.
        head_steps: Gradient steps of the head for each step of the adapter.
        refits_per_epoch: Closed-form refits in an epoch, where `head_step` is `refit`.
        num_bound_samples: Draws of the `mc` bound.
        laplace_refinement: Replace the polished covariance by the Laplace one at the same mean.
        link: How logits become probabilities.
        num_samples: Draws of the `mc` link.
    """

    prior_scale: float | str = AUTO
    training_prior_scale: float | None = None
    bound: str = "jensen"
    polish_bound: str = "knowles_minka"
    polish_mean: str = "validation"
    covariance: str = AUTO
    rank: int = 16
    head_step: str = "gradient"
    training_covariance: str = "diagonal"
    head_lr: float = 5e-3
    head_steps: int = 1
    refits_per_epoch: int = 2
    num_bound_samples: int = 16
    laplace_refinement: bool = False
    link: str = "mc"
    num_samples: int = 1000

    name: ClassVar[str] = "vbll"
    scales_logits: ClassVar[bool] = True
    summary: ClassVar[str] = "variational Bayesian last layer, polished in closed form"
    source: ClassVar[str] = "Harrison, Willes and Snoek 2024, arXiv 2404.11599"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "a covariance a class"
    head: ClassVar[str] = "bayeslora.posteriors.heads:vbll"
    only_with: ClassVar[OnlyWith] = {
        "rank": (("covariance", "low_rank"), ("training_covariance", "low_rank")),
        "num_bound_samples": (("bound", "mc"),),
        "refits_per_epoch": (("head_step", "refit"),),
        "head_steps": (("head_step", "gradient"),),
        "head_lr": (("head_step", "gradient"), ("head_step", "joint")),
    }

    def __post_init__(self) -> None:
        names = (AUTO, "validation", "empirical-bayes", CROSS_VALIDATION)
        check_positive_or_name("prior_scale", self.prior_scale, names)
        if self.training_prior_scale is not None:
            check_positive("training_prior_scale", self.training_prior_scale)
        check_choice("bound", self.bound, BOUNDS)
        check_choice("polish_bound", self.polish_bound, CLOSED_FORM_BOUNDS)
        check_choice("polish_mean", self.polish_mean, POLISH_MEANS)
        check_choice("covariance", self.covariance, (AUTO, *COVARIANCES))
        check_choice("head_step", self.head_step, HEAD_STEPS)
        check_choice("training_covariance", self.training_covariance, TRAINING_COVARIANCES)
        check_choice("link", self.link, LINKS)
        check_positive("head_lr", self.head_lr)
        _check_seen("polish_bound", self.polish_bound, "covariance", self.covariance)
        _check_seen("bound", self.bound, "training_covariance", self.training_covariance)
        if self.head_step == "refit" and self.bound == "mc":
            _check_seen(
                "polish_bound", self.polish_bound, "training_covariance", self.training_covariance
            )
        for field in ("rank", "refits_per_epoch"):
            check_count(field, getattr(self, field), least=1)
        # All of them between two steps of the adapter, where no bar shows them.
        for field in ("head_steps", "num_bound_samples"):
            check_count(field, getattr(self, field), least=1, most=1000)
        check_count("num_samples", self.num_samples, least=0)
        check_flag("laplace_refinement", self.laplace_refinement)

    def variants(
        self, num_classes: int, num_features: int, num_rows: int
    ) -> list[tuple[VBLL, FitCost]]:
        """Return the options with each covariance that they leave open, and what its fit costs."""
        from bayeslora.posteriors.vbll_cost import vbll_variants

        return vbll_variants(self, num_classes, num_features, num_rows)

    def as_chosen(self, chosen: Mapping[str, Any]) -> VBLL:
        """Return these options with the means and prior that a fit has chosen by validation rows.

        Args:
            chosen: What its last layer reports.
        """
        means, scale = self.polish_mean, self.prior_scale
        training = self.training_prior_scale
        if means == "validation":
            means = chosen.get("polish_mean", means)
        if scale == "validation":
            # The prior of the training stays what it was.
            training = DEFAULT_PRIOR_SCALE if training is None else training
            scale = chosen.get("prior_scale", scale)
        return replace(self, polish_mean=means, prior_scale=scale, training_prior_scale=training)


@dataclass(frozen=True)
class Laplace(Posterior):
    """Laplace approximation of the last layer around its trained weights.

    Attributes:
        structure: Covariance of all head weights: `full`, `kron` or `diag`.
        prior_precision: Precision δ of the Gaussian prior on a weight; `validation` minimises the
            validation NLL, and takes the precision of `prior_scale` where there are no validation
            rows; `marglik` maximises the marginal likelihood, which presumes that the mean weights
            are its optimum.
        prior_scale: Prior standard deviation of a logit while the mean weights are trained.
        link: How logits become probabilities; the same link is used for tuning.
        num_samples: Draws of the `mc` link.
    """

    structure: str = "kron"
    prior_precision: float | str = "validation"
    prior_scale: float = DEFAULT_PRIOR_SCALE
    link: str = "mc"
    num_samples: int = 1000

    name: ClassVar[str] = "laplace"
    only_softens: ClassVar[bool] = True
    summary: ClassVar[str] = "Laplace approximation of the last layer, exact on cached features"
    source: ClassVar[str] = "Daxberger et al. 2021, arXiv 2106.14806"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "a covariance of the last layer"
    head: ClassVar[str] = "bayeslora.posteriors.heads:laplace"

    def __post_init__(self) -> None:
        check_choice("structure", self.structure, STRUCTURES)
        check_positive_or_name("prior_precision", self.prior_precision, ("marglik", "validation"))
        check_positive("prior_scale", self.prior_scale)
        check_choice("link", self.link, LINKS)
        check_count("num_samples", self.num_samples, least=0)

    def as_chosen(self, chosen: Mapping[str, Any]) -> Laplace:
        """Return these options with the precision that a fit has chosen by validation rows."""
        if self.prior_precision != "validation":
            return self
        return replace(self, prior_precision=chosen["prior_precision"])


@dataclass(frozen=True)
class TemperatureScaling(Posterior):
    """A point estimate whose logits are divided by a temperature fitted to held-out rows."""

    name: ClassVar[str] = "temperature"
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "validation"
    summary: ClassVar[str] = "point estimate with one temperature fitted to held-out rows"
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "one"
    head: ClassVar[str] = "bayeslora.posteriors.heads:tempered"


@dataclass(frozen=True)
class MCDropout(Posterior):
    """Monte Carlo dropout: the network's own dropout kept alive while predicting.

    Attributes:
        p: Dropout probability on the input of LoRA; other adapters have none, and the backbone's
            dropout keeps its own probability.
        num_samples: Passes through the network.
    """

    p: float = 0.1
    num_samples: int = 10

    name: ClassVar[str] = "mc_dropout"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "dropout left on while predicting, several passes"
    source: ClassVar[str] = "Gal and Ghahramani 2016, arXiv 1506.02142"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "none"
    from_start: ClassVar[str] = (
        "runs a network that was trained with dropout, and learns nothing from rows"
    )

    def __post_init__(self) -> None:
        check_share("p", self.p)
        check_count("num_samples", self.num_samples, least=0)


@dataclass(frozen=True)
class Ensemble(Posterior):
    """Several adapters and heads, trained from different seeds on one frozen backbone.

    Attributes:
        num_members: How many.
    """

    num_members: int = 3

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "independently trained adapters, averaged"
    source: ClassVar[str] = "Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474"
    passes: ClassVar[str] = "num_members"
    parameters: ClassVar[str] = "an adapter and a last layer a member"
    from_start: ClassVar[str] = "consists of several trained networks"

    def __post_init__(self) -> None:
        check_count("num_members", self.num_members, least=1, most=1000)  # a fit each


def check_classes(config: VBLL, num_classes: int) -> None:
    """Complain about a bound that is not for so many classes.

    Raises:
        InputError: It is for two, and there are more.
    """
    for field, allowed in (("bound", BOUNDS), ("polish_bound", CLOSED_FORM_BOUNDS)):
        if getattr(config, field) == "gauss_hermite" and num_classes != 2:
            others = ", ".join(repr(name) for name in allowed if name != "gauss_hermite")
            raise InputError(
                f"{field} 'gauss_hermite' is for two classes, not {num_classes}: its quadrature is "
                f"over the one difference of two logits; choose from {others}"
            )


def _check_seen(bound_field: str, bound: str, covariance_field: str, covariance: str) -> None:
    if covariance == "full" and bound in MARGINAL_BOUNDS:
        known = CLOSED_FORM_BOUNDS if bound_field == "polish_bound" else BOUNDS
        allowed = ", ".join(sorted(set(known) - set(MARGINAL_BOUNDS)))
        raise InputError(
            f"{covariance_field} 'full' cannot go with {bound_field} {bound!r}, which sees no "
            f"covariance between classes and would drive it to zero; choose from {allowed}"
        )

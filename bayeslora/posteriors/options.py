"""Options of every posterior: what a user may set, and what the method needs; free of torch.

The method itself is in the file of its name, in `last_layer/` or `weights/`; point estimates are in
`point.py`, and an ensemble is nothing but several networks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Interval

from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.option_checks import (
    LARGEST_COUNT,
    BelowOne,
    Count,
    Draws,
    Link,
    NotNegative,
    OnlyWith,
    Positive,
    Share,
    Structure,
    UpTo1000,
)
from bayeslora.posteriors.base import (
    DEFAULT_PRIOR_SCALE,
    FEW_ROWS,
    FactorPosterior,
    FitFacts,
    KLWeights,
    Posterior,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.backbones.encoder import PreparedTexts
    from bayeslora.posteriors.last_layer.prototypes import PrototypeHead
    from bayeslora.posteriors.types import FinalFit, LastLayer, Network, WeightPosterior


logger = logging.getLogger(__name__)


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

    prior_scale: Positive = DEFAULT_PRIOR_SCALE
    """Prior standard deviation of a logit."""

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

    def check_fit(self, facts: FitFacts) -> None:
        """Check that there are validation rows."""
        if not facts.is_validated:
            raise InputError(
                "posterior 'temperature' needs validation data: a temperature fitted to the rows "
                "that the network was trained on is too low",
                code="needs-validation",
            )


SPREAD_PRIOR_SCALE = 0.5
"""Prior standard deviation of a logit around the trained mean, in gradient steps."""
CROSS_VALIDATION: Literal["cross-validation"] = "cross-validation"
AUTO: Literal["auto"] = "auto"

ClosedFormBound = Literal["jensen", "knowles_minka"]
Bound = Literal["jensen", "knowles_minka", "mc"]
Covariance = Literal["auto", "dense", "diagonal", "eigenbasis"]
ScaleChoice = Literal["auto", "cross-validation", "empirical-bayes"]

LARGEST_ROUND = 5e10
"""Largest number of multiplications per round of a fit for which `auto` is dense: at most three
minutes per fit on one core. 20 classes of 1,000 rows with 384 features take 8e9, 400 of 2,000 rows
3e11."""
LARGEST_MEGABYTES = 100.0
"""Largest stored size for which `auto` is dense: 77 classes with 576 features take 51."""
MEAN_STEPS, TILT = 120, 4e4
"""Steps of a round in the search for the means, and multiplications that a tilt is worth."""


@dataclass(frozen=True)
class VBLL(Posterior):
    """Variational Bayesian last layer: a Gaussian over the weights of each class."""

    prior_scale: Positive | ScaleChoice = AUTO
    """Prior standard deviation of a logit. In the closed-form refit, `empirical-bayes` maximises
    the ELBO (0.5 if the means are fixed), and `cross-validation` takes 8 or the maximum of the
    ELBO, by the NLL of five-fold cross-validation on the training rows. `auto` is
    `cross-validation` in a fit to at most 256 rows without an adapter and validation rows, else
    `empirical-bayes`."""
    training_prior_scale: Positive | None = None
    """Prior standard deviation of a logit while the adapter trains; None means `prior_scale` if
    that is a number, and otherwise a prior around the means, so that only deviations are penalised,
    with scale 0.5."""
    bound: Bound = "jensen"
    """Bound on the expected log-likelihood that the adapter trains against: `jensen`,
    `knowles_minka` or `mc` (sampled, unbiased)."""
    polish_bound: ClosedFormBound = "knowles_minka"
    """Bound of the final fit: `jensen` or `knowles_minka`."""
    polish_mean: Literal["validation", "refit", "trained"] = "validation"
    """Means of the final fit. `refit`: fitted in closed form, with the covariances. `trained`:
    those of the last training step; only the covariances are refitted. `validation`: whichever of
    the two has the lower validation NLL. Without validation rows, `validation` means `refit` in
    `calibrate` and without an adapter; otherwise it means `trained`."""
    covariance: Covariance = AUTO
    """Covariance of the weights after the closed-form refit, per class: `dense`, `diagonal`, or
    `eigenbasis` (diagonal along the eigenvectors of the features' second moment, which classes
    share). `auto` means `dense`, or `eigenbasis` (logged) if a dense covariance would take most of
    a minute or more than 100 MB. It is diagonal while the adapter trains."""
    head_lr: Positive = 2e-2
    """Learning rate of the head's gradient steps."""
    head_steps: UpTo1000 = 1
    """Gradient steps of the head per step of the adapter."""
    num_bound_samples: UpTo1000 = 16
    """Number of draws of the `mc` bound."""
    laplace_refinement: bool = False
    """Whether to replace the refit's covariance by the Laplace covariance at the same mean."""
    link: Link = "mc"
    """Link from logits to probabilities."""
    num_samples: Draws = 1000
    """Number of draws of the `mc` link."""

    name: ClassVar[str] = "vbll"
    compared: ClassVar[int | None] = 3
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.vbll.head:VBLLHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.vbll.head:SharedVBLLHead.of"
    scales_logits: ClassVar[bool] = True
    summary: ClassVar[str] = "variational Bayesian last layer, refitted in closed form"
    use: ClassVar[str] = "The default. One pass per prediction, with or without validation data."
    source: ClassVar[str] = "Harrison, Willes and Snoek 2024, arXiv 2404.11599"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "one covariance per class"
    moves_mean: ClassVar[bool] = True
    settled_options: ClassVar[tuple[str, ...]] = ("covariance",)
    only_with: ClassVar[OnlyWith] = {"num_bound_samples": (("bound", "mc"),)}
    retired: ClassVar[Mapping[str, str]] = {
        "head_step": "the head takes `head_steps` gradient steps per step of the adapter",
        "rank": "choose covariance=dense, diagonal or eigenbasis, which have no rank",
        "refits_per_epoch": "the head takes `head_steps` gradient steps per step of the adapter",
        "training_covariance": "it is diagonal; `covariance` is that of the final fit",
    }

    def sized(self, num_classes: int, num_features: int, num_rows: int) -> VBLL:
        """Return the options with `auto` resolved: `dense`, unless that is too large.

        Multiplications and bytes are counted, not seconds, so every machine decides alike.
        """
        if self.covariance != AUTO:
            return self
        rank = min(num_rows, num_features)
        # C matrices are formed, factorised and solved for N rows; then steps of means and tilts.
        work = num_classes * rank * (2.0 * num_rows * rank + rank**2 / 3)
        work += num_classes * num_rows * (MEAN_STEPS * num_features + TILT)
        megabytes = 4e-6 * (num_classes * num_features * (num_features + 1) // 2)
        # Options share one weight vector, so no classes share a basis.
        if num_classes == 1 or (work <= LARGEST_ROUND and megabytes <= LARGEST_MEGABYTES):
            return self.with_family("dense")
        logger.warning(
            "covariance=dense with %d classes and %d features, fitted to %d rows, would take "
            "minutes or %.0f MB; using covariance=eigenbasis instead (to override: "
            "vbll:covariance=dense)",
            num_classes,
            num_features,
            num_rows,
            megabytes,
        )
        return self.with_family("eigenbasis")

    def with_family(self, family: Covariance) -> VBLL:
        """Return the options with `auto` replaced by a family of covariances."""
        return replace(self, covariance=family) if self.covariance == AUTO else self

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return whether the means are refitted, as they always are without an adapter."""
        return not adapter_trains or self.polish_mean != "trained"

    def start_from(self, head: LastLayer) -> Tensor:
        """Return the mean weights of `head`.

        For another VBLL these are the trained means, so that they can be kept here too.
        """
        return head.trained_mean

    def settled(self, facts: FitFacts) -> VBLL:
        """Return the options with means chosen without validation rows.

        For a last layer on frozen features of few rows, the prior is chosen too.

        Means that were trained are kept: those of a closed-form fit are too large once the adapter
        has separated the training rows (`reports/archive/label-budget`).
        """
        if facts.is_validated:
            return self
        config, few = self, facts.num_rows <= FEW_ROWS
        if not facts.adapter_trains and few and self.prior_scale == AUTO:
            config = replace(config, prior_scale=CROSS_VALIDATION)
        if self.polish_mean != "validation":
            return config
        return replace(config, polish_mean="trained" if facts.head_trains else "refit")

    def as_chosen(self, chosen: Mapping[str, Any]) -> VBLL:
        """Return the options with the means that a fit chose on validation rows.

        Args:
            chosen: Report of the fitted last layer.
        """
        if self.polish_mean != "validation":
            return self
        return replace(self, polish_mean=chosen.get("polish_mean", self.polish_mean))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options in a record; bounds and priors of earlier versions by the nearest.

        Raises:
            InputError: The covariance of the fit is of a family of earlier versions.
        """
        chosen = super().from_record(record)
        family = chosen.get("covariance")
        if family in ("full", "low_rank"):
            raise InputError(
                f"the model's covariance is {family!r}, which only earlier versions of bayeslora "
                "read; calibrate it there with vbll:covariance=dense, or fit it again",
                code="option",
            )
        for field in ("bound", "polish_bound"):
            if chosen.get(field) in ("gauss_hermite", "tilted"):
                chosen[field] = "knowles_minka"
        if chosen.get("prior_scale") == "validation":
            chosen["prior_scale"] = "empirical-bayes"
        return chosen


Shrinkage = Annotated[float, Interval(gt=0, le=1)] | Literal["ledoit-wolf"]


@dataclass(frozen=True)
class GVBLL(Posterior):
    """Generative last layer: Gaussian features of each class, with a random mean."""

    shrinkage: Shrinkage | Literal["validation"] = "validation"
    """Weight ρ with which the covariance of the features is shrunk towards a multiple of the
    identity. `validation` minimises the validation NLL, or the five-fold cross-validated NLL if
    there are no validation rows; `ledoit-wolf` minimises the expected squared error of the
    covariance."""
    inflation: Positive | Literal["validation"] = "validation"
    """Factor on that covariance: the likelihood of a row's features is raised to the power 1 /
    `inflation`. `validation` as above; 1 leaves the Gaussian as it is."""
    prior_rows: Positive = 1.0
    """Strength of the prior on a class mean, in rows: its covariance is that of the features
    divided by this number."""
    num_samples: Count = 200
    """Draws of the means, which split the uncertainty into its parts; probabilities are in closed
    form."""

    name: ClassVar[str] = "gvbll"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.gvbll:GVBLLHead"
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

    def check_fit(self, facts: FitFacts) -> None:
        """Check that there are validation rows if needed, and no cross-validation."""
        if facts.cross_validates:
            raise InputError(
                "cv has no effect on posterior 'gvbll', whose logits do not grow with its "
                "features; inflation sets its confidence. Leave cv out",
                code="no-effect",
            )
        if self.needs_held_out and facts.adapter_trains and not facts.is_validated:
            raise InputError(
                "posterior 'gvbll' needs validation data: the features of training rows are too "
                "well separated to choose shrinkage and inflation; give validation data, or set "
                "both to numbers",
                code="needs-validation",
            )


@dataclass(frozen=True)
class Laplace(Posterior):
    """Laplace approximation of the last layer around its trained weights."""

    structure: Structure = "kron"
    """Structure of the covariance of all head weights: `full`, `kron` or `diag`."""
    prior_precision: Positive | Literal["marglik", "validation"] = "validation"
    """Precision δ of the Gaussian prior on a weight. `validation` minimises the validation NLL, or
    means the precision of `prior_scale` if there are no validation rows; `marglik` maximises the
    marginal likelihood, which assumes that the mean weights are its optimum."""
    prior_scale: Positive = DEFAULT_PRIOR_SCALE
    """Prior standard deviation of a logit while the mean weights are trained."""
    link: Link = "mc"
    """Link from logits to probabilities, also used for tuning."""
    num_samples: Draws = 1000
    """Number of draws of the `mc` link."""

    name: ClassVar[str] = "laplace"
    compared: ClassVar[int | None] = 2
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.laplace:LaplaceHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.laplace:SharedLaplaceHead"
    only_softens: ClassVar[bool] = True
    summary: ClassVar[str] = "Laplace approximation of the last layer, exact on cached features"
    use: ClassVar[str] = "Adding uncertainty to a finished, overconfident network."
    source: ClassVar[str] = "Daxberger et al. 2021, arXiv 2106.14806"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "the covariance of the last layer"

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True without an adapter: the weights are then the optimum for fixed features."""
        return not adapter_trains

    def as_chosen(self, chosen: Mapping[str, Any]) -> Laplace:
        """Return the options with the precision that a fit chose on validation rows."""
        if self.prior_precision != "validation":
            return self
        return replace(self, prior_precision=chosen["prior_precision"])


@dataclass(frozen=True)
class NUTS(Posterior):
    """The exact posterior of the last layer, sampled by Hamiltonian Monte Carlo: the reference."""

    prior_scale: Positive = 2.0
    """Prior standard deviation of a logit."""
    kernel: Literal["hmc", "nuts"] = "nuts"
    """`nuts`, which adapts the length of each trajectory to the posterior, or `hmc`, with random
    lengths: faster, with fewer effective draws per step."""
    num_chains: UpTo1000 = 4
    """Number of independent chains, run one after the other."""
    num_warmup: Count = 300
    """Warm-up steps of each chain, which are discarded."""
    # Each chain is split in two, and a variance takes two draws.
    num_samples: Annotated[int, Interval(ge=4, le=LARGEST_COUNT)] = 1000
    """Draws of each chain after the warm-up."""
    max_draws: Count = 1000
    """Maximum number of draws kept for prediction, evenly spaced over all chains; files and
    predictions grow with it."""
    # At most a million gradients per draw; no reasonable posterior of a last layer needs more.
    max_tree_depth: Annotated[int, Interval(ge=1, le=20)] = 10
    """Maximum tree depth: a `nuts` trajectory has at most 2 to this power steps."""
    target_accept: Share = 0.8
    """Target acceptance probability for adapting the step size."""

    name: ClassVar[str] = "nuts"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.nuts:NUTSHead"
    shared_head: ClassVar[str] = "bayeslora.posteriors.last_layer.nuts:SharedNUTSHead"
    summary: ClassVar[str] = "exact posterior of the last layer by Markov chains: the reference"
    use: ClassVar[str] = "A reference for measuring approximations of the last layer."
    source: ClassVar[str] = "Hoffman and Gelman 2014, arXiv 1111.4246"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "max_draws last layers"
    moves_mean: ClassVar[bool] = True
    only_with: ClassVar[OnlyWith] = {"max_tree_depth": (("kernel", "nuts"),)}

    def starts_over(self, *, adapter_trains: bool) -> bool:
        """Return True: the chains depend on the features and the prior only."""
        return True


@dataclass(frozen=True)
class Prototypes(Posterior):
    """A point estimate for classes with few rows: logits are cosines with the mean of each class.

    G-VBLL is its Bayesian counterpart: means are random there, and distances are those of a
    Gaussian.
    """

    scale: Positive | None = None
    """Factor on the cosines. None means the factor that the adapter was tuned with (as with `amt`),
    else one chosen on validation rows, or by leave-one-out if there are none."""

    name: ClassVar[str] = "prototypes"
    head: ClassVar[str] = "bayeslora.posteriors.last_layer.prototypes:PrototypeHead"
    per_class: ClassVar[str] = "uses the mean feature of each class"
    summary: ClassVar[str] = "point estimate, cosine with the mean feature of each class"
    use: ClassVar[str] = "Few examples per class, or classes not seen in training."
    source: ClassVar[str] = "Snell, Swersky and Zemel 2017, arXiv 1703.05175"
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    moves_mean: ClassVar[bool] = True

    def before_last_layer(self, fit: FinalFit) -> bool:
        """Take over the scale of an adapter that was tuned with one."""
        if self.scale is None:
            cast("PrototypeHead", fit.network.head).take_scale(fit.network.sites)
        return False


@dataclass(frozen=True)
class Ensemble(Posterior):
    """Several adapters and heads, trained from different seeds on one frozen backbone.

        p(y | x) = (1/M) Σ_m p_m ,   p_m = softmax(z_m(x))
        epistemic uncertainty = H[p] − (1/M) Σ_m H[p_m]

    H is the entropy, and M is `num_members`.
    """

    num_members: UpTo1000 = 3
    """Number of networks, each with its own fit."""

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "independently trained adapters, averaged"
    use: ClassVar[str] = "The best probabilities, if several fits and passes are affordable."
    source: ClassVar[str] = "Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474"
    passes: ClassVar[str] = "num_members"
    parameters: ClassVar[str] = "an adapter and a last layer per member"
    from_start: ClassVar[str] = "consists of several trained networks"
    has_members: ClassVar[bool] = True


@dataclass(frozen=True)
class MCDropout(Posterior):
    """Monte Carlo dropout: the network's own dropout stays on in prediction.

        p(y | x) = (1/S) Σ_s softmax(z(x; ε_s)) ,   ε_s the dropout mask of pass s

    S is `num_samples`.
    """

    p: Share = 0.1
    """Dropout probability on the input of LoRA; other adapters have no dropout, and the backbone's
    dropout keeps its own probability."""
    num_samples: Draws = 10
    """Number of passes through the network."""

    name: ClassVar[str] = "mc_dropout"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.mc_dropout:MCDropoutDraws.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "dropout kept active at prediction, several passes"
    use: ClassVar[str] = "A model trained with dropout, and time for several passes per prediction."
    source: ClassVar[str] = "Gal and Ghahramani 2016, arXiv 1506.02142"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "none"
    from_start: ClassVar[str] = (
        "runs a network that was trained with dropout, and is not fitted to rows"
    )
    not_on_layers: ClassVar[str] = ""

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter with dropout, if it supports one.

        Raises:
            InputError: A probability is set for an adapter without dropout, or with another one.
        """
        if adapter.has_dropout:
            options: Any = adapter
            if options.dropout not in (0.0, self.p):
                raise InputError(
                    f"dropout={options.dropout:g} of adapter {adapter.name!r} and p={self.p:g} of "
                    f"posterior {self.name!r} set the same probability; leave dropout out, or set "
                    "both to the same value",
                    code="clash",
                )
            with_dropout: Adapter = replace(options, dropout=self.p)
            return with_dropout
        if self.p != type(self).p:
            raise InputError(
                f"p={self.p:g} of posterior {self.name!r} sets the dropout of adapter 'lora', but "
                f"adapter {adapter.name!r} has no dropout; leave p out to sample the backbone's "
                "dropout, or choose 'lora'",
                code="no-dropout",
            )
        return adapter

    def draws(self, network: Network, texts: PreparedTexts) -> WeightPosterior:
        """Return draws of masks, also for a network that was trained for another posterior."""
        from bayeslora.posteriors.weights.mc_dropout import dropout_draws

        return dropout_draws(network, texts)


@dataclass(frozen=True)
class LaplaceLoRA(Posterior):
    """Laplace approximation over the adapter's weights, linearised for prediction.

    Random are the factors A and B of LoRA, or the core Θ of PoLAR, and the last layer. The mean
    network is trained by maximum likelihood and stays as it is.
    """

    structure: Structure = "kron"
    """Curvature: `kron`, two Kronecker factors per layer; `diag`; or `full`, one matrix over all
    random weights, if there are few."""
    prior_precision: Positive | Literal["marglik", "validation"] = "validation"
    """Precision δ of the Gaussian prior on every random weight. `validation` minimises the
    validation NLL, or means `marglik` if there are no validation rows; `marglik` maximises the
    marginal likelihood, which assumes that the mean weights are its optimum."""
    last_layer: bool = True
    """Whether the last layer is random too."""
    link: Link = "mc"
    """Link from logits to probabilities, also used for tuning."""
    num_samples: Draws = 1000
    """Number of draws of the `mc` link; 0 predicts with the mean weights."""

    name: ClassVar[str] = "laplace_lora"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.laplace_lora:LaplaceLoRAWeights.of"
    calls_once: ClassVar[bool] = True
    over_trained: ClassVar[bool] = True
    not_on_layers: ClassVar[str] = "is over the factors of an adapter, and whole layers have none"
    only_softens: ClassVar[bool] = True
    summary: ClassVar[str] = "linearised Laplace approximation over the adapter's weights"
    use: ClassVar[str] = "Uncertainty for a finished LoRA or PoLAR model with few classes."
    source: ClassVar[str] = "Yang et al. 2024, arXiv 2308.13111"
    passes: ClassVar[str] = "2, and one backward pass per class"
    parameters: ClassVar[str] = "two Kronecker factors per adapter matrix"

    def as_chosen(self, chosen: Mapping[str, Any]) -> LaplaceLoRA:
        """Return the options with the precision that a fit chose on validation rows."""
        if self.prior_precision != "validation":
            return self
        return replace(self, prior_precision=chosen["prior_precision"])

    def num_passes(self, num_samples: int | None = None) -> int:
        """Return 2 forward passes: the mean has its own, to be bitwise identical."""
        return 2 if self.num_draws(num_samples) > 0 else 1


@dataclass(frozen=True)
class SWAG(Posterior):
    """A Gaussian with the mean and covariance of weights along the end of training.

    Training takes all its epochs and keeps the last: the snapshots, not an epoch, are the result.
    """

    num_snapshots: Annotated[int, Interval(ge=2, le=LARGEST_COUNT)] = 20
    """Number of snapshots, evenly spaced."""
    start: BelowOne = 0.5
    """Share of the training after which the first snapshot may be taken."""
    rank: Annotated[int, Interval(ge=2, le=LARGEST_COUNT)] = 5
    """Number of most recent deviations from the running mean kept for the covariance."""
    scale: Positive = 0.5
    """Factor on the covariance; with 0.5, the diagonal and the low-rank part count half each."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: `constant`, so that late snapshots spread as widely as early
    ones, or `cosine`."""
    num_samples: Draws = 10

    name: ClassVar[str] = "swag"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.swag:SWAGWeights.of"
    is_sampled: ClassVar[bool] = True
    summary: ClassVar[str] = "Gaussian around the average of the weights in late training"
    use: ClassVar[str] = "Long training without choosing an epoch on validation data."
    source: ClassVar[str] = "Maddox et al. 2019, arXiv 1902.02476; Onal et al. 2024, 2405.03425"
    passes: ClassVar[str] = "num_samples"
    parameters: ClassVar[str] = "2 + rank numbers per trained weight"
    from_start: ClassVar[str] = "averages the weights during training"
    not_on_layers: ClassVar[str] = (
        "would estimate the spread of weights that are paused most of the time, which reflects "
        "when a layer was drawn and not how uncertain it is"
    )
    chooses_epoch: ClassVar[bool] = False

    def check_fit(self, facts: FitFacts) -> None:
        """Raise InputError if the training has room for fewer than two snapshots."""
        self.snapshot_steps(facts.num_steps)

    def snapshot_steps(self, num_steps: int) -> list[int]:
        """Return the steps, counted from 1, after which snapshots are taken in `num_steps` steps.

        They are evenly spaced and end with the last step.

        Raises:
            InputError: There is room for fewer than 2 snapshots.
        """
        first = int(self.start * num_steps)
        every = max(1, (num_steps - first) // self.num_snapshots)
        steps = list(range(num_steps, first, -every))[: self.num_snapshots][::-1]
        if len(steps) < 2:
            raise InputError(
                f"posterior 'swag' needs at least 2 snapshots for its covariance, but {num_steps} "
                f"training steps allow only {len(steps)} after the share start={self.start:g}; "
                "train for more epochs, use smaller batches, or lower start",
                code="too-short",
            )
        return steps


@dataclass(frozen=True)
class TFB(Posterior):
    """Training-free: the widest isotropic noise on a trained adapter that a tolerance allows."""

    tolerance: Positive = 0.003
    """Allowed degradation of `metric` on the anchor rows, relative to its value for the mean
    weights."""
    metric: Literal["accuracy", "nll"] = "nll"
    """Metric compared on the anchor rows."""
    labels: Literal["mean", "true"] = "true"
    """Labels of the anchor rows: the `true` labels, or the predictions of the `mean` weights."""
    num_anchors: Count = 500
    """Maximum number of training rows in the search."""
    sigma_min: Positive = 1e-3
    """Smallest standard deviation of the search."""
    sigma_max: Positive = 0.5
    """Largest standard deviation of the search. Both are of the change ΔW itself, including the
    factor alpha / r, along each of its r output directions."""
    num_steps: Count = 6
    """Bisections of the interval between the two, on a logarithmic scale."""
    num_search_samples: Count = 10
    """Draws for each σ of the search, with the same noise for all σ."""
    num_samples: Draws = 10

    name: ClassVar[str] = "tfb"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.tfb:TFBWeights.of"
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


@dataclass(frozen=True)
class BLoB(FactorPosterior):
    """Mean-field Gaussian over one factor of each adapter, trained by back-propagation.

    With LoRA it is over `A`; with PoLAR over the core, the factors being point estimates.
    """

    prior_std: Positive = 0.2
    """Prior standard deviation of an entry."""
    initial_std: Positive = 2.5e-3
    """Largest initial standard deviation of an entry; the smallest is half of it."""
    kl_lr: Positive = 0.01
    kl_weights: KLWeights = "uniform"
    num_samples: Draws = 10

    name: ClassVar[str] = "blob"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.blob:BLoBWeights.of"
    summary: ClassVar[str] = "Gaussian over one factor of each adapter, trained with it"
    use: ClassVar[str] = "A posterior over adapter weights that is trained with them."
    source: ClassVar[str] = "Wang et al. 2024, arXiv 2406.11675"
    parameters: ClassVar[str] = "one per entry of A, or of PoLAR's core"


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
    parameters: ClassVar[str] = "one per adapter weight"
    from_start: ClassVar[str] = "is trained together with the adapter"
    no_resting: ClassVar[str] = (
        "moves all weights at every step by a running mean, so no layer could be paused"
    )
    not_on_layers: ClassVar[str] = no_resting

    def check_fit(self, facts: FitFacts) -> None:
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


@dataclass(frozen=True)
class ScalaBL(FactorPosterior):
    """Gaussian over the r scales of each LoRA adapter: a few random numbers per layer."""

    prior_std: Positive = 1.0
    """Prior standard deviation of a scale."""
    initial_std: Positive = 0.05
    """Largest initial standard deviation of a scale; the smallest is 1 / √2 of it."""
    kl_lr: Positive = 0.2
    kl_weights: KLWeights = "uniform"
    num_samples: Draws = 10

    name: ClassVar[str] = "scalabl"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.scalabl:ScalaBLWeights.of"
    summary: ClassVar[str] = "Gaussian over the r scales of each LoRA adapter, trained with it"
    use: ClassVar[str] = "A posterior over LoRA with very few additional parameters."
    source: ClassVar[str] = "Samplawski et al. 2025, arXiv 2506.21408"
    parameters: ClassVar[str] = "3 r per layer"
    no_resting: ClassVar[str] = (
        "keeps the scales of all adapters in one parameter, which cannot be paused in part"
    )

    def adapter_for(self, adapter: Adapter) -> Adapter:
        """Return the adapter.

        Raises:
            InputError: The adapter has no first factor that may be scaled.
        """
        if not adapter.is_free:
            reason = "contains part of the pretrained weight, which a prior around 0 would shrink"
            raise InputError(
                "posterior 'scalabl' scales the free first factor of adapter 'lora'; that of "
                f"adapter {adapter.name!r} {reason if adapter.from_weight else 'is not free'}",
                code="no-free-factor",
            )
        return adapter


@dataclass(frozen=True)
class CLoRA(FactorPosterior):
    """Gaussian over an r × r matrix inside each adapter, with moments that follow the token."""

    prior_std: Positive = 0.2
    """Prior standard deviation of an entry; the prior mean is the identity."""
    initial_std: Positive = 0.05
    """Largest initial standard deviation of an entry; the smallest is half of it."""
    num_hidden: Count = 64
    """Hidden units of the small network that predicts mean and standard deviation."""
    kl_weights: KLWeights = "uniform"
    num_samples: Draws = 10

    name: ClassVar[str] = "clora"
    weights: ClassVar[str] = "bayeslora.posteriors.weights.clora:CLoRAWeights.of"
    summary: ClassVar[str] = "Gaussian inside each adapter, with mean and variance set by the input"
    use: ClassVar[str] = "Uncertainty that depends on the input, for models that need no export."
    source: ClassVar[str] = "Rahmati et al. 2025, arXiv 2505.17773"
    parameters: ClassVar[str] = "a network with sizes r, num_hidden, 2 r² per layer"
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

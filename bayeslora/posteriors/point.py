"""Point estimates of the last layer: maximum likelihood, maximum a posteriori, a temperature.

    MLE   minimise  mean_n −log softmax(W φ_n)_{y_n}
    MAP   the same + ‖W − M‖² / (2 σ0² N),   W ~ N(M, σ0²) entry by entry, σ0² = τ² / mean ‖φ‖²

The prior mean M is zero unless it is set from a language model's view of the classes.

The MAP penalty is in the loss. Weight decay in the optimiser would be another prior: leave it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bayeslora.errors import InputError
from bayeslora.logits import GaussianLogits, Logits
from bayeslora.option_checks import Positive, UpTo1000
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE, FitFacts, Posterior
from bayeslora.posteriors.last_layer.algebra import minimise
from bayeslora.posteriors.types import Features, LastLayer, check_features, check_fit
from bayeslora.recalibration.linear import best_inverse


@dataclass(frozen=True)
class MLE(Posterior):
    """Maximum likelihood: softmax regression on the features.

        Ŵ = argmin −(1/N) Σ_n log softmax(W φ_n)[y_n]

    There is no prior.
    """

    name: ClassVar[str] = "mle"
    takes_soft: ClassVar[bool] = True
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "point estimate, plain cross-entropy"
    use: ClassVar[str] = "The baseline without uncertainty about the weights."
    source: ClassVar[str] = "Bridle 1990, doi 10.1007/978-3-642-76153-9_28"
    passes: ClassVar[str] = "1"


@dataclass(frozen=True)
class MAP(Posterior):
    """Maximum a posteriori under a Gaussian prior on the head weights.

        Ŵ = argmin −(1/N) Σ_n log softmax(W φ_n)[y_n] + ‖W‖² / (2 σ0² N) ,   σ0² = τ² / mean ‖φ‖²

    τ is the prior scale.
    """

    prior_scale: Positive = DEFAULT_PRIOR_SCALE
    """Prior standard deviation of a logit."""

    name: ClassVar[str] = "map"
    takes_soft: ClassVar[bool] = True
    is_point: ClassVar[bool] = True
    learns_from: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "point estimate with a Gaussian prior on the last layer"
    use: ClassVar[str] = (
        "A point estimate for few or separable examples, where `mle` would be overconfident."
    )
    source: ClassVar[str] = "MacKay 1992, doi 10.1162/neco.1992.4.3.448"
    passes: ClassVar[str] = "1"

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
    is_point: ClassVar[bool] = True
    head: ClassVar[str] = "bayeslora.posteriors.point:TemperedHead.of"
    shared_head: ClassVar[str] = head
    learns_from: ClassVar[str] = "validation"
    summary: ClassVar[str] = "point estimate with one temperature fitted to held-out rows"
    use: ClassVar[str] = "Held-out labels, and no need for epistemic uncertainty."
    source: ClassVar[str] = "Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599"
    passes: ClassVar[str] = "1"

    def check_fit(self, facts: FitFacts) -> None:
        """Check that there are validation rows."""
        if not facts.is_validated:
            raise InputError(
                "posterior 'temperature' needs validation data: a temperature fitted to the rows "
                "that the network was trained on is too low",
                code="needs-validation",
            )


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
    from_start: ClassVar[str] = "consists of several trained networks"
    has_members: ClassVar[bool] = True


_STEPS = 200


class PointHead(LastLayer):
    """Softmax regression, with a Gaussian prior if `prior_scale` is set.

    Attributes:
        weight: [C, d] parameter, initially zero.
        mean_sq_norm: Mean ‖φ‖² that converts the prior scale of a logit to that of a weight.
        prior_mean: [C, d], M; None for zero or no prior.
    """

    uses_training_features = False
    mean_sq_norm: Tensor
    prior_mean: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        prior_scale: float | None = None,
        mean_sq_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.prior_scale = prior_scale
        self.weight = nn.Parameter(torch.zeros(num_classes, num_features))
        self.register_buffer("mean_sq_norm", torch.tensor(mean_sq_norm, dtype=torch.float64))
        self.register_buffer("prior_mean", None)

    @classmethod
    def of(
        cls,
        config: Posterior,
        num_features: int,
        num_classes: int,
        *,
        mean_sq_norm: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """Return the head of a posterior's options, with their prior if they have one."""
        del seed
        scale = getattr(config, "prior_scale", None)
        return cls(num_features, num_classes, prior_scale=scale, mean_sq_norm=mean_sq_norm)

    @property
    def prior_precision(self) -> float:
        """1/σ0² of a weight; zero without a prior."""
        return 0.0 if self.prior_scale is None else float(self.mean_sq_norm) / self.prior_scale**2

    def loss(self, rows: Features, num_train: int) -> Tensor:
        """Return the mean cross-entropy, plus the prior's penalty / `num_train`."""
        return self._objective(self.weight, rows, num_train)

    def _objective(self, weight: Tensor, rows: Features, num_train: int) -> Tensor:
        """Return the loss of weights [C, d]."""
        deviation = weight if self.prior_mean is None else weight - self.prior_mean
        loss = cross_entropy(rows.logits(weight), rows.targets)
        if self.prior_scale is None:
            return loss
        # A tensor, to avoid synchronising with the device.
        precision = self.mean_sq_norm / self.prior_scale**2
        return loss + (0.5 * precision / num_train).to(deviation) * deviation.square().sum()

    def data_loss(self, rows: Features) -> Tensor:
        """Return the mean cross-entropy with detached weights."""
        return cross_entropy(rows.logits(self.weight.detach()), rows.targets)

    def solve(self, rows: Features, *, max_steps: int = _STEPS) -> None:
        """Minimise `loss` over the weights for fixed features, by L-BFGS in float64.

        Without a prior, separable classes have no finite optimum; the search then stops after
        `max_steps` iterations.
        """
        weight, rows = self.weight.detach().double().requires_grad_(), rows.double()
        minimise(lambda: self._objective(weight, rows, len(rows)), weight, max_steps, 1e-7)
        self.set_mean(weight.detach())

    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Check the features; the trained weights do not change.

        Raises:
            InputError: The features are not finite.
        """
        check_fit(train, validation)

    @torch.no_grad()
    def predict(self, rows: Features) -> Logits:
        """Return the logits with zero variance, in float64.

        Raises:
            InputError: The features are not finite.
        """
        check_features(rows)
        mean = rows.double().logits(self.weight.double())
        return GaussianLogits.point(mean)

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: the weights."""
        return self.weight.detach()

    @torch.no_grad()
    def set_mean(self, weight: Tensor) -> None:
        """Set the [C, d] weights to start from, instead of zero."""
        self.weight.copy_(weight)

    @torch.no_grad()
    def set_prior_mean(self, weight: Tensor, *, start: bool = True) -> None:
        """Centre the prior, if any, at [C, d] weights; with `start`, also start there."""
        if start:
            self.set_mean(weight)
        if self.prior_scale is not None:
            self.prior_mean = weight.to(self.weight.detach())

    def prior_centre(self) -> Tensor | None:
        """Return the prior's mean [C, d]; None for zero."""
        return self.prior_mean

    def set_mean_sq_norm(self, value: float) -> None:
        """Set the features' mean squared norm, which converts prior scales to precisions."""
        self.mean_sq_norm.fill_(value)

    def extra_config(self) -> dict[str, Any]:
        """Return whether the prior mean is not zero."""
        return {} if self.prior_mean is None else {"prior_mean": True}

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the prior mean if `extra` lists one."""
        if extra.get("prior_mean"):
            self.prior_mean = torch.zeros_like(self.weight.detach())

    def report(self) -> dict[str, float | str]:
        """Return the prior scale, if any."""
        return {} if self.prior_scale is None else {"prior_scale": self.prior_scale}


class SharedPointHead(PointHead):
    """Conditional logit: one weight vector for all options of a row, `weight` [1, d].

    Source: McFadden 1974, Conditional logit analysis of qualitative choice behavior.
    """

    @torch.no_grad()
    def scale_mean(self, factor: float) -> None:
        """Multiply the weights."""
        self.weight.mul_(factor)


class AroundPoint(PointHead):
    """Base of last layers that train as a point estimate and are fitted around it at the end.

    Attributes:
        config: Options of the posterior.
        seed: Seed of its draws.
    """

    def __init__(
        self,
        config: Any,
        num_features: int,
        num_classes: int,
        *,
        mean_sq_norm: float = 1.0,
        seed: int = 0,
    ) -> None:
        scale = getattr(config, "prior_scale", None)
        super().__init__(num_features, num_classes, prior_scale=scale, mean_sq_norm=mean_sq_norm)
        self.config = config
        self.seed = seed


class TemperedHead(PointHead):
    """Softmax regression whose logits are divided by one number; a `LastLayer`.

    Source: Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2.

    Attributes:
        temperature: T, the divisor of the logits, float64 scalar; 1 before `fit`.
    """

    temperature: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    @classmethod
    def of(cls, config: Posterior, num_features: int, num_classes: int, **options: Any) -> Self:
        """Return the head of options, which have no prior."""
        del config, options
        return cls(num_features, num_classes)

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit the temperature of lowest NLL on the validation rows, if any, else on `train`.

        Rows that the weights were trained on yield a temperature that is too low.
        """
        check_fit(train, validation)
        rows = train if validation is None else validation
        logits = super().predict(rows).mean
        self.temperature.fill_(1 / best_inverse(logits.cpu().numpy(), rows.targets.cpu().numpy()))

    @torch.no_grad()
    def predict(self, rows: Features) -> Logits:
        """Return the scaled logits, without variance, in float64."""
        return super().predict(rows).scaled(1 / float(self.temperature))

    def report(self) -> dict[str, float | str]:
        """Return the temperature."""
        return {"temperature": float(self.temperature)}

"""Variational Bayesian last layer: a Gaussian over the weights of each class.

    z_c = θ_cᵀφ,   p(y | φ, Θ) = softmax(z)_y,   θ_c ~ N(m0_c, σ0² I),   q(Θ) = Π_c N(μ_c, S_c)
    min over q:   −(1/N) Σ_n bound_n + KL(q ‖ prior) / N,   bound_n ≤ E_q log p(y_n | φ_n, Θ)

With PoLAR this is PoLAR-VBLL. The logit noise of Harrison et al. is left out: logits are exactly
linear in the features. While the adapter trains, each of its steps on −mean bound (`data_loss`, q
held constant) is preceded by gradient steps of μ and a diagonal S on the whole objective (`loss`,
the adapter held constant): the ELBO of a Pyro program, whose guide is q. Unless an option states
the prior scale, the prior of these steps is N(μ_c, τ² / mean ‖φ‖² I) with τ = 0.5 (empirical
Bayes): only the deviations are regularised, and the means are those of maximum likelihood. A prior
around m0 that lets few rows tell many classes apart would be too wide for the deviations, and one
that fits these keeps the means from reaching their optimum.

Afterwards `fit` finds the optimum for the final features in closed form, at the trained means or
over the means too (`final.py`), and stores it separately from the training parameters. The bound is
Jensen's in training, which is cheap, and that of Knowles and Minka in the final fit, which is
tighter. `predict` needs one pass.

The options of a row share one weight vector:

    z_nc = wᵀφ_nc + o_nc,   w ~ N(m0, σ0² I),   q(w) = N(μ, S),   V_n = Φ_n S Φ_nᵀ

Only differences between options affect the softmax: features are centred within their row, and
Jensen's bound then equals the bound at a uniform tilt.

Sources: Harrison, Willes and Snoek 2024, arXiv 2404.11599, sections 3 and 4; Xiang, Li and Lu 2026,
arXiv 2604.03388; for options the conditional logit of McFadden 1974 with the bounds of `bounds.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.posteriors.last_layer.vbll import SPREAD_PRIOR_SCALE, VBLL
from bayeslora.posteriors.last_layer.vbll.bounds import jensen
from bayeslora.posteriors.last_layer.vbll.covariance import (
    logit_covariance,
    packed,
    stored_shapes,
    unpacked,
)
from bayeslora.posteriors.last_layer.vbll.final import Polisher, Start
from bayeslora.posteriors.types import Features, LastLayer, check_features, check_fit

logger = logging.getLogger(__name__)

# Initial standard deviation of a logit under q.
_INITIAL_LOGIT_STD = 0.1


def negative_elbo(
    mean: Tensor, deviations: Tensor, prior_variance: Tensor, log_likelihood: Tensor
) -> Tensor:
    """Return KL(q ‖ prior) − `log_likelihood`, a differentiable scalar in nats.

    It is a Pyro program. The model draws the weights from their prior and scores the data by a
    bound, which depends on the guide's moments and not on the draw. The guide is explicit, so the
    KL is analytic and the bound has no variance. Nothing is added to Pyro's global parameter store.
    Pyro takes seconds to import, and only training needs this function.

    Args:
        mean: [C, d] means of the weights, relative to those of the prior.
        deviations: [C, d] standard deviations of the weights.
        prior_variance: σ0², a scalar tensor.
        log_likelihood: Scalar: the (bound on the) expected log-likelihood of the whole data set.
    """
    import pyro.infer
    from pyro.distributions import Normal

    elbo: Any = pyro.infer.TraceMeanField_ELBO  # Pyro's own annotations are partial
    normal: Any = Normal

    def model() -> None:
        prior_deviation = prior_variance.to(mean).sqrt().expand_as(mean)
        pyro.sample("weight", normal(torch.zeros_like(mean), prior_deviation).to_event(2))
        pyro.factor("log_likelihood", log_likelihood)

    def guide() -> None:
        pyro.sample("weight", normal(mean, deviations).to_event(2))

    # Validation is redundant here and would synchronise with the device a dozen times per step.
    with pyro.validation_enabled(False):
        loss: Tensor = elbo().differentiable_loss(model, guide)
    return loss


class VBLLHead(LastLayer):
    """The head; a `LastLayer`.

    Attributes:
        mean: [C, d] parameter, μ while training; initially the prior mean.
        prior_mean: [C, d] buffer, m0; None for zero.
        spread: [C, d] parameter, log standard deviations of the weights while training.
        fitted_mean: [C, d] float64 buffer, None before `fit`.
        fitted_scale: Float32 buffer, the `scale` of `stored_shapes`, None before `fit`.
        fitted_basis: [d, d] float32 buffer of an `eigenbasis` fit, else None.
        fitted_prior_scale: τ of the last fit, None before `fit`.
        fitted_elbo: Evidence lower bound of the last fit in nats per row, None before `fit`.
    """

    uses_training_features = True
    takes_more = True
    mean_sq_norm: Tensor
    prior_mean: Tensor | None
    fitted_mean: Tensor | None
    fitted_scale: Tensor | None
    fitted_basis: Tensor | None
    fitted_prior_scale: Tensor | None
    fitted_elbo: Tensor | None

    def __init__(
        self,
        config: VBLL,
        num_features: int,
        num_classes: int,
        *,
        mean_sq_norm: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        del seed
        # Callers that know the number of rows have already resolved `auto`.
        self.config = config = config.with_family("dense")
        self.mean = nn.Parameter(torch.zeros(num_classes, num_features))
        log_std = math.log(_INITIAL_LOGIT_STD / math.sqrt(mean_sq_norm))
        self.spread = nn.Parameter(torch.full((num_classes, num_features), log_std))
        self.register_buffer("mean_sq_norm", torch.tensor(mean_sq_norm, dtype=torch.float64))
        self.register_buffer("prior_mean", None)
        for name in ("mean", "scale", "basis", "prior_scale", "elbo"):
            self.register_buffer(f"fitted_{name}", None)
        # Triangles are stored without their zeros.
        self._packs = config.covariance == "dense"

    @property
    def prior_follows_mean(self) -> bool:
        """Whether the prior of gradient steps is centred at the means themselves."""
        chosen = (self.config.training_prior_scale, self.config.prior_scale)
        return not any(isinstance(scale, int | float) for scale in chosen)

    @property
    def training_prior_scale(self) -> float:
        """τ of a prior around m0: in gradient steps unless it follows the mean, and by epoch."""
        scale = self.config.training_prior_scale or self.config.prior_scale
        return DEFAULT_PRIOR_SCALE if isinstance(scale, str) else scale

    @property
    def prior_variance(self) -> float:
        """σ0² of a weight at `training_prior_scale`."""
        return self.training_prior_scale**2 / float(self.mean_sq_norm)

    def loss(self, rows: Features, num_train: int) -> Tensor:
        """Return −mean bound + KL / `num_train`, in nats per row."""
        deviations = self.spread.exp()
        likelihood = num_train * self._bound(rows, self.mean, deviations).mean()
        centre, scale = self.prior_mean, self.training_prior_scale
        if self.prior_follows_mean:
            centre, scale = self.mean, SPREAD_PRIOR_SCALE
        mean = self.mean if centre is None else self.mean - centre
        # A tensor, to avoid synchronising with the device.
        variance = self.mean_sq_norm.new_full((), scale**2)
        prior_variance = (variance / self.mean_sq_norm).to(self.mean)
        return negative_elbo(mean, deviations, prior_variance, likelihood) / num_train

    def data_loss(self, rows: Features) -> Tensor:
        """Return −mean bound with q held constant, in nats per row."""
        return -self._bound(rows, self.mean.detach(), self.spread.detach().exp()).mean()

    @torch.no_grad()
    def fit(
        self, train: Features, validation: Features | None = None, *, choose_prior: bool = True
    ) -> None:
        """Fit the posterior that `predict` uses, starting from the last fit.

        Means that training never moved, as from texts that all read alike, are refitted.

        Raises:
            InputError: The features are not finite.
        """
        check_fit(train, validation)
        config, is_trained = self.config, self._is_trained()
        if config.polish_mean == "trained" and not is_trained:
            logger.warning("the last layer has no trained weights to keep, so they are refitted")
        polisher = Polisher(
            config,
            train,
            len(self.mean),
            float(self.mean_sq_norm),
            validation,
            self.prior_mean,
            scale_if_open=None if choose_prior else self.training_prior_scale,
        )
        rows = train.double()
        in_training = Start(self.mean, _variance_under({"scale": self.spread.exp()}, rows))
        mean, stored = self._posterior()
        start = Start(mean, _variance_under(stored, rows))
        polished = polisher.fit(start, in_training if is_trained else None)
        if not polished.converged:
            logger.debug("the final fit did not converge in %d rounds", len(polished.elbo))
        # Contiguous, as when loaded: products of other layouts differ in the last bit.
        self.fitted_mean = polished.mean.contiguous()
        for name, tensor in polished.covariance().items():
            setattr(self, f"fitted_{name}", tensor.float().contiguous())
        self._packs = config.covariance == "dense"
        tau = math.sqrt(polished.prior_variance * float(self.mean_sq_norm))
        self.fitted_prior_scale = self.mean_sq_norm.new_tensor(tau)
        self.fitted_elbo = self.mean_sq_norm.new_tensor(polished.elbo[-1] / len(train))

    def update(self, rows: Features, strength: float) -> None:
        """Move to the mode under more rows, with the curvature there as the precision; see `more`.

        Raises:
            InputError: The features are not finite.
        """
        from bayeslora.posteriors.last_layer.vbll.more import updated

        check_features(rows)
        mean, stored = self._posterior()
        tensors = {name: tensor.double() for name, tensor in stored.items()}
        mean, scale = updated(mean.detach().double(), **tensors, rows=rows, strength=strength)
        self.fitted_mean, self.fitted_scale = mean, scale.float().contiguous()

    @torch.no_grad()
    def predict(self, rows: Features) -> GaussianLogits:
        """Return the logits under the last fit, or under the training q before a fit."""
        check_features(rows)
        mean, stored = self._posterior()
        rows = rows.double()
        return GaussianLogits(rows.logits(mean.double()), _variance_under(stored, rows))

    @property
    def trained_mean(self) -> Tensor:
        """[C, d]: the means of the last training step, detached."""
        return self.mean.detach()

    @property
    def mean_weight(self) -> Tensor:
        """[C, d]: μ of the last fit, or of the training q before a fit."""
        return self._posterior()[0].detach()

    @torch.no_grad()
    def set_mean(self, weight: Tensor) -> None:
        """Set the [C, d] means to start training from."""
        self.mean.copy_(weight)

    @torch.no_grad()
    def scale_mean(self, factor: float) -> None:
        """Scale the means of the last fit; the covariances do not change."""
        self.get_buffer("fitted_mean").mul_(factor)

    def prior_centre(self) -> Tensor | None:
        """Return the prior's mean [C, d]; None for zero."""
        return self.prior_mean

    @torch.no_grad()
    def set_prior_mean(self, weight: Tensor, *, start: bool = True) -> None:
        """Centre the prior at [C, d] weights; with `start`, also start training there."""
        if start:
            self.set_mean(weight)
        self.prior_mean = weight.to(self.mean.detach())

    @torch.no_grad()
    def set_mean_sq_norm(self, value: float) -> None:
        """Set the features' mean squared norm; the training variances of logits do not change."""
        self.spread.add_(0.5 * math.log(float(self.mean_sq_norm) / value))
        self.mean_sq_norm.fill_(value)

    def extra_config(self) -> dict[str, Any]:
        """Return whether there is a fit, and the format of its covariance."""
        centred = {} if self.prior_mean is None else {"prior_mean": True}
        if self.fitted_scale is None:
            return centred | {"fitted": False}
        dtype = str(self.fitted_scale.dtype).removeprefix("torch.")
        layout = {"packed": True} if self._packs else {}
        fit = {"fitted": True, "covariance": self.config.covariance, "dtype": dtype}
        return centred | fit | layout

    def prepare(self, extra: Mapping[str, Any]) -> None:
        """Allocate the prior mean and the fit that `extra` describes."""
        if extra.get("prior_mean"):
            self.prior_mean = torch.zeros_like(self.mean.detach())
        if not extra.get("fitted"):
            return
        # Models without this key are older.
        dtype = torch.float32 if extra.get("dtype") == "float32" else torch.float64
        self._packs = self._packs and extra.get("packed") is True
        self.fitted_mean = torch.zeros_like(self.mean, dtype=torch.float64)
        classes, size = self.mean.shape
        for name, shape in stored_shapes(self.config.covariance, classes, size).items():
            setattr(self, f"fitted_{name}", self.mean.new_zeros(shape, dtype=dtype))
        self.fitted_prior_scale = torch.zeros_like(self.mean_sq_norm)
        self.fitted_elbo = torch.zeros_like(self.mean_sq_norm)

    def report(self) -> dict[str, float | str]:
        """Return the last fit's prior scale, ELBO per row, and whether its means were refitted."""
        if self.fitted_prior_scale is None or self.fitted_elbo is None:
            return {"polished": "no"}
        unchanged = self.fitted_mean is not None and torch.equal(
            self.fitted_mean, self.mean.double()
        )
        return {
            "prior_scale": float(self.fitted_prior_scale),
            "elbo": float(self.fitted_elbo),
            "polish_mean": "trained" if unchanged else "refit",
        }

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        key = f"{prefix}fitted_scale"
        if self._packs and key in destination:
            destination[key] = packed(destination[key])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        key = f"{prefix}fitted_scale"
        if self._packs and key in state:
            state[key] = unpacked(state[key])
        super()._load_from_state_dict(state, prefix, *args)

    def _posterior(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return means and stored covariance of the last fit, or of the training q before a fit."""
        if self.fitted_mean is None or self.fitted_scale is None:
            return self.mean, {"scale": self.spread.exp()}
        basis = {} if self.fitted_basis is None else {"basis": self.fitted_basis}
        return self.fitted_mean, {"scale": self.fitted_scale, **basis}

    def _is_trained(self) -> bool:
        """Return whether the means ever left the prior mean."""
        centre = torch.zeros_like(self.mean) if self.prior_mean is None else self.prior_mean
        return not torch.equal(self.mean, centre)

    def _bound(self, rows: Features, mean: Tensor, deviations: Tensor) -> Tensor:
        rows = rows.to(mean.dtype)
        covariance = logit_covariance(rows.values, deviations)
        return jensen(rows.logits(mean), covariance, rows.targets)


def _variance_under(stored: Mapping[str, Tensor], rows: Features) -> Tensor:
    """Return the logits' covariance of float64 rows, [N, C] or [N, C, C]."""
    tensors = {name: tensor.double() for name, tensor in stored.items()}
    return logit_covariance(rows.values, **tensors)


class SharedVBLLHead(VBLLHead):
    """The variational last layer for options: `mean` is [1, d], and features are [N, C, d]."""

    takes_more = False

    @classmethod
    def of(cls, config: VBLL, num_features: int, num_classes: int, **options: Any) -> Self:
        """Return a head for options.

        Raises:
            InputError: A basis that classes share is not for options.
        """
        if config.covariance == "eigenbasis":
            raise InputError(
                "covariance 'eigenbasis' is not supported for the format 'options', whose options "
                "share one weight vector; choose 'dense'",
                code="not-on-options",
            )
        return cls(config, num_features, num_classes, **options)

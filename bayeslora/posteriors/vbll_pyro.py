"""The evidence lower bound of a variational last layer, as a Pyro program.

The model draws the weights from their prior and scores the data by a bound on the expected
log-likelihood, which depends on the guide's moments and not on the draw. The guide is written by
hand, so that the KL is analytic and the bound has no variance. Nothing enters Pyro's global
parameter store. Pyro takes seconds to import, and only training needs this file's function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayeslora.posteriors.covariances import Dense, Diagonal, DiagonalPlusLowRank, Trainable


def negative_elbo(
    mean: Tensor, covariance: Trainable, prior_variance: Tensor, log_likelihood: Tensor
) -> Tensor:
    """Return KL(q ‖ prior) − `log_likelihood`, a differentiable scalar in nats.

    Args:
        mean: [C, d] means of the weights.
        covariance: Of the weights.
        prior_variance: σ0², a scalar tensor.
        log_likelihood: Scalar: the (bound on the) expected log-likelihood of the whole data set.
    """
    import pyro.infer

    elbo: Any = pyro.infer.TraceMeanField_ELBO  # Pyro's own annotations are partial
    prior, posterior = _distributions(mean, covariance, prior_variance)

    def model() -> None:
        pyro.sample("weight", prior)
        pyro.factor("log_likelihood", log_likelihood)

    def guide() -> None:
        pyro.sample("weight", posterior)

    loss: Tensor = elbo().differentiable_loss(model, guide)
    return loss


def _distributions(mean: Tensor, covariance: Trainable, prior_variance: Tensor) -> tuple[Any, Any]:
    """Return prior and posterior of all weights in families between which the KL is analytic."""
    import pyro.distributions

    dist: Any = pyro.distributions
    if isinstance(covariance, Diagonal):
        zero, deviation = torch.zeros_like(mean), prior_variance.to(mean).sqrt().expand_as(mean)
        posterior = dist.Normal(mean, covariance.std)
        return dist.Normal(zero, deviation).to_event(2), posterior.to_event(2)
    if isinstance(covariance, DiagonalPlusLowRank):
        posterior = dist.LowRankMultivariateNormal(mean, covariance.factor, covariance.std.square())
    elif isinstance(covariance, Dense):
        posterior = dist.MultivariateNormal(mean, scale_tril=covariance.lower)
    else:
        # All weights are one vector.
        mean = mean.reshape(1, -1)
        posterior = dist.MultivariateNormal(mean, scale_tril=covariance.lower[None])
    # An isotropic prior written as diagonal plus a low rank of zero: its KL costs d² a class,
    # where that of a full prior covariance costs d³.
    zero, variance = torch.zeros_like(mean), prior_variance.to(mean).expand_as(mean)
    prior = dist.LowRankMultivariateNormal(zero, zero[..., None], variance)
    return prior.to_event(1), posterior.to_event(1)

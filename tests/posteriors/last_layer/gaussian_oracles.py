"""Dense Gaussian references: one covariance matrix [C d, C d], the KL of PyTorch."""

import torch

from bayeslora.posteriors.last_layer.vbll import bounds
from bayeslora.posteriors.last_layer.vbll.covariance import logit_covariance

F64 = torch.float64
FAMILIES = ["dense", "eigenbasis"]


def matrix(stored):
    """Return the covariance of all weights, ordered by class, from its stored tensors."""
    scale, basis = stored["scale"], stored.get("basis")
    blocks = scale @ scale.mT if scale.ndim == 3 else torch.diag_embed(scale.square())
    return torch.block_diag(*(blocks if basis is None else basis @ blocks @ basis.T))


def kl_to_prior(mean, stored, prior_variance):
    """Return KL(N(μ, S) ‖ N(0, σ0² I)) over all weights, computed by torch.distributions."""
    full = matrix(stored)
    prior = prior_variance * torch.eye(len(full), dtype=full.dtype)
    return torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(mean.flatten(), covariance_matrix=full),
        torch.distributions.MultivariateNormal(torch.zeros_like(mean.flatten()), prior),
    )


def best_bound(mean, covariance, labels):
    """Return the bound of Knowles and Minka at its best tilt, whose derivative vanishes."""
    tilt = bounds.best_tilt(mean.detach(), covariance.detach())
    return bounds.tilted(mean, covariance, labels, tilt)


def elbo(data, mean, stored, prior_variance=4.0):
    """Return the evidence lower bound, computed from its definition."""
    features, labels = data
    values = best_bound(features @ mean.T, logit_covariance(features, **stored), labels)
    return values.sum() - kl_to_prior(mean, stored, prior_variance)

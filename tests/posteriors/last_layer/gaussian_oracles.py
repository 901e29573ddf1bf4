"""Dense Gaussian references: one [C d, C d] covariance matrix, and the KL of PyTorch."""

import torch

from bayeslora.posteriors.last_layer.vbll import bounds
from bayeslora.posteriors.last_layer.vbll.families import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    Eigenbasis,
)

F64 = torch.float64
FAMILIES = ["dense", "diagonal", "eigenbasis", "full", "low_rank"]
TRAINABLE = ["dense", "diagonal", "full", "low_rank"]


def matrix(covariance):
    """Return the covariance of all weights, ordered by class."""
    if isinstance(covariance, Diagonal):
        return torch.diag(covariance.scale.square().flatten())
    if isinstance(covariance, Eigenbasis):
        blocks = covariance.basis @ torch.diag_embed(covariance.scale.square()) @ covariance.basis.T
        return torch.block_diag(*blocks)
    if isinstance(covariance, Dense):
        return torch.block_diag(*(covariance.scale @ covariance.scale.mT))
    if isinstance(covariance, DiagonalPlusLowRank):
        blocks = torch.diag_embed(covariance.scale.square())
        return torch.block_diag(*(blocks + covariance.factor @ covariance.factor.mT))
    return covariance.scale @ covariance.scale.T


def kl_to_prior(mean, covariance, prior_variance):
    """Return KL(N(μ, S) ‖ N(0, σ0² I)) over all weights, computed by torch.distributions."""
    full = matrix(covariance)
    prior = prior_variance * torch.eye(len(full), dtype=full.dtype)
    return torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(mean.flatten(), covariance_matrix=full),
        torch.distributions.MultivariateNormal(torch.zeros_like(mean.flatten()), prior),
    )


def elbo(data, mean, covariance, prior_variance=4.0, bound="jensen"):
    """Return the evidence lower bound, computed from its definition."""
    features, labels = data
    values = bounds.CLOSED_FORM[bound](features @ mean.T, covariance.of_logits(features), labels)
    return values.sum() - kl_to_prior(mean, covariance, prior_variance)


def bound_for(family):
    """Return a bound that uses everything the family can express."""
    return "tilted" if family == "full" else "jensen"

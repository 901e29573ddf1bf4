"""Choosing the prior scale of a variational last layer at the polish."""

from __future__ import annotations

import logging

from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.config import DEFAULT_PRIOR_SCALE, PRIOR_SCALE_GRID, VBLL
from bayeslora.posteriors.scores import nll
from bayeslora.posteriors.vbll_polish import Polished, Start, polish

logger = logging.getLogger(__name__)

# Scales are compared by their validation NLL, where a looser fit already ranks them.
_GRID_TOLERANCE = 1e-4
# The bound is flat in the prior scale: below this, rounds change the NLL by a thousandth at most.
_LEARNING_TOLERANCE = 1e-5


def polish_with_prior(
    config: VBLL,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    mean_sq_norm: float,
    start: Start | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Polished:
    """Return the polished posterior under the prior scale that the configuration asks for.

    Args:
        config: Bound, covariance, prior scale, link.
        features: [N, d] of the training rows.
        labels: [N] int64.
        num_classes: C.
        mean_sq_norm: Mean ‖φ‖² behind the prior scale: σ0² = τ² / mean ‖φ‖².
        start: A previous fit of nearly the same features.
        validation: Features and labels of held-out rows; without them `validation` means
            `empirical-bayes`.
    """
    learn_prior = isinstance(config.prior_scale, str) and validation is None
    learn_prior = learn_prior or config.prior_scale == "empirical-bayes"

    def fit(scale: float, start: Start | None, tolerance: float = 1e-6) -> Polished:
        polished = polish(
            features,
            labels,
            num_classes,
            prior_variance=scale**2 / mean_sq_norm,
            bound=config.polish_bound,
            covariance=config.covariance,
            rank=config.rank,
            start=start,
            learn_prior=learn_prior,
            tolerance=tolerance,
        )
        return polished.refined() if config.laplace_refinement else polished

    if not isinstance(config.prior_scale, str):
        return fit(config.prior_scale, start)
    if learn_prior or validation is None:
        return fit(DEFAULT_PRIOR_SCALE, start, _LEARNING_TOLERANCE)
    scores: dict[float, float] = {}
    starts: dict[float, Start] = {}
    for scale in PRIOR_SCALE_GRID:
        candidate = fit(scale, start, _GRID_TOLERANCE)
        start = starts[scale] = candidate.start
        logits = GaussianLogits(*candidate.moments(validation[0]))
        probs = link_probabilities(logits, config.link, config.num_samples).probs
        scores[scale] = nll(probs, validation[1])
    best = min(scores, key=scores.__getitem__)
    if best in {PRIOR_SCALE_GRID[0], PRIOR_SCALE_GRID[-1]}:
        logger.warning("the best prior scale, %g, is at the edge of %s", best, PRIOR_SCALE_GRID)
    return fit(best, starts[best])

"""One round of coordinate ascent for a variational last layer on fixed features.

With q = softmax(m + ½ (1 − 2a) v) and w = a² + (1 − 2a) q at the current logit moments (a = 0 for
Jensen), the evidence lower bound is stationary where

    μ_c   = σ0² Σ_n (1[y_n = c] − q_nc) φ_n    (`vbll_mean.py`)
    σ0²   = Σ_c (‖μ_c‖² + tr S_c) / (C d)      (only where the prior is learned)
    S_c⁻¹ = I/σ0² + Σ_n w_nc φ_n φ_nᵀ          (`vbll_blocks.py`)

Each step takes one of these with the others held still, and none lowers the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayeslora.posteriors.bounds import best_tilt, curvature, tilted
from bayeslora.posteriors.vbll_blocks import BLOCKS, Blocks
from bayeslora.posteriors.vbll_mean import MeanProblem, maximise_mean

# A covariance step that has to be shortened below this share gains nothing worth a factorisation.
_SMALLEST_STEP = 1e-3
# Moving the means and the tilts in turn costs little beside one factorisation.
_TILTS_PER_ROUND = 5
_PRIOR_STRIDE = 4


@dataclass(frozen=True)
class State:
    """A point of the ascent.

    Attributes:
        mean: [C, d].
        blocks: The covariances.
        weights: [N, C] behind `blocks`.
        tilt: [N, C], the best for the current moments.
        prior_variance: σ0².
        elbo: Evidence lower bound in nats.
        step: Share of the way that the last step of the covariances went.
    """

    mean: Tensor
    blocks: Blocks
    weights: Tensor
    tilt: Tensor
    prior_variance: float
    elbo: float
    step: float = 1.0


@dataclass(frozen=True)
class Ascent:
    """What stays fixed during the ascent.

    Attributes:
        features: [N, d] float64.
        labels: [N] int64.
        targets: [N, C] one-hot labels, float64.
        bound: `jensen` or `knowles_minka`.
        covariance: `dense` or `diagonal`.
        tolerance: Relative change of the bound that no longer matters.
    """

    features: Tensor
    labels: Tensor
    targets: Tensor
    bound: str
    covariance: str
    tolerance: float

    def begin(self, mean: Tensor, variance: Tensor, prior_variance: float) -> State:
        """Return the state with given means and the covariances that suit the given variances.

        Args:
            mean: [C, d].
            variance: [N, C], a guess of the training rows' logit variances.
            prior_variance: σ0².
        """
        logits = self.features @ mean.T
        tilt = self._tilt(mean, variance)
        _, weights = curvature(logits, variance, tilt)
        blocks = BLOCKS[self.covariance](self.features, weights, 1 / prior_variance)
        tilt = self._tilt(mean, blocks.train_variance)
        return self._rated(State(mean, blocks, weights, tilt, prior_variance, -math.inf))

    def improve_mean(self, state: State) -> State:
        """Return the state with better means."""
        variance = state.blocks.train_variance
        enough = 0.1 * self.tolerance * abs(state.elbo)
        for _ in range(_TILTS_PER_ROUND if self.bound == "knowles_minka" else 1):
            offset = 0.5 * (1 - 2 * state.tilt) * variance
            mean = maximise_mean(
                MeanProblem(self.features, self.targets, offset, state.prior_variance),
                state.mean,
                state.blocks.precondition,
                tolerance=enough,
            )
            moved = self._rated(replace(state, mean=mean, tilt=self._tilt(mean, variance)))
            gain, state = moved.elbo - state.elbo, moved
            if gain < enough:
                break
        return state

    def improve_prior(self, state: State) -> State:
        """Return the state with a better prior variance, and covariances that suit it.

        For given means and covariances the best variance is the mean second moment of a weight.
        That step is short, because covariances follow the prior where data say little; a longer
        one in the same direction is tried first, and kept if the bound agrees.
        """
        second_moment = float(state.mean.square().sum()) + state.blocks.trace
        growth = second_moment / state.mean.numel() / state.prior_variance
        for power in (_PRIOR_STRIDE, 1):
            prior_variance = state.prior_variance * growth**power
            moved = self._rated(replace(state, prior_variance=prior_variance))
            moved = self.improve_covariance(moved)
            if moved.elbo >= state.elbo:
                return moved
        return state

    def improve_covariance(self, state: State) -> State:
        """Return the state with better covariances.

        The stationary precisions, taken in full, nearly always raise the bound. Where they do not,
        a part of the way does: precisions are the natural parameters, and moving them towards the
        stationary ones is the natural gradient.
        """
        logits = self.features @ state.mean.T
        _, wanted = curvature(logits, state.blocks.train_variance, state.tilt)
        held = state.blocks.prior_precision
        step = min(1.0, 2 * state.step)
        while step >= _SMALLEST_STEP:
            weights = torch.lerp(state.weights, wanted, step)
            precision = held + step * (1 / state.prior_variance - held)
            blocks = BLOCKS[self.covariance](self.features, weights, precision)
            tilt = self._tilt(state.mean, blocks.train_variance)
            moved = self._rated(
                replace(state, blocks=blocks, weights=weights, tilt=tilt, step=step)
            )
            if moved.elbo >= state.elbo:
                return moved
            step /= 2
        return state

    def _tilt(self, mean: Tensor, variance: Tensor) -> Tensor:
        if self.bound == "jensen":
            return torch.zeros_like(variance)
        return best_tilt(self.features @ mean.T, variance)

    def _rated(self, state: State) -> State:
        """Return the state with its bound: likelihood − KL."""
        logits = self.features @ state.mean.T
        variance = state.blocks.train_variance
        likelihood = float(tilted(logits, variance, self.labels, state.tilt).sum())
        size = state.mean.numel()
        second_moment = state.blocks.trace + float(state.mean.square().sum())
        spread = size * math.log(state.prior_variance) - state.blocks.log_determinant
        kl = 0.5 * (second_moment / state.prior_variance - size + spread)
        return replace(state, elbo=likelihood - kl)

"""One round of coordinate ascent for a variational last layer on fixed features.

With q the class probabilities of the bound and W its curvature at the current logit moments
(`bounds.py`), the evidence lower bound is stationary where

    μ_c  = m0_c + σ0² Σ_n (1[y_n = c] − q_nc) φ_n     (`means.py`)
    σ0²  = (‖μ − m0‖² + tr S) / (C d)          (only where the prior is learned)
    S⁻¹  = I/σ0² + Σ_n W_n ⊗ φ_n φ_nᵀ          (`covariance.py`, as far as the family allows)

Means are relative to the prior mean m0, whose logits are a constant offset. Each step updates one
of these with the others fixed, and none lowers the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayeslora.posteriors.features import mean_logits
from bayeslora.posteriors.last_layer.means import MeanProblem, maximise_mean
from bayeslora.posteriors.last_layer.vbll.bounds import ASCENT_BOUNDS, AscentBound
from bayeslora.posteriors.last_layer.vbll.covariance import Blocks, Covariance, Problem

# Below this share of the full covariance step, the gain is not worth a factorisation.
_SMALLEST_STEP = 1e-3
# Alternating between means and tilts is cheap compared with one factorisation.
_TILTS_PER_ROUND = 5
# After a long step of the prior, the covariances may need two rounds to follow.
_FOLLOWING = 2
# Multiples of the fixed-point step: before a secant is known, and at most; and the largest step in
# log σ0².
_FIRST_STRIDE = 4.0
_LONGEST_STRIDE = 40.0
_FARTHEST = math.log(30.0)


@dataclass(frozen=True)
class State:
    """A point of the ascent.

    Attributes:
        mean: [C, d].
        blocks: The covariances.
        weights: [N, C] or [N, C, C], the curvatures behind `blocks`.
        tilt: [N, C], optimal for the current moments.
        prior_variance: σ0².
        elbo: Evidence lower bound in nats.
        step: Length of the last covariance step, relative to the full step.
        previous: log σ0² before its last step, and the fixed-point step from there.
    """

    mean: Tensor
    blocks: Blocks
    weights: Tensor
    tilt: Tensor
    prior_variance: float
    elbo: float
    step: float = 1.0
    previous: tuple[float, float] | None = None


@dataclass(frozen=True)
class Ascent:
    """The problem and settings of the ascent.

    Attributes:
        features: [N, d] float64, or [N, C, d] for options.
        labels: [N] int64.
        targets: [N, C] one-hot labels, float64.
        bound: A key of `ASCENT_BOUNDS`.
        family: Family of the covariances.
        rank: Directions of a `low_rank` covariance.
        tolerance: Negligible relative change of the bound.
        dtype: Dtype of the matrices of `dense` covariances.
        outside: Squared norm of fixed means outside the features' row space.
        offset: [N, C], logits of the prior mean, the origin of the means, plus known logits; None
            for zero.
    """

    features: Tensor
    labels: Tensor
    targets: Tensor
    bound: str
    family: type[Covariance]
    rank: int
    tolerance: float
    dtype: torch.dtype = torch.float64
    outside: float = 0.0
    offset: Tensor | None = None

    def begin(
        self,
        mean: Tensor,
        covariance: Tensor,
        prior_variance: float,
        previous: Blocks | None = None,
    ) -> State:
        """Return the initial state for means and logit covariances.

        Args:
            mean: [C, d].
            covariance: [N, C] or [N, C, C], a guess of the training rows' logit covariances.
            prior_variance: σ0².
            previous: Covariances for the same features, if any.
        """
        logits = self._logits(mean)
        tilt = self._bound.tilt(logits, covariance)
        weights = self._bound.curvature(logits, covariance, tilt)
        blocks = self._blocks(weights, 1 / prior_variance, previous)
        tilt = self._bound.tilt(logits, blocks.train_covariance)
        return self._rated(State(mean, blocks, weights, tilt, prior_variance, -math.inf))

    def improve_mean(self, state: State) -> State:
        """Return the state with better means."""
        covariance = state.blocks.train_covariance
        tolerance = 0.1 * self.tolerance * abs(state.elbo)
        for _ in range(_TILTS_PER_ROUND if self._bound.follows_means else 1):
            shifts, shares = self._bound.shifts(covariance, state.tilt)
            shifts = shifts if self.offset is None else shifts + self.offset
            mean = maximise_mean(
                MeanProblem(self.features, self.targets, shifts, shares, state.prior_variance),
                state.mean,
                state.blocks.precondition,
                tolerance=tolerance,
            )
            tilt = self._bound.tilt(self._logits(mean), covariance)
            candidate = self._rated(replace(state, mean=mean, tilt=tilt))
            gain, state = candidate.elbo - state.elbo, candidate
            if gain < tolerance:
                break
        return state

    def improve_prior(self, state: State, *, means: bool = True) -> State:
        """Return the state with a better prior variance, and updated means and covariances.

        For fixed means and covariances the best variance is the mean second moment of a weight.
        Repeating that step converges slowly, since covariances and means follow the prior where
        data are uninformative. A secant through the last two steps extrapolates to where the step
        vanishes; it is accepted if the bound has not fallen after updating means and covariances.

        Args:
            state: The current state.
            means: Whether the means may move.
        """
        log_variance = math.log(state.prior_variance)
        fixed_point_step = math.log(self._second_moment(state) / state.mean.numel()) - log_variance
        for stride in (_secant(log_variance, fixed_point_step, state.previous), fixed_point_step):
            candidate = replace(
                state,
                prior_variance=math.exp(log_variance + stride),
                previous=(log_variance, fixed_point_step),
            )
            candidate = self._rated(candidate)
            for _ in range(_FOLLOWING):
                candidate = self.improve_mean(candidate) if means else candidate
                candidate = self.improve_covariance(candidate)
                if candidate.elbo >= state.elbo:
                    return candidate
        return state

    def improve_covariance(self, state: State) -> State:
        """Return the state with better covariances.

        A full step to the stationary precisions nearly always raises the bound. If it does not, a
        shorter step does: precisions are the natural parameters, and moving them towards the
        stationary precisions follows the natural gradient.
        """
        logits = self._logits(state.mean)
        target = self._bound.curvature(logits, state.blocks.train_covariance, state.tilt)
        current = state.blocks.prior_precision
        step = min(1.0, 2 * state.step)
        while step >= _SMALLEST_STEP:
            weights = torch.lerp(state.weights, target, step)
            precision = current + step * (1 / state.prior_variance - current)
            blocks = self._blocks(weights, precision, state.blocks)
            tilt = self._bound.tilt(logits, blocks.train_covariance)
            candidate = self._rated(
                replace(state, blocks=blocks, weights=weights, tilt=tilt, step=step)
            )
            if candidate.elbo >= state.elbo:
                return candidate
            step /= 2
        return state

    @property
    def _bound(self) -> AscentBound:
        return ASCENT_BOUNDS[self.bound]

    def _logits(self, mean: Tensor) -> Tensor:
        logits = mean_logits(self.features, mean)
        return logits if self.offset is None else logits + self.offset

    def _second_moment(self, state: State) -> float:
        return float(state.mean.square().sum()) + self.outside + state.blocks.trace

    def _blocks(self, weights: Tensor, precision: float, previous: Blocks | None) -> Blocks:
        problem = Problem(self.features, weights, precision, self.rank, previous, self.dtype)
        return self.family.blocks(problem)

    def _rated(self, state: State) -> State:
        """Return the state with its bound evaluated: likelihood − KL."""
        logits = self._logits(state.mean)
        covariance = state.blocks.train_covariance
        likelihood = float(self._bound.value(logits, covariance, self.labels, state.tilt).sum())
        size = state.mean.numel()
        second_moment = self._second_moment(state)
        log_ratio = size * math.log(state.prior_variance) - state.blocks.log_determinant
        kl = 0.5 * (second_moment / state.prior_variance - size + log_ratio)
        return replace(state, elbo=likelihood - kl)


def _secant(
    log_variance: float, fixed_point_step: float, previous: tuple[float, float] | None
) -> float:
    """Return the step of log σ0² that extrapolates to where the fixed-point step vanishes.

    Args:
        log_variance: log σ0².
        fixed_point_step: The fixed-point step from there.
        previous: Both values in the previous round; None in the first.
    """
    factor = _FIRST_STRIDE
    if previous is not None and previous[0] != log_variance:
        slope = (fixed_point_step - previous[1]) / (log_variance - previous[0])
        factor = min(max(1.0, -1 / slope), _LONGEST_STRIDE) if slope < 0 else _FIRST_STRIDE
    return min(max(factor * fixed_point_step, -_FARTHEST), _FARTHEST)

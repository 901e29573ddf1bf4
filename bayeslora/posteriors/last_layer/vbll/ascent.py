"""One round of coordinate ascent for a variational last layer on fixed features.

With q the bound's own class probabilities and W its curvature at the current logit moments
(`bounds.py`), the evidence lower bound is stationary where

    μ_c  = m0_c + σ0² Σ_n (1[y_n = c] − q_nc) φ_n     (`means.py`)
    σ0²  = (‖μ − m0‖² + tr S) / (C d)          (only where the prior is learned)
    S⁻¹  = I/σ0² + Σ_n W_n ⊗ φ_n φ_nᵀ          (`covariance.py`, as far as the family allows)

Means are measured from the prior mean m0, whose logits are a constant offset. Each step takes one
of these with the others held still, and none lowers the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayeslora.posteriors.features import mean_logits
from bayeslora.posteriors.last_layer.means import MeanProblem, maximise_mean
from bayeslora.posteriors.last_layer.vbll.bounds import ASCENT_BOUNDS, AscentBound
from bayeslora.posteriors.last_layer.vbll.covariance import Blocks, Covariance

# A covariance step that has to be shortened below this share gains nothing worth a factorisation.
_SMALLEST_STEP = 1e-3
# Moving the means and the tilts in turn costs little beside one factorisation.
_TILTS_PER_ROUND = 5
# A long step of the prior may take the covariances two rounds to follow.
_FOLLOWING = 2
# Of the short step, before a secant is known and at most; and the farthest in log σ0².
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
        tilt: [N, C], the best for the current moments.
        prior_variance: σ0².
        elbo: Evidence lower bound in nats.
        step: Share of the way that the last step of the covariances went.
        before: log σ0² before its last step, and how far the mean second moment was from it.
    """

    mean: Tensor
    blocks: Blocks
    weights: Tensor
    tilt: Tensor
    prior_variance: float
    elbo: float
    step: float = 1.0
    before: tuple[float, float] | None = None


@dataclass(frozen=True)
class Ascent:
    """What stays fixed during the ascent.

    Attributes:
        features: [N, d] float64, or of options [N, C, d].
        labels: [N] int64.
        targets: [N, C] one-hot labels, float64.
        bound: A key of `ASCENT_BOUNDS`.
        family: Of the covariances.
        rank: Directions of a `low_rank` covariance.
        tolerance: Relative change of the bound that no longer matters.
        dtype: Of the matrices of `dense` covariances.
        outside: Squared norm of the part of held means that is outside the features' row space.
        offset: [N, C], logits of the prior mean, from which the means are measured, and those that
            are known beforehand; None for zero.
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
        self, mean: Tensor, covariance: Tensor, prior_variance: float, before: Blocks | None = None
    ) -> State:
        """Return the state with given means and the covariances that suit those of the logits.

        Args:
            mean: [C, d].
            covariance: [N, C] or [N, C, C], a guess of the training rows' logit covariances.
            prior_variance: σ0².
            before: Covariances for the same features, where there are some.
        """
        logits = self._logits(mean)
        tilt = self._bound.tilt(logits, covariance)
        weights = self._bound.curvature(logits, covariance, tilt)
        blocks = self._blocks(weights, 1 / prior_variance, before)
        tilt = self._bound.tilt(logits, blocks.train_covariance)
        return self._rated(State(mean, blocks, weights, tilt, prior_variance, -math.inf))

    def improve_mean(self, state: State) -> State:
        """Return the state with better means."""
        covariance = state.blocks.train_covariance
        enough = 0.1 * self.tolerance * abs(state.elbo)
        for _ in range(_TILTS_PER_ROUND if self._bound.follows_means else 1):
            shifts, shares = self._bound.shifts(covariance, state.tilt)
            shifts = shifts if self.offset is None else shifts + self.offset
            mean = maximise_mean(
                MeanProblem(self.features, self.targets, shifts, shares, state.prior_variance),
                state.mean,
                state.blocks.precondition,
                tolerance=enough,
            )
            tilt = self._bound.tilt(self._logits(mean), covariance)
            moved = self._rated(replace(state, mean=mean, tilt=tilt))
            gain, state = moved.elbo - state.elbo, moved
            if gain < enough:
                break
        return state

    def improve_prior(self, state: State, *, means: bool = True) -> State:
        """Return the state with a better prior variance, and means and covariances that suit it.

        For given means and covariances the best variance is the mean second moment of a weight.
        Repeating that step converges slowly, since covariances and means follow the prior where
        data say little. A secant through the last two steps extrapolates to where the step would
        vanish; it is kept if the bound has not fallen once means and covariances are updated.

        Args:
            state: Where to go on from.
            means: Whether the means may move.
        """
        place = math.log(state.prior_variance)
        short = math.log(self._second_moment(state) / state.mean.numel()) - place
        for stride in (_secant(place, short, state.before), short):
            moved = replace(state, prior_variance=math.exp(place + stride), before=(place, short))
            moved = self._rated(moved)
            for _ in range(_FOLLOWING):
                moved = self.improve_mean(moved) if means else moved
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
        logits = self._logits(state.mean)
        wanted = self._bound.curvature(logits, state.blocks.train_covariance, state.tilt)
        held = state.blocks.prior_precision
        step = min(1.0, 2 * state.step)
        while step >= _SMALLEST_STEP:
            weights = torch.lerp(state.weights, wanted, step)
            precision = held + step * (1 / state.prior_variance - held)
            blocks = self._blocks(weights, precision, state.blocks)
            tilt = self._bound.tilt(logits, blocks.train_covariance)
            moved = self._rated(
                replace(state, blocks=blocks, weights=weights, tilt=tilt, step=step)
            )
            if moved.elbo >= state.elbo:
                return moved
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

    def _blocks(self, weights: Tensor, precision: float, before: Blocks | None) -> Blocks:
        return self.family.blocks(
            self.features,
            weights,
            precision,
            rank=self.rank,
            before=before,
            dtype=self.dtype,
        )

    def _rated(self, state: State) -> State:
        """Return the state with its bound: likelihood − KL."""
        logits = self._logits(state.mean)
        covariance = state.blocks.train_covariance
        likelihood = float(self._bound.value(logits, covariance, self.labels, state.tilt).sum())
        size = state.mean.numel()
        second_moment = self._second_moment(state)
        spread = size * math.log(state.prior_variance) - state.blocks.log_determinant
        kl = 0.5 * (second_moment / state.prior_variance - size + spread)
        return replace(state, elbo=likelihood - kl)


def _secant(place: float, short: float, before: tuple[float, float] | None) -> float:
    """Return the step of log σ0² that extrapolates to where the fixed-point step vanishes.

    Args:
        place: log σ0².
        short: The fixed-point step from there.
        before: Both of the round before; None in the first.
    """
    times = _FIRST_STRIDE
    if before is not None and before[0] != place:
        slope = (short - before[1]) / (place - before[0])
        times = min(max(1.0, -1 / slope), _LONGEST_STRIDE) if slope < 0 else _FIRST_STRIDE
    return min(max(times * short, -_FARTHEST), _FARTHEST)

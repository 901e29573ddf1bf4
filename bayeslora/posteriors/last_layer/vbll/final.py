"""Closed-form fit of a variational last layer to fixed features.

Coordinate ascent over means, prior variance and covariances until the evidence lower bound
converges. Algebra is batched over classes, and done in the row space of the features if that is
smaller. Dense covariances are fitted in stages, each started from the result of the previous stage:
in the eigenbasis, in float32, and finally in float64. `Polisher` also
chooses the prior scale and the means.

With q the class probabilities of the bound and W its curvature at the current logit moments
(`bounds.py`), the evidence lower bound is stationary where

    μ_c  = σ0² Σ_n (1[y_n = c] − q_nc) φ_n     (`algebra.py`)
    σ0²  = (‖μ‖² + tr S) / (C d)               (only where the prior is learned)
    S⁻¹  = I/σ0² + Σ_n W_n ⊗ φ_n φ_nᵀ          (`covariance.py`, as far as the family allows)

with means μ relative to the prior mean m0, whose logits are a constant offset. In a row space, d is
its dimension: outside, S is the prior, which does not move the fixed point of σ0². A round updates
the means and then the covariances, each with the others fixed. A round with a learned prior moves
σ0² by an extrapolated step, lets means and covariances follow, and is kept only if the bound did
not fall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.links import hard, link_probabilities, nll
from bayeslora.logits import GaussianLogits
from bayeslora.posteriors.base import DEFAULT_PRIOR_SCALE
from bayeslora.posteriors.last_layer.algebra import MeanProblem, RowSpace, maximise_mean
from bayeslora.posteriors.last_layer.vbll import CROSS_VALIDATION, VBLL
from bayeslora.posteriors.last_layer.vbll.bounds import best_tilt, curvature, tilt_terms, tilted
from bayeslora.posteriors.last_layer.vbll.covariance import (
    FAMILIES,
    Dense,
    Eigenbasis,
    Optimum,
    SharedDense,
)
from bayeslora.posteriors.types import Features, mean_logits

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
# Relative change of the bound at which a stage before the last stops.
_ROUGH_TOLERANCE = 1e-5
# The bound is flat in the prior scale: below this, rounds change the NLL by a thousandth at most.
_LEARNING_TOLERANCE = 1e-5
# Fixed means are short of their optimum, so their size is not informative about the prior; a wide
# prior would only add variance to logits that are already too small.
HELD_PRIOR_SCALE = 0.5
WIDE_PRIOR_SCALE = 8.0
"""Prior scale of a last layer on frozen features with few rows that separate the classes: there the
bound is highest at priors that are far too narrow."""
FOLDS = 5


@dataclass(frozen=True)
class State:
    """A point of the ascent.

    Attributes:
        mean: [C, d].
        covariance: The covariances.
        weights: [N, C] or [N, C, C], the curvatures W of the rows behind them.
        tilt: [N, C], optimal for the current moments.
        prior_variance: σ0².
        elbo: Evidence lower bound in nats.
        step: Length of the last covariance step, relative to the full step.
        previous: log σ0² before its last step, and the fixed-point step from there.
    """

    mean: Tensor
    covariance: Optimum
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
        family: Family of the covariances.
        offset: [N, C], logits of the prior mean, the origin of the means, plus known logits; None
            for zero.
        learn_prior: Also maximise over σ0² (empirical Bayes).
        hold_mean: Keep the means.
        outside: Squared norm of kept means outside the features' row space.
        max_iterations: Maximum number of rounds; at least one.
        tolerance: Relative change of the bound below which to stop.
        dtype: Dtype of the matrices of `dense` covariances.
    """

    features: Tensor
    labels: Tensor
    targets: Tensor
    family: type[Optimum]
    offset: Tensor | None
    learn_prior: bool
    hold_mean: bool
    outside: float
    max_iterations: int
    tolerance: float
    dtype: torch.dtype = torch.float64

    def stages(self) -> list[Ascent]:
        """Return cheaper problems whose solutions are near, and last the full problem."""
        if self.family is not Dense:
            return [self]
        rough = replace(self, tolerance=max(self.tolerance, _ROUGH_TOLERANCE))
        return [replace(rough, family=Eigenbasis), replace(rough, dtype=torch.float32), self]

    def climb(self, state: State) -> tuple[State, list[float]]:
        """Return the state after all rounds, and the bound before and after each."""
        trace = [state.elbo]
        for _ in range(self.max_iterations):
            if self.learn_prior:
                state = self.round_with_prior(state)
            else:
                state = self.improve_covariance(self.improve_mean(state))
            trace.append(state.elbo)
            if _settled(trace, self.tolerance):
                break
        return state, trace

    def begin(
        self,
        mean: Tensor,
        covariance: Tensor,
        prior_variance: float,
        previous: Optimum | None = None,
    ) -> State:
        """Return the initial state for means and logit covariances.

        Args:
            mean: [C, d].
            covariance: [N, C] or [N, C, C], a guess of the training rows' logit covariances.
            prior_variance: σ0².
            previous: Covariances for the same features, if any.
        """
        logits = self._logits(mean)
        weights = curvature(logits, covariance, best_tilt(logits, covariance))
        optimum = self._optimum(weights, 1 / prior_variance, previous)
        tilt = best_tilt(logits, optimum.train_covariance)
        return self._rated(State(mean, optimum, weights, tilt, prior_variance, -math.inf))

    def improve_mean(self, state: State) -> State:
        """Return the state with better means, unless they are kept."""
        if self.hold_mean:
            return state
        covariance = state.covariance.train_covariance
        tolerance = 0.1 * self.tolerance * abs(state.elbo)
        for _ in range(_TILTS_PER_ROUND):
            shift = tilt_terms(covariance, state.tilt)[0]
            shift = shift if self.offset is None else shift + self.offset
            mean = maximise_mean(
                MeanProblem(self.features, self.targets, shift, state.prior_variance),
                state.mean,
                state.covariance.precondition,
                tolerance=tolerance,
            )
            tilt = best_tilt(self._logits(mean), covariance)
            candidate = self._rated(replace(state, mean=mean, tilt=tilt))
            gain, state = candidate.elbo - state.elbo, candidate
            if gain < tolerance:
                break
        return state

    def round_with_prior(self, state: State) -> State:
        """Return the state with a better prior variance, and updated means and covariances.

        For fixed means and covariances the best variance is the mean second moment of a weight.
        Repeating that step converges slowly, since covariances and means follow the prior where
        data are uninformative. A secant through the last two steps extrapolates to where the step
        vanishes; it is accepted if the bound has not fallen after updating means and covariances.
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
                candidate = self.improve_covariance(self.improve_mean(candidate))
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
        target = curvature(logits, state.covariance.train_covariance, state.tilt)
        current = state.covariance.prior_precision
        step = min(1.0, 2 * state.step)
        while step >= _SMALLEST_STEP:
            weights = torch.lerp(state.weights, target, step)
            precision = current + step * (1 / state.prior_variance - current)
            optimum = self._optimum(weights, precision, state.covariance)
            tilt = best_tilt(logits, optimum.train_covariance)
            candidate = self._rated(
                replace(state, covariance=optimum, weights=weights, tilt=tilt, step=step)
            )
            if candidate.elbo >= state.elbo:
                return candidate
            step /= 2
        return state

    def _logits(self, mean: Tensor) -> Tensor:
        logits = mean_logits(self.features, mean)
        return logits if self.offset is None else logits + self.offset

    def _second_moment(self, state: State) -> float:
        return float(state.mean.square().sum()) + self.outside + state.covariance.trace

    def _optimum(self, weights: Tensor, precision: float, previous: Optimum | None) -> Optimum:
        return self.family(self.features, weights, precision, previous, self.dtype)

    def _rated(self, state: State) -> State:
        """Return the state with its bound evaluated: likelihood − KL."""
        logits = self._logits(state.mean)
        covariance = state.covariance.train_covariance
        likelihood = float(tilted(logits, covariance, self.labels, state.tilt).sum())
        size = state.mean.numel()
        second_moment = self._second_moment(state)
        log_ratio = size * math.log(state.prior_variance) - state.covariance.log_determinant
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


@dataclass(frozen=True)
class Start:
    """Initial values of coordinate ascent.

    Attributes:
        mean: [C, d].
        covariance: [N, C] or [N, C, C], of the training rows' logits.
    """

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Polished:
    """The fitted posterior.

    Attributes:
        mean: [C, d] float64.
        prior_variance: σ0².
        elbo: Evidence lower bound in nats after every round; never decreases.
        converged: Whether the last change was within the tolerance.
    """

    mean: Tensor
    prior_variance: float
    elbo: list[float]
    converged: bool
    _state: State = field(repr=False)
    _space: RowSpace = field(repr=False)
    _rows: Features = field(repr=False)

    def moments(self, rows: Features) -> tuple[Tensor, Tensor]:
        """Return the logits' means [M, C] and covariances [M, C] or [M, C, C]."""
        rows = rows.double()
        covariance = self._state.covariance.of_logits(self._space.coordinates(rows.values))
        if self._space.basis is not None:
            outside = self._space.outside(rows.values)
            covariance = covariance + outside / self._state.covariance.prior_precision
        return rows.logits(self.mean), covariance

    def covariance(self) -> dict[str, Tensor]:
        """Return the covariance of the weights in all d dimensions, see `Optimum.stored`."""
        return self._state.covariance.stored(self._rows.values, self._state.weights)


def polish(
    rows: Features,
    num_classes: int,
    *,
    prior_variance: float,
    covariance: str = "dense",
    start: Start | None = None,
    learn_prior: bool = False,
    hold_mean: bool = False,
    prior_mean: Tensor | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
) -> Polished:
    """Maximise the evidence lower bound over means and covariances (and the prior variance).

    Args:
        rows: Labelled.
        num_classes: C, or 1 for options, for their shared weight vector.
        prior_variance: σ0² of a weight, or its initial value if it is learned.
        covariance: `dense` or `eigenbasis`; options have only `dense`.
        start: A fit of a similar problem; None starts from the prior mean.
        learn_prior: Also maximise over σ0² (empirical Bayes).
        hold_mean: Keep the means of `start` fixed.
        prior_mean: [C, d]; None for zero.
        max_iterations: Maximum number of rounds; at least one.
        tolerance: Relative change of the bound below which to stop.
    """
    rows = rows.double()
    features = rows.values
    shared = features.ndim == 3
    family = SharedDense if shared else FAMILIES[covariance]
    space = RowSpace(None) if shared else RowSpace.of(features)
    options = features.shape[1] if shared else num_classes
    targets = rows.targets
    if targets.ndim == 1:
        targets = torch.nn.functional.one_hot(targets, options).double()
    offset = rows.known
    if prior_mean is not None:
        offset = rows.logits(prior_mean.double())
    centre = features.new_zeros(num_classes, features.shape[-1])
    centre = centre if prior_mean is None else prior_mean.double()
    if start is None:
        start = Start(centre, targets.new_zeros(targets.shape))
    start_mean = start.mean.double() - centre
    ascent = Ascent(
        features=space.coordinates(features),
        labels=rows.targets,
        targets=targets,
        family=family,
        offset=offset,
        learn_prior=learn_prior,
        hold_mean=hold_mean,
        outside=float(space.outside(start_mean).sum()) if hold_mean else 0.0,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    logit_covariance = start.covariance.double()
    if shared and logit_covariance.ndim == 2:
        logit_covariance = torch.diag_embed(logit_covariance)
    mean, optimum = space.coordinates(start_mean), None
    for stage in ascent.stages():
        try:
            state, trace = stage.climb(stage.begin(mean, logit_covariance, prior_variance, optimum))
        except InputError:  # rows differ in size by more than float32 can hold
            if stage is ascent:
                raise
            continue
        mean, optimum, prior_variance = state.mean, state.covariance, state.prior_variance
        logit_covariance = optimum.train_covariance
    return Polished(
        mean=start.mean.double() if hold_mean else centre + space.expand(state.mean),
        prior_variance=state.prior_variance,
        elbo=trace,
        converged=len(trace) > 1 and _settled(trace, tolerance),
        _state=state,
        _space=space,
        _rows=rows,
    )


def _settled(trace: list[float], tolerance: float) -> bool:
    return trace[-1] - trace[-2] < tolerance * abs(trace[-1])


@dataclass(frozen=True)
class Polisher:
    """Final fits of a variational last layer to the features of one adapter.

    Attributes:
        config: Covariance, prior scale, means, link.
        train: Training rows.
        num_classes: C, or 1 for options.
        mean_sq_norm: Mean ‖φ‖² behind the prior scale: σ0² = τ² / mean ‖φ‖².
        validation: Held-out rows; without them means `validation` are refitted.
        prior_mean: [C, d]; None for zero.
        scale_if_open: Prior scale of refitted means in the place of one that must be chosen, where
            epochs are compared; None chooses it.
    """

    config: VBLL
    train: Features
    num_classes: int
    mean_sq_norm: float
    validation: Features | None = None
    prior_mean: Tensor | None = None
    scale_if_open: float | None = None

    def fit(self, start: Start | None = None, trained: Start | None = None) -> Polished:
        """Fit the posterior as configured.

        Args:
            start: A fit to similar features; None starts from the prior mean.
            trained: The trained posterior; without it the means are refitted.
        """
        means = self.config.polish_mean
        is_open = means == "validation" and self.validation is None
        if trained is None or means == "refit" or is_open:
            return self._refit(start)
        scale = HELD_PRIOR_SCALE if self._stated_scale is None else self._stated_scale
        fixed_mean = self._under(scale, trained, hold_mean=True)
        if means == "trained":
            return fixed_mean
        return min((self._refit(start), fixed_mean), key=self._validation_nll)

    def _refit(self, start: Start | None) -> Polished:
        """Return the optimum over the means too, under the configured prior."""
        scale = self.scale_if_open if self._stated_scale is None else self._stated_scale
        if scale is not None:
            return self._under(scale, start)
        if self.config.prior_scale == CROSS_VALIDATION and self._wide_is_better():
            return self._under(WIDE_PRIOR_SCALE, start)
        return self._learned(start)

    @property
    def _stated_scale(self) -> float | None:
        """The prior scale, if the configuration states a number."""
        scale = self.config.prior_scale
        return None if isinstance(scale, str) else scale

    def _wide_is_better(self) -> bool:
        """Return whether a wide prior has the lower cross-validated NLL."""
        fold = _folds(hard(self.train.targets))
        gain = 0.0
        for index in range(FOLDS):
            held_out = fold == index
            if not held_out.any() or held_out.all():
                continue
            split = replace(
                self, train=self.train.take(~held_out), validation=self.train.take(held_out)
            )
            wide = split._under(WIDE_PRIOR_SCALE, None, tolerance=_LEARNING_TOLERANCE)
            difference = split._validation_nll(split._learned(None)) - split._validation_nll(wide)
            gain += difference * int(held_out.sum())
        return gain > 0

    def _learned(self, start: Start | None) -> Polished:
        """Return the optimum over the prior scale too (empirical Bayes)."""
        return self._under(
            DEFAULT_PRIOR_SCALE, start, tolerance=_LEARNING_TOLERANCE, learn_prior=True
        )

    def _under(self, scale: float, start: Start | None, **options: Any) -> Polished:
        """Return the fit under a prior scale; further options are those of `polish`."""
        return polish(
            self.train,
            self.num_classes,
            prior_variance=scale**2 / self.mean_sq_norm,
            covariance=self.config.with_family("dense").covariance,
            start=start,
            prior_mean=self.prior_mean,
            **options,
        )

    def _validation_nll(self, polished: Polished) -> float:
        assert self.validation is not None  # noqa: S101 - for the type checker
        logits = GaussianLogits(*polished.moments(self.validation))
        probs = link_probabilities(logits, self.config.link, self.config.num_samples).probs
        return nll(probs, self.validation.targets)


def _folds(labels: Tensor) -> Tensor:
    """Return the fold [N] of each row, stratified by class in a fixed random order."""
    generator = torch.Generator().manual_seed(0)
    fold = torch.empty(len(labels), dtype=torch.long)
    for index, label in enumerate(sorted(set(labels.tolist()))):
        rows = (labels == label).nonzero().ravel().cpu()
        order = torch.randperm(len(rows), generator=generator)
        fold[rows[order]] = (torch.arange(len(rows)) + index) % FOLDS
    return fold.to(labels.device)

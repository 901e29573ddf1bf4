"""Closed-form fit of a variational last layer to fixed features.

Coordinate ascent over means, prior variance and covariances (`vbll_ascent.py`) until the evidence
lower bound settles. Algebra is batched over classes, and done in the row space of the features
where that is smaller. Dense covariances are approached in stages, each of which starts where the
one before settled: in the eigenbasis, in float32, and at last in float64, as all others are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.bounds import curvature
from bayeslora.posteriors.covariances import Covariance
from bayeslora.posteriors.rowspace import RowSpace
from bayeslora.posteriors.vbll_ascent import Ascent, State
from bayeslora.posteriors.vbll_families import ROTATABLE, make_blocks

# Relative change of the bound at which a stage before the last has done its work.
_ROUGH_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Start:
    """Where coordinate ascent starts.

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
        family: `dense`, `eigenbasis`, `diagonal`, `low_rank` or `full`.
        elbo: Evidence lower bound in nats after every round; it never falls.
        converged: Whether the last change was within the tolerance.
    """

    mean: Tensor
    prior_variance: float
    family: str
    elbo: list[float]
    converged: bool
    _state: State = field(repr=False)
    _space: RowSpace = field(repr=False)
    _features: Tensor = field(repr=False)
    _rank: int = field(repr=False)

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits' means [M, C] and covariances [M, C] or [M, C, C], for [M, d]."""
        features = features.double()
        blocks = self._state.blocks
        inside = blocks.of_logits(self._space.coordinates(features))
        outside = self._space.outside(features) / blocks.prior_precision
        if inside.ndim == 3:
            outside = torch.diag_embed(outside.expand(-1, inside.shape[1]))
        return features @ self.mean.T, inside + outside

    def covariance(self) -> Covariance:
        """Return the covariance of the weights in all d dimensions."""
        blocks = self._state.blocks
        if self._space.basis is None:
            return blocks.stored()
        best = ROTATABLE[self.family]
        return best(self._features, self._state.weights, blocks.prior_precision)

    def refined(self) -> Polished:
        """Return the posterior with the Laplace covariance at the same means.

        Rows then weigh p (1 − p), or diag p − p pᵀ, with p = softmax(m): the exact curvature at the
        mean. The result is no longer the optimum of one objective.
        """
        inside = self._space.coordinates(self._features)
        logits = self._features @ self.mean.T
        still = torch.zeros_like(self._state.blocks.train_covariance)
        weights = curvature(logits, still, logits.softmax(-1))
        blocks = make_blocks(
            self.family,
            inside,
            weights,
            1 / self.prior_variance,
            rank=self._rank,
            before=self._state.blocks,
        )
        return replace(self, _state=replace(self._state, blocks=blocks, weights=weights))

    @property
    def start(self) -> Start:
        """Where a fit of the same rows under another prior should start."""
        return Start(self.mean, self._state.blocks.train_covariance)


def polish(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    prior_variance: float,
    bound: str = "knowles_minka",
    covariance: str = "dense",
    rank: int = 1,
    start: Start | None = None,
    learn_prior: bool = False,
    hold_mean: bool = False,
    prior_mean: Tensor | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
) -> Polished:
    """Maximise the evidence lower bound over means and covariances (and the prior variance).

    Args:
        features: [N, d].
        labels: [N] int64 class indices.
        num_classes: C.
        prior_variance: σ0² of a weight, or where to start where it is learned.
        bound: `jensen`, `knowles_minka`, `tilted` or `gauss_hermite`.
        covariance: `dense`, `eigenbasis`, `diagonal`, `low_rank` or `full`.
        rank: Directions of a `low_rank` covariance.
        start: A fit of nearly the same problem; the prior mean otherwise.
        learn_prior: Take σ0² as a further unknown (empirical Bayes).
        hold_mean: Leave the means of `start` as they are.
        prior_mean: [C, d]; None for zero.
        max_iterations: At most this many rounds; at least one.
        tolerance: Stop when the bound changes by less than this, relative to its size.
    """
    features = features.double()
    # A diagonal covariance is not diagonal in rotated coordinates.
    space = RowSpace.of(features) if covariance in ROTATABLE else RowSpace(None)
    targets = torch.nn.functional.one_hot(labels, num_classes).double()
    centre = features.new_zeros(num_classes, features.shape[1])
    centre = centre if prior_mean is None else prior_mean.double()
    start = Start(centre, torch.zeros_like(targets)) if start is None else start
    apart = start.mean.double() - centre
    ascent = Ascent(
        space.coordinates(features),
        labels,
        targets,
        bound,
        covariance,
        rank,
        tolerance,
        outside=float(space.outside(apart).sum()) if hold_mean else 0.0,
        offset=None if prior_mean is None else features @ centre.T,
    )
    around = _in_shape(start.covariance.double(), is_full=covariance == "full")
    mean, before = space.coordinates(apart), None
    climb = partial(
        _climb, learn_prior=learn_prior, hold_mean=hold_mean, max_iterations=max_iterations
    )
    for stage in _rough_stages(ascent):
        try:
            state = climb(stage, stage.begin(mean, around, prior_variance, before))[0]
        except InputError:  # rows differ in size by more than float32 can hold
            continue
        mean, around, before = state.mean, state.blocks.train_covariance, state.blocks
        prior_variance = state.prior_variance
    state, trace = climb(ascent, ascent.begin(mean, around, prior_variance, before))
    return Polished(
        mean=start.mean.double() if hold_mean else centre + space.expand(state.mean),
        prior_variance=state.prior_variance,
        family=covariance,
        elbo=trace,
        converged=len(trace) > 1 and _settled(trace, tolerance),
        _state=state,
        _space=space,
        _features=features,
        _rank=rank,
    )


def _rough_stages(ascent: Ascent) -> list[Ascent]:
    """Return the cheaper problems whose solutions lead near that of the whole one."""
    if ascent.covariance != "dense":
        return []
    rough = replace(ascent, tolerance=max(ascent.tolerance, _ROUGH_TOLERANCE))
    return [replace(rough, covariance="eigenbasis"), replace(rough, dtype=torch.float32)]


def _climb(
    ascent: Ascent, state: State, *, learn_prior: bool, hold_mean: bool, max_iterations: int
) -> tuple[State, list[float]]:
    """Return the state after at most so many rounds, and the bound after each."""
    trace = [state.elbo]
    for _ in range(max_iterations):
        if learn_prior:
            state = ascent.improve_prior(state, means=not hold_mean)
        else:
            state = state if hold_mean else ascent.improve_mean(state)
            state = ascent.improve_covariance(state)
        trace.append(state.elbo)
        if _settled(trace, ascent.tolerance):
            break
    return state, trace


def _settled(trace: list[float], tolerance: float) -> bool:
    return trace[-1] - trace[-2] < tolerance * abs(trace[-1])


def _in_shape(covariance: Tensor, *, is_full: bool) -> Tensor:
    """Return logit covariances in the shape of the family that starts from them."""
    if is_full == (covariance.ndim == 3):
        return covariance
    return torch.diag_embed(covariance) if is_full else covariance.diagonal(dim1=-2, dim2=-1)

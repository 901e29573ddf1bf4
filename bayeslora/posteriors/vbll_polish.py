"""Closed-form fit of a variational last layer to fixed features.

Coordinate ascent over means, prior variance and covariances (`vbll_ascent.py`) until the evidence
lower bound settles. All algebra is float64, batched over classes, and done in the row space of the
features where that is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bayeslora.posteriors.rowspace import RowSpace
from bayeslora.posteriors.vbll_ascent import Ascent, State
from bayeslora.posteriors.vbll_blocks import BLOCKS, DenseBlocks


@dataclass(frozen=True)
class Start:
    """Where coordinate ascent starts.

    Attributes:
        mean: [C, d].
        variance: [N, C] logit variances of the training rows.
    """

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Polished:
    """The fitted posterior.

    Attributes:
        mean: [C, d] float64.
        prior_variance: σ0².
        covariance: `dense` or `diagonal`.
        elbo: Evidence lower bound in nats after every round; it never falls.
        converged: Whether the last change was within the tolerance.
    """

    mean: Tensor
    prior_variance: float
    covariance: str
    elbo: list[float]
    converged: bool
    _state: State = field(repr=False)
    _space: RowSpace = field(repr=False)
    _features: Tensor = field(repr=False)

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and variances of the logits, [M, C] each, for [M, d] features."""
        features = features.double()
        blocks = self._state.blocks
        inside = blocks.variance(self._space.coordinates(features))
        outside = self._space.outside(features) / blocks.prior_precision
        return features @ self.mean.T, inside + outside

    def scale(self) -> Tensor:
        """Return the factors of the covariances in all d dimensions, as in `gaussian.py`."""
        blocks = self._state.blocks
        if self._space.basis is None:
            return blocks.scale()
        return DenseBlocks(self._features, self._state.weights, blocks.prior_precision).scale()

    def refined(self) -> Polished:
        """Return the posterior with the Laplace covariance at the same means.

        Rows then weigh p (1 − p) with p = softmax(m): the exact curvature at the mean. The result
        is no longer the optimum of one objective.
        """
        inside = self._space.coordinates(self._features)
        probs = (self._features @ self.mean.T).softmax(-1)
        weights = probs * (1 - probs)
        blocks = BLOCKS[self.covariance](inside, weights, 1 / self.prior_variance)
        return replace(self, _state=replace(self._state, blocks=blocks, weights=weights))

    @property
    def start(self) -> Start:
        """Where a fit of the same rows under another prior should start."""
        return Start(self.mean, self._state.blocks.train_variance)


def polish(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    prior_variance: float,
    bound: str = "knowles_minka",
    covariance: str = "dense",
    start: Start | None = None,
    learn_prior: bool = False,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
) -> Polished:
    """Maximise the evidence lower bound over means and covariances (and the prior variance).

    Args:
        features: [N, d].
        labels: [N] int64 class indices.
        num_classes: C.
        prior_variance: σ0² of a weight, or where to start where it is learned.
        bound: `jensen` or `knowles_minka`.
        covariance: `dense` or `diagonal`.
        start: A fit of nearly the same problem; zero means otherwise.
        learn_prior: Take σ0² as a further unknown (empirical Bayes).
        max_iterations: At most this many rounds; at least one.
        tolerance: Stop when the bound changes by less than this, relative to its size.
    """
    features = features.double()
    # A diagonal covariance is not diagonal in rotated coordinates.
    space = RowSpace.of(features) if covariance == "dense" else RowSpace(None)
    targets = torch.nn.functional.one_hot(labels, num_classes).double()
    if start is None:
        start = Start(features.new_zeros(num_classes, features.shape[1]), torch.zeros_like(targets))
    ascent = Ascent(space.coordinates(features), labels, targets, bound, covariance, tolerance)
    state = ascent.begin(
        space.coordinates(start.mean.double()), start.variance.double(), prior_variance
    )
    trace = [state.elbo]
    converged = False
    for _ in range(max_iterations):
        state = ascent.improve_mean(state)
        state = ascent.improve_prior(state) if learn_prior else ascent.improve_covariance(state)
        trace.append(state.elbo)
        converged = trace[-1] - trace[-2] < tolerance * abs(trace[-1])
        if converged:
            break
    return Polished(
        mean=space.expand(state.mean),
        prior_variance=state.prior_variance,
        covariance=covariance,
        elbo=trace,
        converged=converged,
        _state=state,
        _space=space,
        _features=features,
    )

"""Linear algebra of last layers: row space of features, factors of precisions, class contrasts.

In directions orthogonal to all N training rows the posterior equals the prior exactly. With fewer
rows than features, last-layer algebra therefore needs N dimensions instead of d: the same saving as
by the matrix inversion lemma, without a second set of formulas.

*Means* of a variational last layer, for fixed covariances.

Maximise over μ [C, d] the concave

    Σ_n [ m_{n,y_n} − lse(m_n + h_n) ] − ‖μ‖² / (2σ0²),    m = Φ μᵀ,   h fixed

by preconditioned conjugate gradients (Polak-Ribière). The shift h is defined in `vbll/bounds.py`.
Along a direction the logits are m + t Δm, so the line search costs N C operations per step and
never touches the features.

*Prior precision* δ of a Laplace approximation, by its evidence

    log p(D | δ) ≈ log p(D | θ̂) − ½ δ ‖θ̂ − M‖² − ½ log|H + δI| + ½ C d log δ

or the NLL of held-out rows. Both are searched over log10 δ, relative to the features' mean squared
norm: δ = mean ‖φ‖² / τ² with τ the prior standard deviation of a logit.

Source: MacKay 1992; Immer et al. 2021, arXiv 2104.04975.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.posteriors.types import mean_logits, weight_gradient


@dataclass(frozen=True)
class RowSpace:
    """An orthonormal basis of the training rows.

    Attributes:
        basis: [d, r] with orthonormal columns; None if r = d, where a rotation is not worthwhile.
    """

    basis: Tensor | None

    @classmethod
    def of(cls, features: Tensor) -> RowSpace:
        """Return the span of [N, d] features; the whole space if N >= d."""
        rows, size = features.shape
        return cls(torch.linalg.qr(features.T)[0] if rows < size else None)

    def coordinates(self, features: Tensor) -> Tensor:
        """Return [N, r] coordinates of [N, d] features (or of [C, d] weights)."""
        return features if self.basis is None else features @ self.basis

    def outside(self, features: Tensor) -> Tensor:
        """Return the squared norm, [N, 1], of the part of [N, d] features outside the space."""
        if self.basis is None:
            return features.new_zeros(len(features), 1)
        residual = features - self.coordinates(features) @ self.basis.T
        return residual.square().sum(-1, keepdim=True)

    def expand(self, coordinates: Tensor) -> Tensor:
        """Return the [C, d] vectors with [C, r] coordinates."""
        return coordinates if self.basis is None else coordinates @ self.basis.T


def precision_to_lower(precision: Tensor) -> Tensor:
    """Return the lower triangle L with L Lᵀ = precision⁻¹, for [..., d, d] precisions.

    The Cholesky factor of the precision with reversed axes, reversed again, is the upper triangle
    U with U Uᵀ = precision, and L is the inverse of Uᵀ. This takes one factorisation and one
    triangular solve, without the explicit inverse.

    Raises:
        InputError: A precision is numerically not positive definite.
    """
    reverse = (-2, -1)
    upper = precision_factor(precision.flip(reverse)).flip(reverse)
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    lower: Tensor = torch.linalg.solve_triangular(
        upper.transpose(-2, -1), eye.expand_as(precision), upper=False
    )
    return lower


def precision_factor(precision: Tensor) -> Tensor:
    """Return the Cholesky factor of [..., d, d] precisions.

    Raises:
        InputError: A precision is numerically not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        raise InputError(
            "the precision of the weights is not positive definite in float64, which happens if "
            "the features of some rows are larger by a factor of 1e8 or more; remove the largest "
            "rows, or scale them"
        )
    result: Tensor = factor
    return result


def minimise(loss: Callable[[], Tensor], free: Tensor, max_steps: int, tolerance: float) -> None:
    """Minimise a smooth loss by L-BFGS, in place.

    Args:
        loss: Loss at the present value of `free`.
        free: Leaf that requires gradients, of the loss's float64.
        max_steps: Maximum number of iterations.
        tolerance: Stop when no gradient is larger.
    """
    search: Any = torch.optim.LBFGS(
        [free],
        max_iter=max_steps,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        search.step(closure)


def class_contrasts(num_classes: int) -> Tensor:
    """Return Helmert contrasts [C, C−1], float64: orthonormal columns, each summing to zero."""
    order = torch.arange(1, num_classes, dtype=torch.float64)
    contrasts = torch.ones(num_classes, num_classes - 1, dtype=torch.float64).triu()
    contrasts[1:] -= torch.diag(order)
    return contrasts / (order * (order + 1)).sqrt()


@dataclass(frozen=True)
class MeanProblem:
    """The concave objective of the means.

    Attributes:
        features: [N, d] float64, or [N, C, d] for options, whose weights μ are one vector [1, d].
        targets: [N, C] one-hot labels, float64.
        shift: [N, C], the shift h of the logits inside the log-sum-exp.
        prior_variance: σ0².
    """

    features: Tensor
    targets: Tensor
    shift: Tensor
    prior_variance: float

    def gradient(self, mean: Tensor, logits: Tensor) -> Tensor:
        """Return the objective's gradient, [C, d]."""
        residual = self.targets - (logits + self.shift).softmax(-1)
        return weight_gradient(self.features, residual) - mean / self.prior_variance

    def line(self, mean: Tensor, logits: Tensor, direction: Tensor, change: Tensor) -> float:
        """Return the step along `direction` that maximises the objective, by safeguarded Newton."""
        linear = float((self.targets * change).sum())
        linear -= float((mean * direction).sum()) / self.prior_variance
        square = float(direction.square().sum()) / self.prior_variance
        base = logits + self.shift

        def gain(step: float) -> float:
            normaliser = float((base + step * change).logsumexp(-1).sum())
            return step * linear - normaliser - 0.5 * step**2 * square

        step, best = 0.0, gain(0.0)
        for _ in range(8):
            probs = (base + step * change).softmax(-1)
            average = (probs * change).sum(-1)
            slope = linear - float(average.sum()) - step * square
            variance = (probs * change.square()).sum(-1) - average.square()
            curvature = float(variance.sum()) + square
            move = slope / curvature
            while gain(step + move) < best and abs(move) > 1e-12:
                move /= 2
            if abs(move) <= 1e-6 * abs(step) or abs(move) <= 1e-12:
                break
            step += move
            best = gain(step)
        return step


def maximise_mean(
    problem: MeanProblem,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    max_iterations: int = 20,
    tolerance: float,
) -> Tensor:
    """Return the means [C, d] that maximise the objective.

    Args:
        problem: The objective.
        start: [C, d] initial means.
        precondition: Applies an approximate inverse of the negative Hessian to a gradient.
        max_iterations: Maximum number of conjugate-gradient steps.
        tolerance: Stop when the predicted gain, in nats over all rows, is below this.
    """
    mean = start
    logits = mean_logits(problem.features, mean)
    gradient = problem.gradient(mean, logits)
    solved = precondition(gradient)
    direction = solved
    for _ in range(max_iterations):
        predicted_gain = float((gradient * solved).sum())
        if predicted_gain < tolerance:
            break
        change = mean_logits(problem.features, direction)
        step = problem.line(mean, logits, direction, change)
        mean = mean + step * direction
        logits = logits + step * change
        solved_before = solved
        gradient = problem.gradient(mean, logits)
        solved = precondition(gradient)
        conjugate = float((gradient * (solved - solved_before)).sum()) / predicted_gain
        direction = solved + max(0.0, conjugate) * direction
        if float((direction * gradient).sum()) <= 0:
            direction = solved
    return mean


logger = logging.getLogger(__name__)

# τ from 100 down to 0.01, in half decades of δ.
LOG10_GRID = tuple(index / 2 for index in range(-8, 9))

# The grid need not be wider. With a narrower prior the posterior is a point, and the score stops
# changing. With a wider prior, probabilities tend to uniform on unfamiliar rows, which improves the
# NLL of a very overconfident network for the wrong reason.

_GOLDEN = (math.sqrt(5) - 1) / 2


def log_marginal_likelihood(
    log_likelihood: float,
    sq_norm: float,
    log_determinant: float,
    num_weights: int,
    precision: float,
) -> float:
    """Return the Laplace estimate of log p(D | δ) in nats.

    Args:
        log_likelihood: log p(D | θ̂), summed over rows.
        sq_norm: ‖θ̂ − M‖², with M the prior mean.
        log_determinant: log|H + δI|.
        num_weights: C d.
        precision: δ.
    """
    prior = num_weights * math.log(precision) - precision * sq_norm
    return log_likelihood + 0.5 * (prior - log_determinant)


def best_on_grid(score: Callable[[float], float], unit: float) -> float:
    """Return the precision on the grid with the largest score.

    Args:
        score: Score of a precision; larger is better.
        unit: Precision at log10 = 0.

    Raises:
        InputError: No score is finite.
    """
    scores = {power: score(unit * 10**power) for power in LOG10_GRID}
    finite = {power: value for power, value in scores.items() if math.isfinite(value)}
    if not finite:
        raise InputError("no prior precision has finite predictions")
    best = max(finite, key=finite.__getitem__)
    if best in (LOG10_GRID[0], LOG10_GRID[-1]):
        logger.warning(
            "the best prior precision, %g, is at the edge of the search", unit * 10**best
        )
    return unit * 10**best


def refine(score: Callable[[float], float], start: float, tolerance: float = 1e-4) -> float:
    """Return the precision near a grid point that maximises a smooth score (golden section).

    Args:
        score: Score of a precision; larger is better.
        start: The best precision on the grid.
        tolerance: In log10 of the precision.
    """
    half = LOG10_GRID[1] - LOG10_GRID[0]
    low, high = math.log10(start) - half, math.log10(start) + half
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    values = [score(10**power) for power in inner]
    while high - low > tolerance:
        if values[0] >= values[1]:
            high = inner[1]
            inner = [high - _GOLDEN * (high - low), inner[0]]
            values = [score(10 ** inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + _GOLDEN * (high - low)]
            values = [values[1], score(10 ** inner[1])]
    return float(10 ** ((low + high) / 2))

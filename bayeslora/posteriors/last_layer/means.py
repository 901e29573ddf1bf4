"""The means of a variational last layer, for fixed covariances.

Maximise over μ [C, d] the concave

    Σ_n [ m_{n,y_n} − Σ_k s_k lse(m_n + h_kn) ] − ‖μ‖² / (2σ0²),    m = Φ μᵀ,   h fixed

by preconditioned conjugate gradients (Polak-Ribière). The shifts h_k and their shares s_k are
defined in `vbll/bounds.py`. Along a direction the logits are m + t Δm, so the line search costs
K N C operations per step and never touches the features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora.posteriors.features import mean_logits, weight_gradient


@dataclass(frozen=True)
class MeanProblem:
    """The concave objective of the means.

    Attributes:
        features: [N, d] float64, or [N, C, d] for options, whose weights μ are one vector [1, d].
        targets: [N, C] one-hot labels, float64.
        shifts: [K, N, C], the shifts h_k of the logits inside the log-sum-exp.
        shares: [K], their weights s_k; they sum to one.
        prior_variance: σ0².
    """

    features: Tensor
    targets: Tensor
    shifts: Tensor
    shares: Tensor
    prior_variance: float

    def gradient(self, mean: Tensor, logits: Tensor) -> Tensor:
        """Return the objective's gradient, [C, d]."""
        probs = (logits + self.shifts).softmax(-1)
        residual = self.targets - torch.tensordot(self.shares, probs, 1)
        return weight_gradient(self.features, residual) - mean / self.prior_variance

    def line(self, mean: Tensor, logits: Tensor, direction: Tensor, change: Tensor) -> float:
        """Return the step along `direction` that maximises the objective, by safeguarded Newton."""
        linear = float((self.targets * change).sum())
        linear -= float((mean * direction).sum()) / self.prior_variance
        square = float(direction.square().sum()) / self.prior_variance
        base = logits + self.shifts

        def gain(step: float) -> float:
            normaliser = float((base + step * change).logsumexp(-1).sum(-1) @ self.shares)
            return step * linear - normaliser - 0.5 * step**2 * square

        step, best = 0.0, gain(0.0)
        for _ in range(8):
            probs = (base + step * change).softmax(-1)
            average = (probs * change).sum(-1)
            slope = linear - float(average.sum(-1) @ self.shares) - step * square
            variance = (probs * change.square()).sum(-1) - average.square()
            curvature = float(variance.sum(-1) @ self.shares) + square
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

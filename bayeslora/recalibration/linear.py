"""Softmax regression on log-probabilities, under a Gaussian prior around leaving them alone.

    z'_c = (1 + d_c) log p_c + b_c + Σ_{j≠c} O_cj log p_j,   p' = softmax(z')

    minimised: Σ_n −log p'_{n,y}  +  (‖d‖² + ‖b‖²) / 2τ²  +  ‖O‖² / 2τ_o²

The objective is strictly convex, so there is one optimum whatever the fit rows are: a class that
is absent from them is not driven to probability zero, and separated rows do not push the weights
to infinity. As N grows, the prior fades and the optimum becomes that of maximum likelihood. With
O left out this is vector scaling; with it, matrix scaling, whose off-diagonal and intercept
regularisation λ Σ O² / C(C−1) (ODIR; Kull et al. 2019, arXiv 1910.12656) is the prior with
λ = C(C−1) / 2Nτ_o².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from bayeslora.recalibration.common import one_hot
from bayeslora.recalibration.optimum import EXACT, minimise

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map of log-probabilities.

    Attributes:
        scale: [C] the factor 1 + d of a class's own log-probability.
        intercept: [C] nats.
        off_diagonal: [C, C] weights of the other classes' log-probabilities, zero on the diagonal;
            None where they have none.
    """

    scale: Array
    intercept: Array
    off_diagonal: Array | None = None

    def logits(self, logs: Array) -> Array:
        """Return z' [N, C] of log-probabilities [N, C]."""
        own = logs * self.scale + self.intercept
        return own if self.off_diagonal is None else own + logs @ self.off_diagonal.T


def fit_linear(
    logs: Array,
    labels: NDArray[np.int64],
    prior_scale: float,
    off_diagonal_scale: float | None = None,
    *,
    start: LinearMap | None = None,
    tolerance: float = EXACT,
) -> LinearMap:
    """Return the map that minimises the objective above.

    Args:
        logs: [N, C] log-probabilities, finite.
        labels: [N] class indices.
        prior_scale: τ, the prior standard deviation of d and of b (nats).
        off_diagonal_scale: τ_o, that of each entry of O; None leaves O out.
        start: Where the search starts; the identity if None.
        tolerance: See `optimum.minimise`.
    """
    rows, num_classes = logs.shape
    targets = one_hot(labels, num_classes)
    blocks = 2 if off_diagonal_scale is None else 2 + num_classes
    # In units of their prior deviations all parameters have a curvature of at least 1/N.
    scales = np.full((blocks, num_classes), float(prior_scale))
    scales[2:] = off_diagonal_scale or 0.0

    def objective(free: Array) -> tuple[float, Array]:
        changes = free.reshape(scales.shape) * scales
        logits = _unpacked(changes).logits(logs)
        loss = _nll(logits, labels).sum() + free @ free / 2
        residuals = softmax(logits, axis=1) - targets
        slopes = np.empty_like(scales)
        slopes[0], slopes[1] = (residuals * logs).sum(0), residuals.sum(0)
        if len(slopes) > 2:
            slopes[2:] = residuals.T @ logs
            np.fill_diagonal(slopes[2:], 0.0)
        return loss / rows, ((slopes * scales).ravel() + free) / rows

    first = np.zeros_like(scales) if start is None else _packed(start) / scales
    found = minimise(objective, first.ravel(), tolerance=tolerance)
    return _unpacked(found.reshape(scales.shape) * scales)


def mean_nll(found: LinearMap, logs: Array, labels: NDArray[np.int64]) -> float:
    """Return the mean NLL of some rows, nats."""
    return float(_nll(found.logits(logs), labels).mean())


def _nll(logits: Array, labels: NDArray[np.int64]) -> Array:
    return (
        np.asarray(logsumexp(logits, axis=1)) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    )


def _packed(given: LinearMap) -> Array:
    parts = [given.scale[None] - 1, given.intercept[None]]
    return np.concatenate(parts if given.off_diagonal is None else [*parts, given.off_diagonal])


def _unpacked(changes: Array) -> LinearMap:
    return LinearMap(1 + changes[0], changes[1], changes[2:] if len(changes) > 2 else None)

"""Choice of the prior precision δ of a Laplace approximation.

    log p(D | δ) ≈ log p(D | θ̂) − ½ δ ‖θ̂ − M‖² − ½ log|H + δI| + ½ C d log δ

or the NLL of held-out rows. Both are searched over log10 δ, relative to the features' mean squared
norm: δ = mean ‖φ‖² / τ² with τ the prior standard deviation of a logit.

Source: MacKay 1992; Immer et al. 2021, arXiv 2104.04975.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from bayeslora.errors import InputError

logger = logging.getLogger(__name__)

# τ from 100 down to 0.01, in half decades of δ.
LOG10_GRID = tuple(index / 2 for index in range(-8, 9))

# The grid need not be wider. With a narrower prior the posterior is a point, and the score stops
# changing. With a wider prior, probabilities tend to uniform on unfamiliar rows, which improves the
# NLL of a very overconfident network for the wrong reason.
_AT_THE_EDGE = {
    LOG10_GRID[
        0
    ]: "the widest prior does not compensate for the network's overconfidence; calibrate with "
    "posterior 'best' to compare others",
    LOG10_GRID[
        -1
    ]: "the narrowest prior leaves almost no uncertainty, so predictions are nearly the softmax "
    "of the mean weights",
}

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


def best_on_grid(score: Callable[[float], float], unit: float, name: str) -> float:
    """Return the precision on the grid with the largest score.

    Args:
        score: Score of a precision; larger is better.
        unit: Precision at log10 = 0.
        name: Name of the score, for messages.

    Raises:
        InputError: No score is finite.
    """
    scores = {power: score(unit * 10**power) for power in LOG10_GRID}
    finite = {power: value for power, value in scores.items() if math.isfinite(value)}
    if not finite:
        raise InputError(f"the {name} is not finite for any prior precision")
    best = max(finite, key=finite.__getitem__)
    if best in _AT_THE_EDGE:
        logger.warning(
            "the best prior precision by %s, %g, is at the edge of the search: %s",
            name,
            unit * 10**best,
            _AT_THE_EDGE[best],
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

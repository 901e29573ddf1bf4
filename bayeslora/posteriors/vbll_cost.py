"""What the closed-form fit of a variational last layer costs, before it runs.

A round of coordinate ascent over a dense covariance forms C matrices Σ_n w_nc φ_n φ_nᵀ, factorises
them and solves for N rows; all other families are led by the products of N rows with C weights:

    dense, full, low_rank   C r (2 N r + r²/3)  multiplications, r = min(N, d)
    diagonal                C N d, a hundred times or so in the inner search for the means

These are leading terms of the present code, in one place so that they can be retuned with it.
"""

from __future__ import annotations

from bayeslora.posteriors.config import VBLL

ROUNDS = 25
"""Rounds of a fit: measured 6 to 31 with empirical Bayes, at 2 to 100 classes."""

MEAN_STEPS = 120
"""Products of rows and weights in the search for the means, a round."""

DENSE_LIMIT = 5e10
"""Multiplications a round up to which `auto` takes a dense covariance: one or two minutes a fit on
one core of a current processor. 20 classes of 1,000 examples with 384 features take 6e9."""


def round_cost(family: str, num_classes: int, num_features: int, num_rows: int) -> float:
    """Return the multiplications of one round of the fit.

    Args:
        family: `dense`, `diagonal`, `low_rank` or `full`.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    means = float(MEAN_STEPS * num_classes * num_rows * num_features)
    if family == "diagonal":
        return means
    rank = min(num_rows, num_features)
    size = rank * (num_classes if family == "full" else 1)
    blocks = 1 if family == "full" else num_classes
    return means + blocks * size * (2.0 * num_rows * size + size * size / 3)


def fit_seconds(cost: float, rate: float) -> float:
    """Return the seconds of a fit.

    Args:
        cost: What `round_cost` returned.
        rate: Multiplications a second.
    """
    return ROUNDS * cost / rate


def family_for(config: VBLL, num_classes: int, num_features: int, num_rows: int) -> str:
    """Return the covariance of the final fit: what was asked for, or what `auto` stands for here.

    Args:
        config: What was asked for.
        num_classes: C.
        num_features: d.
        num_rows: N.
    """
    if config.covariance != "auto":
        return config.covariance
    cost = round_cost("dense", num_classes, num_features, num_rows)
    return "dense" if cost <= DENSE_LIMIT else "diagonal"
